"""Taking Parsl's name: first or not at all, and nothing of an installed Parsl is taken in."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import flowcore_compat_parsl
import pytest

import flowcore
from flowcore.errors import ConfigurationError


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the name parsl that is found before all others."""
    package = tmp_path / "site" / "parsl"
    (package / "extra").mkdir(parents=True)
    (package / "__init__.py").write_text("from parsl.config import Config\n")
    (package / "config.py").write_text("class Config: pass\n")
    (package / "extra" / "__init__.py").write_text("real = True\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield package
    for name in [n for n in sys.modules if n == "parsl" or n.startswith("parsl.")]:
        del sys.modules[name]


def test_ours_wins_when_it_is_installed_first(fake: Path) -> None:
    flowcore_compat_parsl.install()
    import parsl
    import parsl.dataflow.dflow

    assert parsl.Config.__module__ == "flowcore_compat_parsl.config"
    assert parsl.dataflow.dflow.DataFlowKernel.__module__ == "flowcore_compat_parsl.kernel"
    with pytest.raises(ModuleNotFoundError, match="No module named 'parsl.extra': flowcore has the modules that Parsl"):
        import parsl.extra  # noqa: F401
    assert not any(str(fake) in str(getattr(m, "__file__", "")) for n, m in sys.modules.items() if "parsl" in n)


def test_it_is_refused_when_the_real_one_was_imported(fake: Path) -> None:
    import parsl

    assert parsl.Config.__module__ == "parsl.config"
    with pytest.raises(ConfigurationError) as caught:
        flowcore_compat_parsl.install()
    assert f"parsl was imported before flowcore could take its name (from {fake}/__init__.py)" in str(caught.value)
    assert "flowcore run --parsl SCRIPT" in str(caught.value)
    assert not flowcore_compat_parsl.is_installed()
    assert parsl.Config.__module__ == "parsl.config"


def test_an_installed_parsl_is_neither_imported_nor_needed(tmp_path: Path) -> None:
    program = (
        "import sys, flowcore_compat_parsl; flowcore_compat_parsl.install()\n"
        "import parsl, parsl.configs.local_threads, parsl.executors, parsl.data_provider.data_manager\n"
        "parsl.load(parsl.configs.local_threads.config)\n"
        "assert parsl.python_app(lambda: 7)().result() == 7\n"
        "parsl.clear()\n"
        "print([n for n, m in sys.modules.items() if n.split('.')[0] == 'parsl' and getattr(m, '__file__', None)])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("[]\n", "", 0)


def test_installing_twice_is_installing_once() -> None:
    flowcore_compat_parsl.install()
    import parsl

    finders = list(sys.meta_path)
    flowcore_compat_parsl.install()
    assert sys.meta_path == finders
    assert sys.modules["parsl"] is parsl


def test_uninstalling_gives_the_name_back(fake: Path) -> None:
    flowcore_compat_parsl.uninstall()
    flowcore_compat_parsl.install()

    flowcore_compat_parsl.uninstall()
    assert not flowcore_compat_parsl.is_installed()
    assert "parsl" not in sys.modules
    assert importlib.util.find_spec("parsl").origin == str(fake / "__init__.py")


def test_importing_parsl_is_cheap(tmp_path: Path) -> None:
    program = (
        "import sys, flowcore_compat_parsl; flowcore_compat_parsl.install()\n"
        "import parsl, parsl.executors, parsl.providers, parsl.config, parsl.dataflow.dflow\n"
        "heavy = ('flowcore.kernel', 'flowcore.session', 'flowcore_executor_htex', 'stevedore', 'dill', 'zmq')\n"
        "print([m for m in sys.modules if m.startswith(heavy)])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


# --- what the modules are like


def test_the_version_is_that_of_the_documentation(parsl: ModuleType) -> None:
    from packaging.version import Version
    from parsl.version import VERSION

    assert parsl.__version__ == VERSION == "2024.04.29"
    assert Version("2024.4") <= Version(parsl.__version__) < Version("2024.5")


def test_dir_lists_names_and_modules(parsl: ModuleType) -> None:
    assert {"python_app", "HighThroughputExecutor", "providers", "__version__", "app"} <= set(dir(parsl))
    import parsl.dataflow

    assert {"dflow", "states"} <= set(dir(parsl.dataflow))


def test_modules_are_attributes_of_their_packages(parsl: ModuleType) -> None:
    # As with Parsl, whose own imports bring them in.
    assert parsl.providers.LocalProvider is flowcore.providers.LocalProvider
    assert parsl.app.app.python_app is parsl.python_app


def test_an_unknown_name_says_what_is_there(parsl: ModuleType) -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'AppTimeOut' \(did you mean 'AppTimeout'\?\)"):
        parsl.app.errors.AppTimeOut  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'pyton_app' from 'parsl'"):
        from parsl import pyton_app  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"'parsl.lunchers': .* \(did you mean 'launchers'\?\)") as caught:
        import parsl.lunchers  # noqa: F401
    assert caught.value.name == "parsl.lunchers"
    assert not hasattr(parsl, "__file__")


def test_a_star_import_takes_what_can_be_had(parsl: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, object] = {}
    exec("from parsl import *\nfrom parsl.providers import *", names)
    assert {"python_app", "Config", "ThreadPoolExecutor", "LocalProvider"} <= set(names)


def test_a_config_of_parsl_configs_is_one_object(parsl: ModuleType) -> None:
    from parsl.configs.local_threads import config
    from parsl.configs.local_threads import config as again

    assert config is again
    assert parsl.configs.local_threads.fresh_config() is not config


# --- the log


def test_the_stream_logger_shows_flowcores_log(parsl: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    logger = parsl.set_stream_logger()
    try:
        logging.getLogger("flowcore.kernel").debug("a line of the kernel")
    finally:
        logger.removeHandler(logger.handlers[-1])
        logger.setLevel(logging.NOTSET)
    assert "a line of the kernel" in capsys.readouterr().err


def test_the_file_logger_and_loggers_below(parsl: ModuleType, tmp_path: Path) -> None:
    logger = parsl.set_file_logger("log.txt", name="parsl.session", level=logging.INFO)
    try:
        logging.getLogger("flowcore.session").info("a line of the session")
        logging.getLogger("flowcore.kernel").info("a line of the kernel")
    finally:
        handler = logger.handlers[-1]
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(logging.NOTSET)
    assert "a line of the session" in (tmp_path / "log.txt").read_text()
    assert "a line of the kernel" not in (tmp_path / "log.txt").read_text()


def test_handlers_of_the_logger_parsl_get_the_log(parsl: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("parsl")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        with parsl.load(parsl.Config(initialize_logging=False)):
            pass
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(logging.NOTSET)
    assert any(r.name == "flowcore.session" and r.message.startswith("run ") for r in caplog.records)
