"""Checkpoints: results that outlive their run, whatever ended it."""

from __future__ import annotations

import errno
import logging
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import zlib

import pytest

import flowcore
from flowcore import python_app
from flowcore.checkpoints import get_all_checkpoints, get_last_checkpoint
from flowcore.errors import BadCheckpoint
from flowcore.kernel import checkpoint
from flowcore.kernel.checkpoint import CheckpointFile

WAIT_S = 60
CALLS: list = []


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@python_app(cache=True)
def double(x):
    CALLS.append(x)
    return 2 * x


def stored(dfk):
    folder = dfk.run_dir / "checkpoint"
    return sorted(checkpoint.load([folder]).values()) if folder.exists() else []


# --- modes


def test_task_exit(load):
    dfk = load(checkpoint_mode="task_exit")
    for n in range(3):
        double(n).result(timeout=WAIT_S)
        # On disk before the user sees the result.
        assert stored(dfk) == [2 * i for i in range(n + 1)]


def test_manual(load):
    dfk = load(checkpoint_mode="manual")
    double(1).result(timeout=WAIT_S)
    assert stored(dfk) == []
    assert dfk.checkpoint() == str(dfk.run_dir / "checkpoint")
    assert stored(dfk) == [2]
    double(2).result(timeout=WAIT_S)
    dfk.checkpoint()
    assert stored(dfk) == [2, 4]
    double(3).result(timeout=WAIT_S)
    flowcore.clear()
    assert stored(dfk) == [2, 4]  # what the user did not ask for is not written


def test_dfk_exit(load):
    dfk = load(checkpoint_mode="dfk_exit")
    double(1).result(timeout=WAIT_S)
    assert stored(dfk) == []
    flowcore.clear()
    assert stored(dfk) == [2]


def test_periodic(load, monkeypatch):
    written = threading.Event()
    append = CheckpointFile.append

    def told(self, results):
        append(self, results)
        if self.written:
            written.set()

    monkeypatch.setattr(CheckpointFile, "append", told)
    dfk = load(checkpoint_mode="periodic", checkpoint_period="00:00:01")
    double(1).result(timeout=WAIT_S)
    assert written.wait(WAIT_S)
    assert stored(dfk) == [2]
    double(2).result(timeout=WAIT_S)
    flowcore.clear()  # and once more at the end
    assert stored(dfk) == [2, 4]


def test_no_mode(load):
    dfk = load()
    double(1).result(timeout=WAIT_S)
    assert dfk.checkpoint() is None
    flowcore.clear()
    assert not (dfk.run_dir / "checkpoint").exists()


@pytest.mark.parametrize("mode", ["task_exit", "dfk_exit"])
def test_only_results_of_cached_apps_are_written(load, mode):
    @python_app
    def plain(x):
        return x

    @python_app(cache=True)
    def bad(x):
        raise ValueError

    dfk = load(checkpoint_mode=mode)
    plain(5).result(timeout=WAIT_S)
    bad(5).exception(timeout=WAIT_S)
    double(1).result(timeout=WAIT_S)
    double(1).result(timeout=WAIT_S)  # a hit is not written again
    flowcore.clear()
    assert stored(dfk) == [2]
    assert len(list(checkpoint.read(dfk.run_dir / "checkpoint" / checkpoint.FILE_NAME, []))) == 1


# --- resuming


def test_resume(load, tmp_path):
    load(checkpoint_mode="task_exit")
    assert [double(i).result(timeout=WAIT_S) for i in range(5)] == [0, 2, 4, 6, 8]
    flowcore.clear()
    CALLS.clear()
    dfk = load(checkpoint_files=get_all_checkpoints(tmp_path / "runinfo"))
    assert [double(i).result(timeout=WAIT_S) for i in range(6)] == [0, 2, 4, 6, 8, 10]
    assert CALLS == [5]
    assert dfk.memo_hits == 5


