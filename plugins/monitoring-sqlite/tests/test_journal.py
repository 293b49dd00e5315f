"""The journal: whole records or none, in order, over several files, whatever happens to the writer or the disk."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from flowcore_monitoring_sqlite import journal
from flowcore_monitoring_sqlite.journal import (
    HEADER,
    MAGIC,
    START,
    JournalError,
    JournalReader,
    JournalWriter,
    Position,
    path_of,
    remove_before,
    segments,
    sole_reader,
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "journal"


def read_all(reader):
    return list(reader.read(10**9))


def test_what_was_appended_is_read_in_its_order(folder):
    writer, reader = JournalWriter(folder), JournalReader(folder)
    payloads = [bytes([n]) * n for n in range(200)]
    for payload in payloads:
        writer.append(payload)
    assert read_all(reader) == payloads
    assert read_all(reader) == []
    writer.append(b"later")
    assert read_all(reader) == [b"later"]
    writer.close()
    reader.close()


def test_a_reader_goes_on_where_another_one_was(folder):
    writer, first = JournalWriter(folder), JournalReader(folder)
    for n in range(5):
        writer.append(b"%d" % n)
    records = first.read(10**9)
    assert [next(records), next(records)] == [b"0", b"1"]
    second = JournalReader(folder, first.position)
    assert read_all(second) == [b"2", b"3", b"4"]
    for one in (writer, first, second):
        one.close()


def test_a_batch_ends_after_its_bytes(folder):
    writer, reader = JournalWriter(folder), JournalReader(folder)
    for _ in range(10):
        writer.append(bytes(100))
    assert len(list(reader.read(250))) == 3
    assert len(read_all(reader)) == 7
    writer.close()
    reader.close()


def test_a_full_file_is_followed_by_another_one(folder):
    writer, reader = JournalWriter(folder, segment_bytes=500), JournalReader(folder)
    payloads = [b"%03d" % n * 30 for n in range(40)]
    for payload in payloads:
        writer.append(payload)
    assert len(segments(folder)) > 5
    assert reader.left_bytes() > 40 * 90
    assert read_all(reader) == payloads
    assert reader.left_bytes() == 0
    remove_before(folder, reader.position.segment)
    assert segments(folder) == [reader.position.segment]
    writer.append(b"more")
    assert read_all(reader) == [b"more"]
    writer.close()
    reader.close()


@pytest.mark.parametrize("cut", [1, 4, HEADER.size, HEADER.size + 3])
def test_a_record_that_is_there_in_part_is_not_there_yet(folder, cut):
    writer, reader = JournalWriter(folder), JournalReader(folder)
    writer.append(b"first")
    size = path_of(folder, 1).stat().st_size
    writer.append(b"second")
    whole = path_of(folder, 1).read_bytes()
    os.truncate(path_of(folder, 1), size + cut)
    assert read_all(reader) == [b"first"]
    path_of(folder, 1).write_bytes(whole)
    assert read_all(reader) == [b"second"]
    writer.close()
    reader.close()


def test_a_damaged_record_is_told_and_those_before_it_are_read(folder):
    writer, reader = JournalWriter(folder), JournalReader(folder)
    writer.append(b"first")
    damaged = path_of(folder, 1).stat().st_size
    writer.append(b"second")
    writer.close()
    data = bytearray(path_of(folder, 1).read_bytes())
    data[-1] ^= 1
    path_of(folder, 1).write_bytes(data)
    records = reader.read(10**9)
    assert next(records) == b"first"
    with pytest.raises(JournalError, match=f"is damaged at byte {damaged}: a record there has another checksum"):
        next(records)
    reader.close()


def test_a_length_that_cannot_be_is_damage(folder):
    writer, reader = JournalWriter(folder), JournalReader(folder)
    writer.close()
    with path_of(folder, 1).open("ab") as file:
        file.write(HEADER.pack(2**31, 0))
    with pytest.raises(JournalError, match="is damaged"):
        read_all(reader)
    reader.close()


def test_another_file_is_no_journal(folder):
    folder.mkdir()
    path_of(folder, 1).write_bytes(b"something else that is long enough")
    reader = JournalReader(folder)
    with pytest.raises(JournalError, match="is no journal of this version"):
        read_all(reader)
    reader.close()


def test_a_file_that_is_being_made_is_empty(folder):
    folder.mkdir()
    path_of(folder, 1).write_bytes(MAGIC[:5])
    reader = JournalReader(folder)
    assert read_all(reader) == []
    path_of(folder, 1).write_bytes(MAGIC)
    assert read_all(reader) == []
    reader.close()


def test_what_a_full_disk_took_of_a_record_is_cut_off(folder, monkeypatch):
    writer, reader = JournalWriter(folder), JournalReader(folder)
    writer.append(b"first")
    write = os.write

    def full(fd, data):
        if len(data) > 6:
            return write(fd, data[:6])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        writer.append(b"second")
    monkeypatch.setattr(journal.os, "write", write)
    writer.append(b"third")
    assert read_all(reader) == [b"first", b"third"]
    writer.close()
    reader.close()


def test_a_file_that_cannot_be_begun_leaves_the_journal_as_it_was(folder, monkeypatch):
    writer, reader = JournalWriter(folder, segment_bytes=25), JournalReader(folder)
    write = os.write
    writer.append(b"first")
    monkeypatch.setattr(journal.os, "write", lambda fd, data: write(fd, data[:3]) if data == MAGIC else write(fd, data))
    with pytest.raises(OSError, match="No space left"):
        writer.append(b"second")
    assert segments(folder) == [1]
    monkeypatch.setattr(journal.os, "write", write)
    writer.append(b"third")
    assert read_all(reader) == [b"first", b"third"]
    writer.close()
    reader.close()


def test_a_journal_is_not_begun_twice(folder):
    JournalWriter(folder).close()
    with pytest.raises(FileExistsError):
        JournalWriter(folder)


def test_only_the_user_may_read_it(folder):
    JournalWriter(folder).close()
    assert path_of(folder, 1).stat().st_mode & 0o777 == 0o600


def test_a_reader_keeps_up_with_a_writer(folder):
    writer, reader = JournalWriter(folder, segment_bytes=2000), JournalReader(folder)
    count = 3000

    def write():
        for n in range(count):
            writer.append(b"%d" % n)

    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    while len(seen) < count and (thread.is_alive() or reader.left_bytes()):
        seen += reader.read(500)
    thread.join(30)
    seen += read_all(reader)
    assert seen == [b"%d" % n for n in range(count)]
    writer.close()
    reader.close()


def test_two_do_not_read_at_once(folder):
    folder.mkdir()
    text = "another process is writing the events"
    with sole_reader(folder), pytest.raises(JournalError, match=text), sole_reader(folder):
        pass
    with sole_reader(folder):
        pass


def test_positions_are_ordered():
    assert START < Position(1, 10**9) < Position(2, 0)
    assert Path(path_of(Path("a"), 12)).name == "events-000012.journal"
