"""Config: three doors to one object, and refusals that say where, what, and what was meant."""

from __future__ import annotations

import pathlib
import sys

import attrs
import pytest

import flowcore
from flowcore import Config
from flowcore.config import read_file
from flowcore.durations import seconds_of
from flowcore.errors import ConfigurationError, PluginNotFound
from flowcore.plugins.api import Executor


def refusal(function, *args, **kwargs):
    with pytest.raises(ConfigurationError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


# --- three doors

VALUES = {
    "run_dir": "runs",
    "retries": 3,
    "app_cache": True,
    "checkpoint_mode": "periodic",
    "checkpoint_period": "00:10:00",
    "strategy": "none",
    "max_idletime": 30,
    "executors": [
        {"plugin": "threads", "label": "a", "max_threads": 4},
        {"plugin": "threads", "label": "b", "thread_name_prefix": "x"},
    ],
}
TOML = """
run_dir = "runs"
retries = 3
app_cache = true
checkpoint_mode = "periodic"
checkpoint_period = "00:10:00"
strategy = "none"
max_idletime = 30

[[executors]]
plugin = "threads"
label = "a"
max_threads = 4

[[executors]]
plugin = "threads"
label = "b"
thread_name_prefix = "x"
"""


def test_three_doors_to_one_config(tmp_path):
    threads = flowcore.ThreadPoolExecutor
    objects = Config(
        **{
            **VALUES,
            "executors": [threads(label="a", max_threads=4), threads(label="b", thread_name_prefix="x")],
        }
    )
    (tmp_path / "c.toml").write_text(TOML)
    for other in (
        Config(**VALUES),
        Config.from_dict(VALUES),
        Config.from_file(tmp_path / "c.toml"),
        Config.from_file(str(tmp_path / "c.toml")),
    ):
        assert repr(other) == repr(objects)
        assert [type(e) for e in other.executors] == [threads, threads]


def test_mappings_and_objects_may_be_mixed():
    config = Config(executors=[flowcore.ThreadPoolExecutor(label="a"), {"plugin": "threads", "label": "b"}])
    assert [e.label for e in config.executors] == ["a", "b"]


def test_what_is_given_is_not_changed():
    values = {"executors": [{"plugin": "threads", "label": "a"}]}
    Config.from_dict(values)
    Config(**values)
    assert values == {"executors": [{"plugin": "threads", "label": "a"}]}


def test_defaults():
    config = Config()
    assert [type(e).__name__ for e in config.executors] == ["ThreadPoolExecutor"]
    assert (config.retries, config.app_cache, config.run_dir, config.strategy) == (0, True, "runinfo", "simple")
    assert (config.checkpoint_mode, config.checkpoint_files, config.retry_handler) == (None, None, None)
    assert (config.strategy_period, config.max_idletime, config.garbage_collect) == (5, 120.0, True)
    assert (config.usage_tracking, config.initialize_logging, config.internal_tasks_max_threads) == (False, True, 10)
    assert Config().executors[0] is not config.executors[0]


def test_options_that_take_functions_can_be_named():
    config = Config.from_dict({"retry_handler": "os.path:join"})
    assert config.retry_handler is __import__("os").path.join


def test_a_path_is_a_run_dir(tmp_path):
    assert Config(run_dir=tmp_path).run_dir == tmp_path


# --- files


def test_profiles(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('retries = 1\nrun_dir = "a"\n[profiles.cluster]\nretries = 5\n[profiles.laptop]\nrun_dir = "b"\n')
    assert (Config.from_file(file).retries, Config.from_file(file).run_dir) == (1, "a")
    assert (Config.from_file(file, "cluster").retries, Config.from_file(file, "cluster").run_dir) == (5, "a")
    assert Config.from_file(file, "laptop").run_dir == "b"
    assert read_file(file, "cluster") == {"retries": 5, "run_dir": "a"}


def test_missing_profile(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[profiles.cluster]\nretries = 5\n[profiles.laptop]\n")
    assert refusal(Config.from_file, file, "clutser") == (
        f"{file} has no profile 'clutser' (did you mean 'cluster'?); its profiles: cluster, laptop"
    )
    file.write_text("retries = 5\n")
    assert refusal(Config.from_file, file, "x") == f"{file} has no profile 'x'; its profiles: none"


@pytest.mark.parametrize("text", ["profiles = 3", '[profiles]\nx = "y"', "profiles = []"])
def test_profiles_that_are_no_tables(tmp_path, text):
    (tmp_path / "c.toml").write_text(text)
    assert "[profiles.NAME]" in refusal(Config.from_file, tmp_path / "c.toml", "x")


def test_file_that_is_not_there():
    assert refusal(Config.from_file, "missing.toml") == (
        "cannot read the configuration missing.toml: No such file or directory"
    )


def test_file_that_is_a_folder(tmp_path):
    assert refusal(Config.from_file, tmp_path) == f"cannot read the configuration {tmp_path}: Is a directory"


def test_file_that_is_not_toml(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("retries: 3\n")
    text = refusal(Config.from_file, file)
    assert text.startswith(f"{file} is not TOML: ")
    assert "line 1" in text
    assert "Python" not in text


def test_python_file(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("from flowcore import Config\nconfig = Config()\n")
    text = refusal(Config.from_file, file)
    assert text.startswith(f"{file} is not TOML: ")
    assert text.endswith("It is a Python file: import its Config object and pass that to flowcore.load()")


def test_file_that_is_no_text(tmp_path):
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xff\xfe\x00")
    assert refusal(Config.from_file, file).startswith(f"{file} is not TOML: it is not UTF-8 text")


def test_errors_in_a_file_name_the_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("retires = 3\n")
    assert refusal(Config.from_file, file).startswith(
        f"{file}: retires: Config has no option 'retires' (did you mean 'retries'?); its options: executors, "
    )
    file.write_text('[[executors]]\nplugin = "threads"\nmax_threads = "4"\n')
    assert refusal(Config.from_file, file) == f"{file}: executors[0].max_threads = '4': expected int | None, got str"


# --- unknown options


def test_unknown_option_in_python():
    text = refusal(Config, retires=3)
    assert text.startswith("Config has no option 'retires' (did you mean 'retries'?); its options: executors, ")


def test_unknown_option_of_a_component():
    known = "its options: label, max_threads, thread_name_prefix, storage_access, working_dir"
    wanted = f"ThreadPoolExecutor has no option 'max_thread' (did you mean 'max_threads'?); {known}"
    assert refusal(flowcore.ThreadPoolExecutor, max_thread=1) == wanted
    entry = {"plugin": "threads", "max_thread": 1}
    assert refusal(Config, executors=[entry]) == f"executors[0].max_thread: {wanted}"
    good = {"plugin": "threads", "label": "good"}
    assert refusal(Config.from_dict, {"executors": [good, entry]}) == f"config: executors[1].max_thread: {wanted}"


def test_unknown_option_without_a_close_match():
    text = refusal(Config.from_dict, {"zzz": 1})
    assert text.startswith("config.zzz: Config has no option 'zzz'; its options: ")


# --- wrong types


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("retries", "3", "expected int, got str"),
        ("retries", 1.5, "expected int, got float"),
        ("app_cache", "yes", "expected bool, got str"),
        ("run_dir", 3, "expected str | PathLike[str], got int"),
        ("strategy", 3, "expected str | None, got int"),
        ("max_idletime", "long", "expected float, got str"),
        ("checkpoint_mode", 3, "expected str | None, got int"),
        ("initialize_logging", None, "expected bool, got NoneType"),
    ],
)
def test_wrong_types(option, value, expected):
    assert refusal(Config, **{option: value}) == f"Config({option}={value!r}): {expected}"
    assert refusal(Config.from_dict, {option: value}) == f"config.{option} = {value!r}: {expected}"


def test_wrong_type_of_a_function():
    assert refusal(Config, retry_handler=3) == "Config(retry_handler=3): expected Callable[..., Any] | None, got int"


@pytest.mark.parametrize("name", ["no_such_module:f", "os:no_such_function", "os.path:join.x"])
def test_function_that_cannot_be_imported(name):
    text = refusal(Config.from_dict, {"retry_handler": name})
    assert text.startswith(f"config.retry_handler = {name!r}: cannot be imported as module:name: ")


def test_one_path_instead_of_a_list_of_paths():
    assert "checkpoint_files='runinfo'" in refusal(Config, checkpoint_files="runinfo")


@pytest.mark.parametrize("option", ["retries", "max_idletime", "internal_tasks_max_threads", "strategy_period"])
def test_values_that_are_too_small(option):
    assert refusal(Config, **{option: -1}).startswith(f"Config({option}=-1): must be at least ")


# --- executors


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "Config(executors=[]): a run needs at least one executor; leave it out for threads"),
        ("threads", "Config(executors='threads'): expected a list of executors, got str"),
        (3, "Config(executors=3): expected a list of executors, got int"),
        (
            {"plugin": "threads"},
            "Config(executors={'plugin': 'threads'}): expected a list of executors, got dict; in TOML each has a "
            "table of its own, [[executors]]",
        ),
        (
            ["threads"],
            "executors[0]: expected an Executor or a dict with the key 'plugin', got 'threads' of type str",
        ),
        (
            [{"plugin": "threads"}, {"plugin": "threads"}],
            "executors[0] and executors[1] have one label, 'threads': "
            "give each a label of its own, by which apps can name it",
        ),
        (
            [{"plugin": "threads", "label": "_flowcore_x"}],
            "executors[0]: labels that begin with _flowcore are the core's own",
        ),
        (
            [{"plugin": "threads", "max_threads": 0}],
            "executors[0]: ThreadPoolExecutor(max_threads=0): must be at least 1",
        ),
        ([{"plugin": "threads", "max_threads": "2"}], "executors[0].max_threads = '2': expected int | None, got str"),
    ],
)
def test_wrong_executors(value, text):
    assert refusal(Config, executors=value) == text
    assert refusal(Config.from_dict, {"executors": value}) == f"config: {text}"