def test_resume_from_several_runs(load, tmp_path):
    for n in range(3):
        load(checkpoint_mode="dfk_exit")
        double(n).result(timeout=WAIT_S)
        flowcore.clear()
    base = tmp_path / "runinfo"
    assert get_all_checkpoints(base) == [str(base / f"{n:03}" / "checkpoint") for n in range(3)]
    assert get_last_checkpoint(base) == [str(base / "002" / "checkpoint")]
    CALLS.clear()
    load(checkpoint_files=get_last_checkpoint(base))
    assert [double(n).result(timeout=WAIT_S) for n in range(3)] == [0, 2, 4]
    assert sorted(CALLS) == [0, 1]


def test_runs_are_ordered_by_number_and_those_without_a_checkpoint_are_left_out(tmp_path):
    for name in ("002", "010", "1000", "999", "junk", "0x1"):
        folder = tmp_path / name / "checkpoint"
        folder.mkdir(parents=True)
        if name != "999":
            (folder / checkpoint.FILE_NAME).write_bytes(checkpoint.MAGIC)
    names = [pathlib.Path(p).parent.name for p in get_all_checkpoints(tmp_path)]
    assert names == ["002", "010", "1000"]


def test_nothing_to_resume_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert get_all_checkpoints() == []
    assert get_last_checkpoint() == []
    assert get_all_checkpoints(tmp_path / "missing") == []


def test_later_results_win(tmp_path):
    for n in range(2):
        file = CheckpointFile(tmp_path / str(n))
        file.append([("key", n)])
        file.close()
    assert checkpoint.load([tmp_path / "0", tmp_path / "1"]) == {"key": 1}
    assert checkpoint.load([tmp_path / "1", tmp_path / "0"]) == {"key": 0}


def test_places(tmp_path):
    file = CheckpointFile(tmp_path / "000" / "checkpoint")
    file.append([("key", 1)])
    file.close()
    for place in ("000", "000/checkpoint", f"000/checkpoint/{checkpoint.FILE_NAME}"):
        assert checkpoint.load([str(tmp_path / place)]) == {"key": 1}


def test_a_place_that_does_not_exist(load):
    with pytest.raises(BadCheckpoint) as caught:
        load(checkpoint_files=["/nowhere/000/checkpoint"])
    assert str(caught.value) == (
        "checkpoint /nowhere/000/checkpoint does not exist; "
        "flowcore.checkpoints.get_all_checkpoints() lists those there are"
    )
    load()  # nothing was left behind


def test_a_folder_without_a_checkpoint(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "flowcore"):
        assert checkpoint.load([tmp_path]) == {}
    assert f"{tmp_path} holds no checkpoint; nothing is loaded from it" in caplog.text


# --- files that were cut off or damaged

RECORDS = [("a", 1), ("b", {"x": [1, 2]}), ("c", "text" * 10)]


@pytest.fixture
def made(tmp_path):
    """Return a checkpoint file, its bytes, and where its records end."""
    folder = tmp_path / "made"
    file = CheckpointFile(folder)
    path = folder / checkpoint.FILE_NAME
    ends = []
    for record in RECORDS:
        file.append([record])
        ends.append(path.stat().st_size)
    file.close()
    return path, path.read_bytes(), ends


def read_all(path):
    """Return the records, and a text on all that was left out."""
    skipped = []
    try:
        found = list(checkpoint.read(path, skipped))
    except BadCheckpoint as error:
        return [], str(error)
    return found, "; ".join(skipped) or None


def test_cut_off_at_every_byte(made):
    path, data, ends = made
    start = len(checkpoint.MAGIC)
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        complete = sum(end <= length for end in ends)
        found, problem = read_all(path)
        assert found == RECORDS[:complete], length
        if length < start:
            assert problem == f"{path} is no flowcore checkpoint: it does not begin with {checkpoint.MAGIC!r}"
        elif length in (start, *ends):
            assert problem is None
        else:
            at = [start, *ends][complete]
            assert problem == f"{path}: its last record, at byte {at}, is cut off or damaged"


