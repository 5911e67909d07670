"""A reader that begins on a guess: kept where it was right, begun anew where it was not, and nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import aclosing, asynccontextmanager

import pytest
import trio

from protocol.messages import Have, Start
from transporter.errors import JobFailed, UsageError
from transporter.events import Note
from transporter.jobs import early_reading, reading
from transporter.jobs.early_reading import EarlyReader, open_early_reader
from transporter.jobs.read_messages import BUFFER, BUFFERS, NO_BUFFER, Cut, MetadataChunk, Open, Report
from transporter.link import control_link
from transporter.link.resilient import ResilientLink
from transporter.workloads.notes import Note as FileNote


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(50):
        (root / f"{number:04}").write_bytes(os.urandom(1000))
    return root


def order(tmp_path, tree, parent=b"", key=b"k" * 32):
    return Open("tree", [os.fsencode(tree)], [], "", str(tmp_path / "manifest"), b"now" + key, parent, key)


@asynccontextmanager
async def early(tmp_path, guess):
    async with open_early_reader(tmp_path, from_stdin=False) as reader, trio.open_nursery() as nursery:
        nursery.start_soon(reader.begin, guess)
        yield reader


async def everything(read):
    async def give_back():
        await read.give_back()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_back)
        ids = []
        async for _length, chunks in read.units():
            for chunk in chunks:
                ids.append(chunk.chunk_id)
                chunk.let_go()
        nursery.cancel_scope.cancel()
    return ids


async def read_plainly(tmp_path, tree, **how):
    async with open_early_reader(tmp_path, from_stdin=False) as reader, trio.open_nursery() as nursery:
        nursery.start_soon(reader.begin, None)
        return await everything(await reader.open(order(tmp_path, tree, **how)))


async def test_a_right_guess_is_kept_and_has_read_already(tmp_path, tree):
    expected = await read_plainly(tmp_path, tree)
    async with early(tmp_path, order(tmp_path, tree)) as reader:
        while not hasattr(reader, "reading") or not reader.reading._ahead:
            await trio.sleep(0.01)
        read = await reader.open(order(tmp_path, tree))
        assert reader.starts == 1
        assert await everything(read) == expected
        assert read.files == 50


@pytest.mark.parametrize("wrong", [{"key": b"w" * 32}, {"parent": b"another"}])
async def test_a_wrong_guess_is_forgotten_with_its_process(tmp_path, tree, wrong):
    expected = await read_plainly(tmp_path, tree)
    async with early(tmp_path, order(tmp_path, tree, **wrong)) as reader:
        await reader._begun.wait()
        first, needs = reader.reading._worker._process, reader.needs
        read = await reader.open(order(tmp_path, tree))
        assert (reader.starts, first.returncode) == (2, 0)
        assert needs._file.closed
        assert await everything(read) == expected
        assert reader.needs.count == len(expected)
    assert not list(tmp_path.glob("manifest*")), "no half-made manifest stays"


async def test_without_a_guess_the_process_is_ready_when_it_is_needed(tmp_path, tree):
    async with early(tmp_path, None) as reader:
        await reader._begun.wait()
        await reader.open(order(tmp_path, tree))
        assert reader.starts == 1


async def test_what_cannot_be_read_ends_the_run_before_the_peer_has_answered(tmp_path):
    with pytest.raises(BaseExceptionGroup) as caught:
        async with early(tmp_path, order(tmp_path, tmp_path / "missing")):
            await trio.sleep_forever()
    assert caught.group_contains(UsageError)


class Endless:
    """A reader of a tree without end: nothing but lines of the manifest, a MiB at a time, or only notes."""

    def __init__(self, notes=0):
        self._metadata = [] if notes else [MetadataChunk(bytes(32), bytes(1 << 20))]
        self._notes = [FileNote("unreadable", b"n" * 200, "Permission denied", True)] * notes
        self.memory = os.memfd_create("test")
        os.ftruncate(self.memory, BUFFERS * BUFFER)
        self.said = 0

    async def receive(self):
        await trio.lowlevel.checkpoint()
        self.said += 1
        return Cut(NO_BUFFER, 0, [], self._metadata, Report(0, 0, 0, None, self._notes))


async def test_what_waits_here_is_bounded(tmp_path):
    """Unchanged files cost nothing but lines of the manifest: a reader of millions must stop before memory is full."""
    endless = Endless()
    read = reading.Reading(endless, None)
    with trio.fail_after(30):
        await read.run_ahead()
    assert endless.said == reading.AHEAD_BYTES >> 20
    async with aclosing(read.units()) as units:
        for _ in range(endless.said):
            await anext(units)
        assert endless.said == reading.AHEAD_BYTES >> 20, "what waited comes first"
        await anext(units)
    assert endless.said == (reading.AHEAD_BYTES >> 20) + 1
    os.close(endless.memory)


async def test_notes_that_wait_here_are_bounded_too():
    """A tree in which nothing can be read has no content and no lines: all that it gives are notes."""
    endless = Endless(notes=1000)
    read = reading.Reading(endless, None)
    with trio.fail_after(30):
        await read.run_ahead()
    waiting = sum(len(answer.report.notes) for answer in read._ahead)
    assert waiting == endless.said * 1000
    assert waiting * reading.NOTE_BYTES <= reading.AHEAD_BYTES + 1000 * reading.NOTE_BYTES
    note = endless._notes[0]
    held = sys.getsizeof(note) + sys.getsizeof(note.path) + sys.getsizeof(note.text)
    assert held * 0.75 <= reading.NOTE_BYTES, "with a long path it is counted for about what it takes"
    os.close(endless.memory)


# --- in a run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def starts(monkeypatch):
    """How often a reader was started, run by run."""
    seen = []
    begin = EarlyReader.begin

    async def counted(self, guess):
        seen.append(self)
        await begin(self, guess)

    monkeypatch.setattr(early_reading.EarlyReader, "begin", counted)
    return lambda: [reader.starts for reader in seen]


async def test_a_run_knows_what_it_will_read(world, starts):
    for _ in range(2):
        await world.source.backup()
    assert starts() == [1, 1]
    await world.source.verify("docs")


async def test_a_target_that_went_back_to_an_older_point_is_believed_and_read_for_anew(world, starts):
    source, store = world.source, world.store()
    await source.backup()
    (source.tree / "more").write_text("more")
    newest = (await source.backup()).point
    for path in store.path.glob(f"points/**/*{newest}*"):
        path.unlink()
    finished = await source.backup()
    assert starts() == [1, 1, 2]
    assert finished.files_unchanged == 0
    assert any("read again" in note.text for note in source.seen(Note))
    await source.verify("docs")


async def test_a_first_run_names_its_chunks_by_the_key_that_it_keeps(world, monkeypatch):
    from transporter.jobs import backup

    made = []
    generate = backup.ChunkIdKey.generate
    monkeypatch.setattr(backup.ChunkIdKey, "generate", lambda clock: made.append(generate(clock)) or made[-1])
    await world.source.backup()
    assert [world.source.keys.domain_key("offsite/main/docs")] == made
    await world.source.backup()
    assert len(made) == 1


async def test_a_first_run_asks_for_nothing_and_begins_to_read_before_the_target_answers(world, monkeypatch):
    sent, begun_at = [], []
    send, began = control_link.ControlLink.send, ResilientLink._session_started

    async def note(self, message, payload=b""):
        sent.append(message)
        await send(self, message, payload)

    monkeypatch.setattr(control_link.ControlLink, "send", note)
    opened = reading.Reading.open

    async def open_early(self, wanted):
        await opened(self, wanted)
        begun_at.append("reader")

    def answered(self, started, head):
        begun_at.append("answer")
        began(self, started, head)

    monkeypatch.setattr(reading.Reading, "open", open_early)
    monkeypatch.setattr(ResilientLink, "_session_started", answered)
    released = trio.Event()
    from transporter.service import starting

    work = starting._work

    async def later(*arguments):
        await released.wait()
        await work(*arguments)

    monkeypatch.setattr(starting, "_work", later)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.source.backup)
        while "reader" not in begun_at:
            await trio.sleep(0.01)
        released.set()
    assert begun_at == ["reader", "answer"]
    assert [type(message) for message in sent if isinstance(message, Start | Have)] == [Start]


async def kill(read):
    """End a reader as the system does when memory is short, and wait until nothing of it is left."""
    process = read._worker._process
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()


async def test_a_reader_that_is_killed_before_it_was_told_what_to_read_ends_the_run(world, monkeypatch):
    """In zone none the target names the chunks: the process is started, and waits for what to read."""
    open_reader = EarlyReader.open

    async def killed_before(self, order):
        await self._begun.wait()
        assert self._guess is None
        await kill(self.reading)
        return await open_reader(self, order)

    monkeypatch.setattr(EarlyReader, "open", killed_before)
    with trio.fail_after(60), pytest.raises(JobFailed, match="SIGKILL"):
        await world.source.backup("none")


async def test_a_reader_that_is_killed_before_it_keeps_its_manifest_ends_the_run(world, monkeypatch):
    keep = reading.Reading.keep_manifest

    async def killed_before(self):
        assert self.manifest_chunks, "all was read"
        await kill(self)
        await keep(self)

    monkeypatch.setattr(reading.Reading, "keep_manifest", killed_before)
    with trio.fail_after(60), pytest.raises(JobFailed, match="SIGKILL"):
        await world.source.backup()
    monkeypatch.undo()
    # The point was committed before that: the next run builds on it.
    again = await world.source.backup()
    assert (again.kind, again.bytes_new) == ("incremental", 0)
