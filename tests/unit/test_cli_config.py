"""``flowcore config``: what it accepts, what it says of what it refuses, and the schema against examples."""

import json
import subprocess
import sys

import jsonschema
import pytest
from click.testing import CliRunner

from flowcore.cli.main import cli
from flowcore.cli.schema import config_schema
from flowcore.config import Config
from flowcore.errors import ConfigurationError

GOOD = """
retries = 2
checkpoint_mode = "periodic"
run_dir = "elsewhere"

[[executors]]
plugin = "threads"
label = "pool"
max_threads = 4

[profiles.small]
retries = 0
checkpoint_mode = "task_exit"
executors = [{plugin = "threads", label = "one", max_threads = 1}]
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def check(text, *options, name="f.toml"):
    with open(name, "w") as file:
        file.write(text)
    return CliRunner().invoke(cli, ["config", "check", name, *options], prog_name="flowcore")


def test_summary(tmp_path):
    result = check(GOOD)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0] == ["f.toml:", "ok"]
    assert ["run", "directory", str(tmp_path / "elsewhere")] in lines
    assert ["retries", "2"] in lines
    assert ["checkpoint", "periodic,", "every", "00:30:00"] in lines
    assert ["pool", "ThreadPoolExecutor", "-", "-", "-", "-", "-"] in lines
    assert "Its profiles are ok, too: small." in result.output


def test_nothing_is_started(tmp_path):
    check(GOOD)
    assert [p.name for p in tmp_path.iterdir()] == ["f.toml"]


def test_profile():
    result = check(GOOD, "--profile", "small")
    assert result.output.startswith("f.toml: ok, profile small\n")
    lines = [line.split() for line in result.output.splitlines()]
    assert ["checkpoint", "task_exit"] in lines
    assert ["one", "ThreadPoolExecutor", "-", "-", "-", "-", "-"] in lines


def test_block_executor_is_shown_with_its_blocks(monkeypatch):
    from flowcore.builtin.local_provider import LocalProvider
    from flowcore.cli.config import _row
    from flowcore.plugins.executor import BlockExecutor

    class Blocks(BlockExecutor):
        label = "blocks"
        provider = LocalProvider(min_blocks=1, init_blocks=2, max_blocks=3)

    Blocks.__abstractmethods__ = frozenset()
    assert _row(Blocks()) == ("blocks", "Blocks", "LocalProvider", "SingleNodeLauncher", "1", "2", "3")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("retires = 3", (), "retires: Config has no option 'retires' (did you mean 'retries'?)"),
        ("retries = 'three'", (), "retries = 'three': expected int, got str"),
        ("retries = ", (), "f.toml is not TOML: "),
        ("executors = [{plugin = 'threads', max_thread = 1}]", (),
         "executors[0].max_thread: ThreadPoolExecutor has no option 'max_thread' (did you mean 'max_threads'?)"),
        ("executors = [{plugin = 'thread'}]", (), "executors[0].plugin: no executor 'thread' is installed"),
        ("executors = [{label = 'x'}]", (), "executors[0].plugin: the name of the executor is missing"),
        ("checkpoint_files = 'runinfo/000/checkpoint'", (),
         "f.toml: checkpoint_files = 'runinfo/000/checkpoint': expected Sequence[str | PathLike[str]] | None, got str"),
        ("run_dir = 3", (), "run_dir = 3: expected str | PathLike[str], got int"),
        ("profiles = 3", (), "f.toml: profiles must be tables, [profiles.NAME] each"),
        ("profiles.a = 3", ("--profile", "a"), "f.toml: profiles must be tables, [profiles.NAME] each"),
        ("[profiles.big]\nretries = -1", (), "profile big: "),
        ("[profiles.big]\nretries = 1", ("--profile", "bug"),
         "f.toml has no profile 'bug' (did you mean 'big'?); its profiles: big"),
    ],
)  # fmt: skip
def test_refusals(text, options, message):
    result = check(text, *options)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr


def test_missing_file():
    result = CliRunner().invoke(cli, ["config", "check", "nowhere.toml"])
    assert result.exit_code == 1
    assert result.stderr == "Error: cannot read the configuration nowhere.toml: No such file or directory\n"


# --- Python files


PYTHON = {
    "config": "from flowcore import Config\nconfig = Config(retries=3)",
    "a dict": "config = {'retries': 3}",
    "fresh_config": "import flowcore\ndef fresh_config():\n    return flowcore.Config(retries=3)",
    "a neighbour": "import neighbour\nconfig = neighbour.config",
    "a dataclass": (
        "from __future__ import annotations\n"
        "import dataclasses, flowcore\n"
        "@dataclasses.dataclass\nclass Options:\n    retries: dataclasses.InitVar[int] = 3\n"
        "config = flowcore.Config(retries=3)"
    ),
}


@pytest.mark.parametrize("kind", PYTHON)
def test_python_file(kind, tmp_path):
    (tmp_path / "neighbour.py").write_text(PYTHON["config"])
    path = list(sys.path)
    result = check(PYTHON[kind], name="c.py")
    sys.modules.pop("neighbour", None)
    assert result.exit_code == 0, result.stderr
    assert result.output.startswith("c.py: ok\n")
    assert ["retries", "3"] in [line.split() for line in result.output.splitlines()]
    assert sys.path == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "c.py, line 1: not Python: '(' was never closed"),
        ("x = 1", "c.py: it defines neither config (a flowcore.Config) nor fresh_config"),
        ("\nraise ValueError('boo')", "c.py, line 2: ValueError: boo"),
        ("import sys\nsys.exit('bye')", "c.py, line 2: SystemExit: bye"),
        ("from flowcore import Config\nconfig = Config(retries=-1)",
         "c.py, line 2: Config(retries=-1): must be at least 0"),
        ("import collections\nconfig = collections.Counter",
         "c.py: expected its configuration to be a flowcore.Config, got a builtins.type"),
        ("from flowcore.providers import FancyProvider",
         "c.py, line 1: ImportError: no provider class 'FancyProvider' is installed"),
        ("config = {'retires': 3}", "c.py: retires: Config has no option 'retires' (did you mean 'retries'?)"),
    ],
)  # fmt: skip
def test_python_file_refusals(text, message):
    result = check(text, name="c.py")
    assert result.exit_code == 1
    assert message in result.stderr


def test_profile_of_a_python_file():
    result = check(PYTHON["config"], "--profile", "big", name="c.py")
    assert result.exit_code == 1
    assert "--profile big: profiles are tables of TOML files, and c.py is Python; leave it out" in result.stderr


def test_missing_python_file():
    result = CliRunner().invoke(cli, ["config", "check", "nowhere.py"])
    assert result.stderr == "Error: cannot read the configuration nowhere.py: No such file or directory\n"


# --- the schema


@pytest.fixture(scope="module")
def validator():
    schema, problems = config_schema()
    assert problems == []
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


GOOD_CONFIGS = {
    "empty": {},
    "all of Config": {
        "executors": [{"plugin": "threads"}],
        "app_cache": True,
        "checkpoint_files": ["a", "b"],
        "checkpoint_mode": "periodic",
        "checkpoint_period": "01:00:00",
        "garbage_collect": False,
        "internal_tasks_max_threads": 3,
        "retries": 1,
        "retry_handler": "os.path:join",
        "run_dir": "runs",
        "strategy": "none",
        "strategy_period": 0.5,
        "max_idletime": 60,
        "usage_tracking": False,
        "initialize_logging": False,
        "hooks": [],
    },
    "nested components": {"executors": [{"plugin": "threads", "label": "x", "storage_access": [{"plugin": "noop"}]}]},
    "null": {"executors": None, "strategy": None, "checkpoint_mode": None, "checkpoint_files": None},
}

BAD_CONFIGS = {
    "unknown key": {"retires": 1},
    "wrong type": {"retries": "one"},
    "a float for an int": {"retries": 1.5},
    "unknown plugin": {"executors": [{"plugin": "thread"}]},
    "no plugin": {"executors": [{"label": "x"}]},
    "no list": {"executors": {"plugin": "threads"}},
    "no executor": {"executors": []},
    "unknown option": {"executors": [{"plugin": "threads", "max_thread": 1}]},
    "wrong type of an option": {"executors": [{"plugin": "threads", "max_threads": "1"}]},
    "wrong kind of component": {"executors": [{"plugin": "threads", "storage_access": [{"plugin": "local"}]}]},
    "one component for a list": {"executors": [{"plugin": "threads", "storage_access": {"plugin": "noop"}}]},
    "a mode that there is not": {"checkpoint_mode": "sometimes"},
    "a strategy that there is not": {"strategy": "clever"},
    "a period of another form": {"checkpoint_period": "30m"},
    "text for a list": {"checkpoint_files": "runinfo/000/checkpoint"},
    "no function": {"retry_handler": "not a reference"},
}


@pytest.mark.parametrize("name", GOOD_CONFIGS)
def test_schema_accepts_what_config_accepts(validator, name):
    validator.validate(GOOD_CONFIGS[name])
    Config.from_dict(GOOD_CONFIGS[name])


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_schema_refuses_what_config_refuses(validator, name):
    assert not validator.is_valid(BAD_CONFIGS[name])
    with pytest.raises(ConfigurationError):
        Config.from_dict(BAD_CONFIGS[name])


@pytest.mark.parametrize(("profiles", "good"), [
    ({"a": {"retries": 1}}, True),
    ({"a": {"retires": 1}}, False),
    ({"a": {"profiles": {}}}, False),
    ({"a": 1}, False),
])  # fmt: skip
def test_schema_of_profiles(validator, profiles, good):
    assert validator.is_valid({"profiles": profiles}) is good


def test_schema_of_each_plugin(validator):
    local = validator.schema["$defs"].get("provider.local")
    threads = validator.schema["$defs"]["executor.threads"]
    assert threads["title"] == "ThreadPoolExecutor"
    assert threads["properties"]["plugin"]["const"] == "threads"
    assert threads["properties"]["max_threads"] == {
        "description": "number of threads; None for four more than the processors, at most 32.",
        "default": 2, "type": ["integer", "null"]
    }  # fmt: skip
    assert threads["additionalProperties"] is False
    if local is not None:  # an executor with blocks is installed
        assert local["properties"]["launcher"]["$ref"] == "#/$defs/launcher"
        assert validator.schema["$defs"]["launcher.wrapped"]["required"] == ["plugin", "prepend"]


def test_schema_of_types():
    import enum
    import os
    import pathlib
    from collections.abc import Callable, Mapping, Sequence
    from typing import Annotated, Any, Literal

    from flowcore.builtin.local_channel import LocalChannel
    from flowcore.cli.schema import _Maker
    from flowcore.plugins.channel import Channel

    class Colour(enum.Enum):
        RED = 1

    of_type = _Maker().of_type
    assert of_type(Any) == {}
    assert of_type(bool | None) == {"type": ["boolean", "null"]}
    assert of_type(float | int) == {"type": "number"}
    assert of_type(Annotated[int, "x"]) == {"type": "integer"}
    assert of_type(Literal["a", 1]) == {"enum": ["a", 1]}
    assert of_type(str | os.PathLike[str]) == {"type": "string"}
    assert of_type(Sequence[int]) == {"type": "array", "items": {"type": "integer"}}
    assert of_type(list) == {"type": "array"}
    assert of_type(tuple[int, ...]) == {"type": "array", "items": {"type": "integer"}}
    assert of_type(tuple[int, str]) == {
        "type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2,
    }  # fmt: skip
    assert of_type(Mapping[str, int]) == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert of_type(dict[str, Any]) == {"type": "object"}
    assert of_type(Callable[..., Any]) == {"type": "string", "pattern": r"^[\w.]+:[\w.]+$"}
    assert of_type(Channel) == {"$ref": "#/$defs/channel"}
    assert of_type(LocalChannel) == {"oneOf": [{"$ref": "#/$defs/channel.local"}]}
    # No value in a file becomes one of these.
    assert of_type(pathlib.Path) is None
    assert of_type(Colour | None) is None
    assert of_type(set[int]) is None
    assert of_type(Sequence[Colour]) is None
    assert of_type(tuple[int, Colour]) is None


def test_schema_command_in_a_process():
    done = subprocess.run(
        [sys.executable, "-m", "flowcore.cli.main", "config", "schema"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_schema_says_what_it_leaves_out(monkeypatch):
    from flowcore.plugins import registry

    load_all = registry.load_all
    problem = "executor 'x' of y 1.0 failed to import: ImportError: z"
    monkeypatch.setattr(registry, "load_all", lambda kind: (load_all(kind)[0], [problem] * (kind == "executor")))
    result = CliRunner().invoke(cli, ["config", "schema"])
    assert result.exit_code == 0
    assert result.stderr == f"left out: {problem}\n"
    assert "executor.threads" in json.loads(result.stdout)["$defs"]


# --- show

BLOCKS = """
[[executors]]
plugin = "htex"
label = "nodes"
max_workers_per_node = 2
provider = {plugin = "local", worker_init = "module load python", launcher = {plugin = "simple"}}