def test_every_damaged_byte_is_noticed_and_loses_its_own_record_only(made):
    path, data, ends = made
    for position in range(len(checkpoint.MAGIC), len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        found, problem = read_all(path)
        hit = sum(end <= position for end in ends)
        assert found == RECORDS[:hit] + RECORDS[hit + 1 :], position
        assert problem is not None
        assert str(path) in problem


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_garbage_between_records(made, size):
    path, data, ends = made
    garbage = (checkpoint.MARK + bytes(random.Random(size).randbytes(size)))[-size:]
    path.write_bytes(data[: ends[0]] + garbage + data[ends[0] :])
    found, problem = read_all(path)
    assert found == RECORDS
    assert problem == f"{path}: bytes {ends[0]} to {ends[0] + size} are damaged"


def test_a_mark_across_two_blocks_of_the_search(made, monkeypatch):
    path, data, ends = made
    for size in range(16, 40):
        monkeypatch.setattr(checkpoint, "_SCAN_BYTES", size)
        path.write_bytes(data[: ends[0] - 1] + data[ends[0] :])
        assert read_all(path)[0] == RECORDS[1:]


def test_a_length_beyond_the_file_is_not_believed(made):
    path, data, ends = made
    head = checkpoint._head(b"")
    huge = struct.pack(">4sQI", checkpoint.MARK, 2**60, 0)
    path.write_bytes(data[: ends[0]] + huge + struct.pack(">I", zlib.crc32(huge)) + data[ends[0] :])
    assert read_all(path)[0] == RECORDS
    assert len(head) == len(huge) + 4


def test_loading_says_what_it_skipped(made, caplog):
    path, data, ends = made
    damaged = bytearray(data[: ends[2] - 3])
    damaged[ends[0] - 1] ^= 1
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING, "flowcore"):
        assert checkpoint.load([path]) == dict(RECORDS[1:2])
    start = len(checkpoint.MAGIC)
    assert f"checkpoint: left out: {path}: bytes {start} to {ends[0]} are damaged" in caplog.text
    assert f"{path}: its last record, at byte {ends[1]}, is cut off or damaged" in caplog.text
    assert f"checkpoint {path}: the 1 sound records are loaded" in caplog.text


def test_a_foreign_file(load, tmp_path, caplog):
    path = tmp_path / "foreign"
    path.write_text("x,y\n1,2\n")
    with caplog.at_level(logging.WARNING, "flowcore"):
        load(checkpoint_files=[path])
    assert f"{path} is no flowcore checkpoint" in caplog.text
    assert double(1).result(timeout=WAIT_S) == 2