def test_one_executor_that_is_not_in_a_list():
    executor = flowcore.ThreadPoolExecutor()
    assert refusal(Config, executors=executor).endswith("expected a list of executors, got ThreadPoolExecutor")


def test_unknown_plugin():
    text = refusal(Config, executors=[{"plugin": "thread"}])
    wanted = "executors[0].plugin: no executor 'thread' is installed (did you mean 'threads'?); installed: "
    assert text.startswith(wanted)


@pytest.mark.parametrize("entry", [{}, {"label": "x"}, {"plugin": 3}])
def test_missing_plugin(entry):
    text = refusal(Config, executors=[entry])
    assert text.startswith("executors[0].plugin: the name of the executor is missing; installed: ")
    assert "threads" in text


def test_an_executor_of_the_users_own():
    @attrs.define(slots=False)
    class Mine(Executor):
        label: str = "mine"

        def start(self, context): ...
        def submit(self, attempt): ...
        def shutdown(self): ...

    assert Config(executors=[Mine()]).executors[0].label == "mine"


# --- checkpoints, strategy


def test_checkpoint_mode():
    for mode in ("task_exit", "periodic", "dfk_exit", "manual", None):
        assert Config(checkpoint_mode=mode).checkpoint_mode == mode
    assert refusal(Config, checkpoint_mode="task_exits") == (
        "Config(checkpoint_mode='task_exits'): expected one of 'task_exit', 'periodic', 'dfk_exit', 'manual' or None "
        "(did you mean 'task_exit'?)"
    )


