"""Apps of Parsl's programs: resource specifications, outputs by name, and the classes behind the decorators."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import flowcore
from flowcore.errors import ConfigurationError


@pytest.fixture
def asked(parsl: ModuleType) -> Iterator[list[dict[str, Any]]]:
    """The resource specifications that an executor was asked for; a run with this executor is loaded."""
    from parsl.executors.base import ParslExecutor

    specifications: list[dict[str, Any]] = []

    class Telling(ParslExecutor):
        label = "telling"

        def start(self) -> None:
            pass

        def submit(self, func: Any, resource_specification: Any, *args: Any, **kwargs: Any) -> Future[Any]:
            specifications.append(resource_specification)
            future: Future[Any] = Future()
            try:
                future.set_result(func(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)
            return future

        def shutdown(self) -> None:
            pass

    parsl.load(parsl.Config(executors=[Telling()]))
    yield specifications
    parsl.clear()


def test_the_specification_of_a_call(parsl: ModuleType, asked: list[dict[str, Any]]) -> None:
    @parsl.python_app
    def without(x: int) -> int:
        return x

    @parsl.python_app
    def with_it(x: int, parsl_resource_specification: Any = None) -> Any:
        return x, parsl_resource_specification

    @parsl.python_app
    def with_any(x: int, **rest: Any) -> Any:
        return rest

    assert without(1, parsl_resource_specification={"cores": 1}).result() == 1
    assert with_it(2, parsl_resource_specification={"cores": 2}).result() == (2, {"cores": 2})
    assert with_it(3, {"cores": 3}).result() == (3, {"cores": 3})
    assert with_it(4).result() == (4, None)
    assert with_any(5, parsl_resource_specification={"cores": 5}).result() == {
        "parsl_resource_specification": {"cores": 5}
    }
    assert without(6, resource_specification={"cores": 6}).result() == 6
    assert [a.get("cores") for a in asked] == [1, 2, 3, None, 5, 6]


def test_words_of_the_guide_in_a_specification(parsl: ModuleType, asked: list[dict[str, Any]]) -> None:
    @parsl.python_app
    def app() -> None:
        pass

    app(parsl_resource_specification={"num_nodes": 2, "num_tasks": 8, "ranks_per_node": 4}).result()
    app(parsl_resource_specification={"RANKS_PER_NODE": 4, "num_ranks": 8}).result()
    assert asked == [
        {"num_nodes": 2, "num_ranks": 8, "ranks_per_node": 4},
        {"ranks_per_node": 4, "num_ranks": 8},
    ]


def test_the_specification_in_a_signature(parsl: ModuleType, asked: list[dict[str, Any]]) -> None:
    @parsl.python_app
    def app(x: int, parsl_resource_specification: Any = {"cores": 1, "memory": 1000}) -> Any:  # noqa: B006
        return parsl_resource_specification["memory"]

    assert app(1).result() == 1000
    assert app(1, parsl_resource_specification={"memory": 5}).result() == 5
    assert asked == [{"cores": 1, "memory": 1000}, {"memory": 5}]


def test_the_specification_of_a_bash_app(parsl: ModuleType, asked: list[dict[str, Any]]) -> None:
    @parsl.bash_app
    def app(parsl_resource_specification: Any, stdout: str = "out") -> str:
        return f"echo {parsl_resource_specification['num_ranks']}"

    app(parsl_resource_specification={"num_ranks": 4}).result()
    assert Path("out").read_text().endswith("4\n")
    assert asked == [{"num_ranks": 4}]


def test_a_specification_that_is_no_dict(parsl: ModuleType, asked: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigurationError, match="resource_specification=4: expected a dict"):
        parsl.python_app(lambda: 0)(parsl_resource_specification=4)


def test_outputs_given_by_name(parsl: ModuleType) -> None:
    @parsl.bash_app
    def write(text: str, outputs: Any = ("default.txt",)) -> str:
        return f"echo {text} > {outputs[0]}"

    with parsl.load():
        future = write("named", outputs=["named.txt"])
        assert Path(future.outputs[0].result()).read_text() == "named\n"
        assert isinstance(future.outputs[0].result(), parsl.File)
        future = write("default")
        assert future.outputs[0].result().filepath == "default.txt"
        assert Path("default.txt").read_text() == "default\n"


def test_the_classes_behind_the_decorators(parsl: ModuleType) -> None:
    from parsl.app.app import AppBase
    from parsl.app.bash import BashApp
    from parsl.app.python import PythonApp

    @parsl.python_app
    def number() -> int:
        """Gives a number."""
        return 3

    assert isinstance(number, PythonApp) and isinstance(number, AppBase)
    assert number.__doc__ == "Gives a number." and number.__name__ == "number"
    with parsl.load() as kernel:
        assert AppBase(lambda x: x, kernel, "all", True, None)(1).result() == 1
        assert PythonApp(lambda x: x, kernel, cache=False, executors="all")(2).result() == 2
        assert PythonApp(lambda: number(), join=True)().result() == 3
        bash = BashApp(lambda stdout=None: "echo hello", ignore_for_cache=["stdout"])
        assert bash(stdout="out").result() == 0
    assert Path("out").read_text().endswith("hello\n")


def test_decorators_take_their_options(parsl: ModuleType) -> None:
    with parsl.load(parsl.Config(executors=[parsl.ThreadPoolExecutor(label="one")])) as kernel:
        assert parsl.python_app(executors=["one"], cache=True)(lambda: 1)().result() == 1
        assert parsl.bash_app(data_flow_kernel=kernel)(lambda: "true")().result() == 0
        assert (
            parsl.join_app(cache=False, ignore_for_cache=["x"])(lambda x: parsl.python_app(lambda: x)())(7).result()
            == 7
        )
        with pytest.raises(flowcore.errors.UnknownExecutorError, match="two"):
            parsl.python_app(lambda: 1, executors=["two"])()
    with pytest.raises(ConfigurationError, match="generator function"):

        @parsl.python_app
        def generator() -> Iterator[int]:
            yield 1


def test_an_app_of_a_class_is_a_method(parsl: ModuleType) -> None:
    class Box:
        size = 4

        @parsl.python_app
        def grown(self, by: int) -> int:
            return self.size + by

    with parsl.load():
        assert Box().grown(3).result() == 7


@pytest.mark.parametrize("kind", ["python_app", "bash_app", "join_app"])
def test_an_app_survives_a_trip(kind: str, parsl: ModuleType) -> None:
    app = getattr(parsl, kind)(pow, cache=True, ignore_for_cache=["mod"])
    back = pickle.loads(pickle.dumps(app))
    assert (type(back), repr(back), back.__wrapped__) == (type(app), repr(app), pow)
    assert back._info.cache and back._info.ignore_for_cache == ("mod",)
