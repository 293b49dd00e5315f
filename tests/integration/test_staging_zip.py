"""Members of zip archives through workers, which are elsewhere and write to one archive at the same time."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from flowcore import File, bash_app, python_app
from flowcore.builtin import zip_archive
from flowcore.builtin.zip_staging import ZipFileStaging
from flowcore.errors import TransferError

pytest.importorskip("flowcore_executor_htex")


@python_app
def shout(inputs: tuple[File, ...] = (), outputs: tuple[File, ...] = ()) -> tuple[str, int, str]:
    import os
    from pathlib import Path

    Path(outputs[0].filepath).write_text(Path(inputs[0].filepath).read_text().upper())
    return os.getcwd(), os.getpid(), inputs[0].filepath


@bash_app
def count(inputs: tuple[File, ...] = (), outputs: tuple[File, ...] = ()) -> str:
    return f"cat {' '.join(map(str, inputs))} | wc -c > {outputs[0]}"


@pytest.fixture
def elsewhere(load, tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    (folder / "tmp").mkdir(parents=True)
    htex = {
        "plugin": "htex",
        "max_workers_per_node": 3,
        "storage_access": [ZipFileStaging()],
        "provider": {"plugin": "local", "worker_init": f"cd {folder}; export TMPDIR={folder}/tmp"},
    }
    load(executors=[htex])
    return folder


def test_many_tasks_read_and_write_archives(elsewhere, tmp_path):
    """Relative paths are of where the program is; nothing is left where the workers are."""
    with zipfile.ZipFile("in.zip", "w") as archive:
        for i in range(30):
            archive.writestr(f"texts/{i}.txt", f"text {i}")
    made = [
        shout(inputs=[File(f"zip:in.zip/texts/{i}.txt")], outputs=[File(f"zip:out.zip/loud/{i}.txt")])
        for i in range(30)
    ]
    counted = count(inputs=[m.outputs[0] for m in made], outputs=[File("zip:out.zip/count")])
    counted.outputs[0].result(90)
    workers = {m.result(0)[:2] for m in made}
    assert {cwd for cwd, _ in workers} == {str(elsewhere)}
    assert len(workers) > 1, "only one worker wrote, so nothing was tested"
    assert all(m.result(0)[2].startswith(f"{elsewhere}/tmp/") for m in made)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    assert int(members.pop("count")) == sum(map(len, members.values()))
    assert members == {f"loud/{i}.txt": f"TEXT {i}" for i in range(30)}
    assert list(elsewhere.rglob("*")) == [elsewhere / "tmp"]
    assert sorted(p.name for p in tmp_path.glob(".*.zip.*")) == [".in.zip.lock", ".out.zip.lock"]


def test_an_archive_that_a_killed_run_left(elsewhere, tmp_path):
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("a", "content")
    with (tmp_path / "a.zip").open("r+b") as target, zipfile.ZipFile("a.zip") as archive:
        zip_archive._save(target, tmp_path / "a.zip", archive.start_dir)
        target.seek(archive.start_dir)
        target.write(b"half a member")
    shout(inputs=[File("zip:a.zip/a")], outputs=[File("zip:a.zip/b")]).outputs[0].result(60)
    with zipfile.ZipFile("a.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"a": b"content", "b": b"CONTENT"}


def test_what_went_wrong_comes_back_from_the_worker(elsewhere, tmp_path):
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("right.txt", "content")
    error = shout(inputs=[File("zip:a.zip/rigth.txt")], outputs=[File("zip:b.zip/b")]).exception(60)
    assert isinstance(error, TransferError)
    assert f"'{tmp_path}/a.zip' has no member 'rigth.txt' (close to it: 'right.txt')" in str(error)
    assert not (tmp_path / "b.zip").exists()
    error = shout(inputs=[File("zip:a.txt/b")], outputs=[File("zip:b.zip/b")]).exception(60)
    assert "no part of its path ends with .zip" in str(error)