def test_combinations_that_cannot_work():
    assert refusal(Config, checkpoint_mode="task_exit", app_cache=False) == (
        "Config(checkpoint_mode='task_exit', app_cache=False): only cached results are checkpointed; "
        "set app_cache=True or leave checkpoint_mode out"
    )
    assert refusal(Config, checkpoint_period="00:10:00", checkpoint_mode="manual") == (
        "Config(checkpoint_period='00:10:00') is for checkpoint_mode='periodic', and checkpoint_mode is 'manual'"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:00:01", 1), ("00:30:00", 1800), ("100:00:00", 360000), ("1:2:3", 3723), ("1-02:00:00", 93600)],
)
def test_periods(text, seconds):
    assert seconds_of(text) == seconds
    assert Config(checkpoint_mode="periodic", checkpoint_period=text).checkpoint_period == text


@pytest.mark.parametrize("text", ["", "30", "30:00", "00:00:00", "00:60:00", "00:00:60", "-1:00:00", "1h"])
def test_wrong_periods(text):
    assert refusal(Config, checkpoint_mode="periodic", checkpoint_period=text) == (
        f"checkpoint_period={text!r}: expected HH:MM:SS or D-HH:MM:SS, for example '00:30:00', and more than 0"
    )


def test_strategy():
    assert Config(strategy=None).strategy is None
    with pytest.raises(PluginNotFound) as caught:
        Config(strategy="simpel")
    assert str(caught.value).startswith("no strategy 'simpel' is installed (did you mean 'simple'?); installed: ")