def test_a_result_whose_class_is_gone_loses_no_other(tmp_path, caplog, monkeypatch):
    (tmp_path / "gone_class.py").write_text("class Gone:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import gone_class

    file = CheckpointFile(tmp_path)
    file.append([("a", 1), ("b", gone_class.Gone()), ("c", 3)])
    file.close()
    del sys.modules["gone_class"]
    (tmp_path / "gone_class.py").unlink()
    import importlib
    import shutil

    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    importlib.invalidate_caches()
    with caplog.at_level(logging.WARNING, "flowcore"):
        assert checkpoint.load([tmp_path]) == {"a": 1, "c": 3}
    assert "cannot be loaded: ModuleNotFoundError" in caplog.text


def test_results_that_cannot_be_pickled_are_left_out(load, caplog):
    @python_app(cache=True)
    def lazy(x):
        return (i for i in range(x))

    dfk = load(checkpoint_mode="task_exit")
    with caplog.at_level(logging.WARNING, "flowcore"):
        result = lazy(1).result(timeout=WAIT_S)
        double(4).result(timeout=WAIT_S)
    assert stored(dfk) == [8]
    assert "is not checkpointed: a result cannot be serialized: TypeError: cannot pickle 'generator'" in caplog.text
    # In its own run, the result is known all the same.
    assert lazy(1).result(timeout=WAIT_S) is result


# --- writing


def test_the_file_is_made_with_the_first_record(tmp_path):
    file = CheckpointFile(tmp_path / "checkpoint")
    file.append([])
    file.close()
    assert not (tmp_path / "checkpoint").exists()
    file.append([("a", 1)])
    file.close()
    file.close()
    assert file.written == 1
    file.append([("b", 2)])  # goes on after a close
    file.close()
    assert checkpoint.load([tmp_path / "checkpoint"]) == {"a": 1, "b": 2}


def test_writers_in_many_threads_do_not_mix(tmp_path):
    file = CheckpointFile(tmp_path)

    def write(n):
        for i in range(100):
            file.append([(f"{n}-{i}", "x" * i)])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    file.close()
    assert len(checkpoint.load([tmp_path])) == 400


class FullDisk:
    """``os.write`` of a disk that is full for a while: half of what is written arrives, then an error."""

    def __init__(self):
        self.full = True
        self.write = os.write

    def __call__(self, fd, data):
        if not self.full:
            return self.write(fd, data)
        if len(data) > 10:
            return self.write(fd, bytes(data[: len(data) // 2]))
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("first", [True, False])
def test_a_full_disk_hides_no_later_record(tmp_path, monkeypatch, first):
    file = CheckpointFile(tmp_path)
    if not first:
        file.append([("a", 1)])
    disk = FullDisk()
    monkeypatch.setattr(checkpoint.os, "write", disk)
    with pytest.raises(OSError, match="No space left"):
        file.append([("lost", "x" * 1000)])
    disk.full = False
    file.append([("b", 2)])
    file.close()
    found, problem = read_all(tmp_path / checkpoint.FILE_NAME)
    assert problem is None
    assert dict(found) == ({"b": 2} if first else {"a": 1, "b": 2})


def test_results_that_could_not_be_written_are_kept_for_the_next_time(load, monkeypatch):
    dfk = load(checkpoint_mode="manual")
    double(1).result(timeout=WAIT_S)
    disk = FullDisk()
    monkeypatch.setattr(checkpoint.os, "write", disk)
    with pytest.raises(OSError, match="No space left"):
        dfk.checkpoint()
    disk.full = False
    double(2).result(timeout=WAIT_S)
    dfk.checkpoint()
    assert stored(dfk) == [2, 4]


def test_a_full_disk_fails_no_task(load, monkeypatch, caplog):
    load(checkpoint_mode="task_exit")
    monkeypatch.setattr(checkpoint.os, "write", FullDisk())
    with caplog.at_level(logging.ERROR, "flowcore"):
        assert double(1).result(timeout=WAIT_S) == 2
    assert "cannot write to the checkpoint" in caplog.text


# --- a run that is killed

KILLED = """
import os, sys, threading
import flowcore
from flowcore import Config, python_app

@python_app(cache=True)
def square(x):
    if x >= int(sys.argv[2]):
        print("blocked", flush=True)
        threading.Event().wait()
    return x * x

if __name__ == "__main__":
    from flowcore.checkpoints import get_all_checkpoints
    config = Config(run_dir=sys.argv[1], checkpoint_mode="task_exit", checkpoint_files=get_all_checkpoints(sys.argv[1]))
    with flowcore.load(config) as dfk:
        for x in range(8):
            print("result", square(x).result(), flush=True)
        print("hits", dfk.memo_hits, flush=True)
"""


def test_a_killed_run_resumes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, str(script), str(tmp_path / "runinfo")]
    with subprocess.Popen([*command, "5"], stdout=subprocess.PIPE, text=True) as first:
        try:
            lines = []
            for line in first.stdout:
                lines.append(line.strip())
                if line.strip() == "blocked":
                    break
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait(WAIT_S)
    assert lines == [f"result {x * x}" for x in range(5)] + ["blocked"]
    second = subprocess.run([*command, "100"], capture_output=True, text=True, timeout=WAIT_S)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == [f"result {x * x}" for x in range(8)] + ["hits 5"]