[[executors]]
plugin = "threads"
label = "here"
"""


def show(text, *options):
    with open("f.toml", "w") as file:
        file.write(text)
    return CliRunner().invoke(cli, ["config", "show", "f.toml", *options], prog_name="flowcore")


def test_show_prints_every_option(tmp_path):
    result = show(BLOCKS)
    assert result.exit_code == 0, result.stderr
    lines = result.output.splitlines()
    assert "executors[0] = HighThroughputExecutor" in lines
    assert "executors[0].provider.launcher = SimpleLauncher" in lines
    assert "executors[0].provider.worker_init = 'module load python'" in lines
    assert "executors[0].heartbeat_period = 30" in lines
    assert "executors[1].label = 'here'" in lines
    assert "strategy = 'simple'" in lines
    assert [p.name for p in tmp_path.iterdir()] == ["f.toml"]


def test_show_keeps_secrets():
    from typing import Any

    import attrs

    from flowcore.cli.preview import flattened
    from flowcore.plugins.api import component

    @component
    class Secretive:
        name: str = "x"
        password: Any = attrs.field(default=None, repr=False)

    assert list(flattened(Secretive(password="hush"), "channel")) == [
        ("channel.name", "'x'"),
        ("channel.password", "(secret)"),
    ]
    assert dict(flattened(Secretive()))["password"] == "None"


def test_the_submit_script(tmp_path):
    result = show(BLOCKS, "--submit-script")
    assert result.exit_code == 0, result.stderr
    lines = result.output.splitlines()
    assert lines[:3] == ["#!/bin/bash", "export JOBNAME='flowcore.<run-id>.nodes.block-0'", "module load python"]
    assert any(f"{tmp_path}/runinfo/000/nodes/manager.json --block-id 0" in line for line in lines)
    assert subprocess.run(["bash", "-n"], input=result.output, text=True).returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["f.toml"]


def test_the_submit_script_is_what_hooks_make_of_it():
    with open("hooked.py", "w") as file:
        file.write(
            "import flowcore\n"
            "from flowcore.plugins.api import hookimpl\n"
            "from flowcore.executors import HighThroughputExecutor\n"
            "class Hooks:\n"
            "    @hookimpl\n"
            "    def flowcore_launch_command(self, command):\n"
            "        return 'nice ' + command\n"
            "    @hookimpl\n"
            "    def flowcore_submit_script(self, provider, script):\n"
            "        return script + f'# seen for {provider}\\n'\n"
            "config = flowcore.Config(executors=[HighThroughputExecutor()], hooks=[Hooks()])\n"
        )
    result = CliRunner().invoke(cli, ["config", "show", "hooked.py", "--submit-script"])
    assert result.exit_code == 0, result.stderr
    assert "nice /bin/bash -c " in result.output
    assert result.output.endswith("# seen for local\n")


def test_submit_scripts_of_several_executors():
    two = BLOCKS + BLOCKS.replace('"nodes"', '"more"').replace('"here"', '"there"')
    result = show(two, "--submit-script")
    assert [line for line in result.output.splitlines() if line.startswith("# executor")] == [
        "# executor nodes",
        "# executor more",
    ]
    result = show(two, "--submit-script", "--executor", "more")
    assert result.output.startswith("#!/bin/bash\nexport JOBNAME='flowcore.<run-id>.more.block-0'\n")


def test_no_script_to_show():
    result = show(BLOCKS, "--submit-script", "--executor", "here")
    assert result.exit_code == 2
    assert (
        "the configuration has no executor 'here' whose workers are in blocks; such are: nodes"
        in result.stderr.replace("\n", " ")
    )
    assert show("retries = 1\n", "--submit-script").exit_code == 2
    assert "--executor goes with --submit-script" in show(BLOCKS, "--executor", "nodes").stderr