# --- one use


def test_a_config_is_used_once(tmp_path):
    config = Config(run_dir=tmp_path, initialize_logging=False)
    with flowcore.load(config):
        pass
    assert refusal(flowcore.load, config) == (
        "this Config was loaded before, and its executors cannot start again: "
        "make a fresh one for each run, for example in a function that returns it"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000"]


def test_repr_shows_the_options():
    text = repr(Config(retries=7, run_dir=pathlib.Path("x")))
    assert "retries=7" in text
    assert "ThreadPoolExecutor(label='threads', max_threads=2" in text


def test_usage_tracking_is_an_option():
    assert Config(usage_tracking=True).usage_tracking is True
    assert "usage_tracking" in refusal(Config, usage_tracking="yes")


def test_options_may_be_set_later_and_misspelt_ones_are_refused():
    config = Config()
    config.retries = 2
    assert config.retries == 2
    with pytest.raises(ConfigurationError, match=r"Config has no option 'retrys' \(did you mean 'retries'\?\); its op"):
        config.retrys = 3
    with pytest.raises(ConfigurationError, match=r"Config\(retries='3'\): expected int, got str"):
        config.retries = "3"


def test_functions_beside_the_file(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "costs_of_a_site.py").write_text("def cost(error, task):\n    return 2\n")
    (folder / "flowcore.toml").write_text("retries = 1\nretry_handler = 'costs_of_a_site:cost'\n")
    before = list(sys.path)
    config = Config.from_file(folder / "flowcore.toml")
    assert config.retry_handler(None, None) == 2
    assert sys.path == before
    del sys.modules["costs_of_a_site"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[[executors]]\nplugin = 'htex'\nprovider = 'local'",
            "got str; a plugin is named with its options, { plugin = 'local' }",
        ),
        ("retry_handler = 'cost'", 'got str; a function is named "module:name"'),
        ("[executors]\nplugin = 'threads'", "got dict; in TOML each has a table of its own, [[executors]]"),
    ],
)
def test_how_to_write_what_was_meant(tmp_path, text, message):
    if "htex" in text:
        pytest.importorskip("flowcore_executor_htex")
    file = tmp_path / "flowcore.toml"
    file.write_text(text)
    assert message in refusal(Config.from_file, file)


@pytest.mark.parametrize("name", ["monitoring", "hooks"])
def test_the_name_of_a_plugin_with_hooks_is_no_hook(name):
    with pytest.raises(ConfigurationError, match=r'\{ plugin = "monitoring" \} in TOML'):
        flowcore.Config(**{name: "monitoring" if name == "monitoring" else ["monitoring"]})
