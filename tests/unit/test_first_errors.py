"""What a newcomer gets wrong first, and the text that puts them right."""

from __future__ import annotations

import pytest

import flowcore
from flowcore import Config, bash_app, join_app, python_app, serialize
from flowcore.errors import (
    AlreadyLoadedError,
    ConfigurationError,
    NoKernelError,
    PluginNotFound,
    SerializationError,
    UnknownExecutorError,
)


@python_app
def hello():
    return "hello"


def test_calling_an_app_before_load():
    with pytest.raises(NoKernelError) as caught:
        hello()
    assert str(caught.value) == (
        "app 'hello' was called, and no configuration is loaded: call flowcore.load() first, "
        "or give the decorator data_flow_kernel="
    )


@pytest.mark.parametrize("decorator", [python_app, bash_app, join_app])
def test_calling_any_kind_of_app_before_load(decorator):
    def work(x, stdout=None):
        return x

    with pytest.raises(NoKernelError, match="app 'work' was called"):
        decorator(work)(1, stdout="x")


@pytest.mark.parametrize("ask", [flowcore.dfk, flowcore.wait_for_current_tasks])
def test_asking_for_the_run_before_load(ask):
    with pytest.raises(NoKernelError) as caught:
        ask()
    assert str(caught.value) == "no configuration is loaded: call flowcore.load() first"


def test_loading_twice(load, tmp_path):
    load()
    with pytest.raises(AlreadyLoadedError) as caught:
        load()
    assert str(caught.value) == (
        f"a configuration is loaded already (run directory {tmp_path / 'runinfo' / '000'}): call flowcore.clear() "
        "first, or end its `with` block, or pass data_flow_kernel= to apps to use several at once"
    )
    assert hello().result(timeout=60) == "hello"  # the first one is whole


def test_an_unknown_plugin():
    with pytest.raises(ConfigurationError) as caught:
        flowcore.load({"executors": [{"plugin": "thread"}]})
    assert str(caught.value).startswith(
        "config: executors[0].plugin: no executor 'thread' is installed (did you mean 'threads'?); installed: "
    )


def test_a_plugin_that_is_not_installed(monkeypatch):
    from flowcore.plugins import registry

    monkeypatch.setattr(registry, "installed", lambda kind: [])
    with pytest.raises(PluginNotFound) as caught:
        registry.find("channel", "ssh")
    assert str(caught.value) == "channel 'ssh' is not installed: pip install flowcore-channel-ssh"
    with pytest.raises(ImportError) as caught_too:
        from flowcore.channels import SSHChannel  # noqa: F401
    assert str(caught_too.value) == "SSHChannel is not installed: pip install flowcore-channel-ssh"


def test_a_name_that_flowcore_does_not_have():
    with pytest.raises(ImportError, match="cannot import name 'pythonapp' from 'flowcore'"):
        from flowcore import pythonapp  # noqa: F401
    with pytest.raises(AttributeError, match="module 'flowcore' has no attribute 'pythonapp'"):
        flowcore.pythonapp  # noqa: B018


def test_an_unknown_option():
    with pytest.raises(ConfigurationError) as caught:
        Config(retry=3)
    assert str(caught.value).startswith("Config has no option 'retry' (did you mean 'retries'?); its options: ")


def test_a_wrong_type():
    with pytest.raises(ConfigurationError) as caught:
        Config(retries="3")
    assert str(caught.value) == "Config(retries='3'): expected int, got str"


def test_an_executor_label_that_does_not_exist(load):
    load(executors=[flowcore.ThreadPoolExecutor(label="workers")])
    app = python_app(hello.__wrapped__, executors=["worker"])
    with pytest.raises(UnknownExecutorError) as caught:
        app()
    assert str(caught.value) == (
        "app 'hello' wants executor 'worker', which the configuration does not have (did you mean 'workers'?); "
        "its executors: workers"
    )


def test_an_argument_that_cannot_be_sent():
    lines = (line for line in "abc")
    with pytest.raises(SerializationError) as caught:
        serialize.dumps_call("count", (1,), {"lines": lines})
    assert str(caught.value) == (
        "argument 'lines' (of type generator) of app 'count' cannot be serialized: TypeError: cannot pickle "
        "'generator' object. Pass what is needed to make the object (a path, a connection string) and make it inside "
        "the app, or give its class a __reduce__ method."
    )


def test_a_config_file_that_is_not_toml(tmp_path):
    file = tmp_path / "flowcore.toml"
    file.write_text("executors:\n  - threads\n")
    with pytest.raises(ConfigurationError) as caught:
        flowcore.load(file)
    assert str(caught.value).startswith(f"{file} is not TOML: ")


def test_a_config_file_that_is_not_there():
    with pytest.raises(ConfigurationError) as caught:
        flowcore.load("flowcore.toml")
    assert str(caught.value) == "cannot read the configuration flowcore.toml: No such file or directory"


def test_something_else_than_a_config():
    with pytest.raises(ConfigurationError) as caught:
        flowcore.load(3)
    assert str(caught.value) == ("flowcore.load() takes a Config, a dict, or the path of a TOML file, got int")


def test_a_call_after_the_with_block(load):
    with load():
        assert hello().result(timeout=60) == "hello"
    with pytest.raises(NoKernelError, match="app 'hello' was called, and no configuration is loaded"):
        hello()


def test_a_bash_app_without_return(load):
    @bash_app
    def say():
        "echo hello"

    load()
    assert str(say().exception(timeout=60)) == (
        "bash_app 'say' must return its command line as a string, it returned None of type NoneType; "
        "does it lack a return?"
    )


def test_a_join_app_that_returns_a_value(load):
    @join_app
    def both():
        return hello().result()

    load()
    assert str(both().exception(timeout=60)) == (
        "join_app 'both' must return a future or a list of futures, got 'hello' of type str. "
        "Return what calling an app gives; a plain value is the business of a python_app"
    )
