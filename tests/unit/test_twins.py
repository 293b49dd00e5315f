"""Equal cached calls at the same time: one runs, the others wait for it, whatever becomes of it meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

from flowcore import File, python_app
from flowcore.memoization import id_for_memo

WAIT_S = 60


def test_a_call_that_is_cancelled_while_its_key_is_made_holds_no_equal_call_up(load):
    inside, go = threading.Event(), threading.Event()

    class Slow:
        pass

    @id_for_memo.register(Slow)
    def _(value, output_ref=False):
        inside.set()
        assert go.wait(WAIT_S)
        return b"Slow"

    @python_app(cache=True)
    def call(value, dependency):
        return dependency

    dfk = load()
    dependency = Future()
    first = call(Slow(), dependency)
    # Its key is made in the thread that brings the last value.
    bringing = threading.Thread(target=dependency.set_result, args=(1,))
    bringing.start()
    try:
        assert inside.wait(WAIT_S)
        assert first.cancel()
    finally:
        go.set()
        bringing.join(WAIT_S)
    assert first.cancelled()
    assert not dfk.kernel._memoizer._computing, "an equal call would wait for the cancelled one"
    assert call(Slow(), 1).result(timeout=WAIT_S) == 1
    assert dfk.memo_hits == 0


def test_files_that_an_equal_call_is_making_anew_are_waited_for(load, tmp_path):
    beginning, half, go = threading.Event(), threading.Event(), threading.Event()
    path = tmp_path / "made.txt"

    @python_app(cache=True)
    def make(outputs=()):
        with Path(outputs[0]).open("w") as file:
            file.write("first half, ")
            file.flush()
            if beginning.is_set():
                half.set()
                assert go.wait(WAIT_S)
            file.write("second half")

    load()
    output = File(str(path))
    make(outputs=[output]).result(timeout=WAIT_S)
    path.unlink()
    beginning.set()
    first = make(outputs=[output])
    try:
        assert half.wait(WAIT_S)
        # The result of the first call is known, and its file is there, but only in part.
        second = make(outputs=[output])
        assert not second.done()
    finally:
        go.set()
    second.outputs[0].result(timeout=WAIT_S)
    assert path.read_text() == "first half, second half"
    first.result(timeout=WAIT_S)
    assert (first.task_status(), second.task_status()) == ("exec_done", "memo_done")
