"""Restores trees: puts everything together in a staging folder, then publishes it by renaming.

    writer = TreeWriter(output, point, roots)
    with writer:                               # leaving without publish() removes what was staged
        for batch of entries:
            for group in writer.place(batch):  # makes folders, links, devices… as it goes
                writer.write_group(group, plaintext of group.chunk_id)
        … the same with the groups of writer.end()
        writer.finish()
        writer.publish()

Nothing here trusts the manifest: names, order and sizes are checked, every path is walked through folders that the
writer has made itself, and what cannot be is ``DamagedData``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from transporter.errors import DamagedData, JobFailed
from transporter.file_system_sync import sync_all
from transporter.workloads.entry import CONTINUATION, MORE, PAGED, Entry
from transporter.workloads.hard_links import HardLinks
from transporter.workloads.layout import lay_out
from transporter.workloads.notes import Note
from transporter.workloads.publish import Publisher
from transporter.workloads.restore_files import FileWriter, content_of
from transporter.workloads.restore_path import Step, Walk
from transporter.workloads.restore_stage import Stage
from transporter.workloads.restored import MAX_GROUP_PIECES, Group, Piece, RestoredFile, StagedFolder
from transporter.workloads.staging import Staging
from transporter.workloads.writeback import EarlyWriteback


class TreeWriter:
    """One restore. ``place`` and ``write_group`` may run in two threads; large groups in any number of threads.

    Memory: the folders on the way down, files whose content is under way, and one line for each hard-linked file.
    Open descriptors: at most ``MAX_OPEN_FOLDERS`` folders, and a file for each group being written.

    ``include`` are globs (``patterns.py``), none means everything. Raises ``UsageError`` when ``output`` is not an
    empty folder and ``overwrite`` is not set, ``JobBusy`` when another restore works there.
    """

    def __init__(
        self,
        output: str | bytes | os.PathLike[str],
        point: str,
        roots: Sequence[bytes],
        *,
        include: Sequence[str | bytes] = (),
        overwrite: bool = False,
        numeric_owner: bool = False,
    ) -> None:
        self._walk = Walk(roots, include)
        self._partial = bool(include)
        self._staging = Staging(output, point, overwrite=overwrite)
        self._stage = Stage(self._staging, numeric_owner=numeric_owner)
        self._files = FileWriter(self._stage)
        self._early = EarlyWriteback(self._staging.output_fd)
        self._links = HardLinks()
        self._groups: list[Group] = []
        self._group: Group | None = None
        self._long: RestoredFile | None = None
        self._long_entry: Entry | None = None
        self._position = 0  # in the file whose extents are being laid
        self._published = False

    @property
    def files(self) -> int:
        """Files restored so far, further names of hard-linked ones included."""
        return self._stage.files

    @property
    def bytes_written(self) -> int:
        """Bytes of content written so far."""
        return self._stage.bytes_written

    # -- what a job calls

    def plan(self, entries: Iterable[Entry]) -> Iterator[Group]:
        """Make everything that has no content, and yield what content is needed, in path order: all entries at once.

        Raises what ``place`` and ``end`` raise.
        """
        for entry in entries:
            yield from self.place((entry,))
        yield from self.end()

    def place(self, entries: Iterable[Entry]) -> list[Group]:
        """Make what has no content of some entries, the next in path order; return the content known to be needed.

        Raises ``DamagedData`` when the manifest is not one, ``DiskFull``, ``JobFailed``.
        """
        for entry in entries:
            self._place(entry)
        groups, self._groups = self._groups, []
        return groups

    def end(self) -> list[Group]:
        """Say that there are no more entries; return the content needed for the last. Raises like ``place``."""
        if self._long is not None:
            raise DamagedData("The manifest ends within a file.")
        groups = [] if self._group is None else [self._group]
        self._group = None
        self._leave(reversed(self._walk.steps))
        self._walk.steps = []
        return groups

    def write_group(self, group: Group, plaintext: memoryview) -> None:
        """Write the pieces of one group; a file whose last piece it is gets its metadata and is closed.

        Groups must come in the order of ``place`` and from one thread, but for those that are ``large``.
        """
        if group.large:
            for piece in group.pieces:
                if not piece.file.failed:
                    self._files.write(piece, content_of(piece, plaintext))
        else:
            self._files.write_small(group.pieces, plaintext)
            self._durably(self._early.wrote, sum(piece.length for piece in group.pieces))

    def skip_group(self, group: Group, reason: str) -> None:
        """Give up the files of a group whose chunk cannot be had: they are noted, and not published."""
        for piece in group.pieces:
            if not piece.file.failed:
                self._files.fail(piece.file, reason)

    def finish(self) -> None:
        """Set what links and folders still wait for, make all durable; to be called when every group was written."""
        with self._stage.lock:
            for entry, folder, name, file in self._links.take_waiting():
                self._make_link(entry, folder, name, file)
                self._stage.release(folder)
            if self._stage.top.open_children != 1:
                raise JobFailed("The restore is not complete: some content was never written.")
        self._durably(self._early.finish)
        # Before anything gets its final name: after a loss of power a name must not stand for half a file.
        self._durably(sync_all, self._staging.output_fd)

    def publish(self) -> None:
        """Move everything to its final place, with ``overwrite`` into what is there already, and make that durable."""
        self._stage.cache.close_all()
        top = self._stage.top.entry
        Publisher(self._staging, self._stage).publish()
        self._staging.clear()
        if top is not None and (self._staging.created or not self._partial):
            self._stage.metadata.to_existing(self._staging.output_fd, top)
        self._published = True
        self._durably(sync_all, self._staging.output_fd)
        self._staging.close()

    def _durably(self, flush: Callable[..., None], *arguments: int) -> None:
        try:
            flush(*arguments)
        except OSError as error:
            self._stage.stop(error, Entry(self._staging.output, "d"))

    def abort(self) -> None:
        """Remove what was staged; the output is as it was. No thread may be writing any more."""
        with suppress(OSError):  # what is given up need not be durable
            self._early.finish()
        self._files.close()
        self._stage.cache.close_all()
        self._staging.remove()

    def take_notes(self) -> list[Note]:
        """Return the notes made since the last call."""
        return self._stage.take_notes()

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._published:
            self.abort()

    # -- entries

    def _place(self, entry: Entry) -> None:
        if entry.flags & CONTINUATION or self._long_entry is not None:
            self._continue(entry)
            return
        self._leave(self._walk.left(entry))
        name, included = self._walk.enter(entry)
        if entry.kind == "d":
            self._walk.steps.append(Step(entry, name, included))
            if included:
                self._folder()
        elif included:
            self._place_inside(entry, self._folder(), name)
        elif self._partial:
            self._links.skip(entry)
        if entry.flags & MORE:
            if entry.kind != "f":
                raise DamagedData(f"The manifest continues {entry.path[:200]!r}, which is no file.")
            self._long_entry = entry

    def _continue(self, entry: Entry) -> None:
        before = self._long_entry
        if before is None or not entry.flags & CONTINUATION or entry.path != before.path:
            raise DamagedData(f"The manifest breaks off within an entry near {entry.path[:200]!r}.")
        if self._long is not None:
            self._lay(self._long, entry)
        elif self._partial:
            self._links.skip_more(before, entry)
        if not entry.flags & MORE:
            self._long = self._long_entry = None

    def _place_inside(self, entry: Entry, folder: StagedFolder, name: bytes) -> None:
        if entry.link:
            content = self._links.content_of(entry)
            if content is None:
                self._link(entry, folder, name)
                return
            first, *more = content
            self._place_first(first, folder, name, entry.link)
            for record in more:
                if self._long is not None:
                    self._lay(self._long, record)
            self._long = None
        else:
            self._place_first(entry, folder, name, entry.path)

    def _place_first(self, entry: Entry, folder: StagedFolder, name: bytes, link_path: bytes) -> None:
        """Restore a file, or the first name of a hard-linked one."""
        file = RestoredFile(folder, name, entry)
        if entry.nlink > 1:
            self._links.add(link_path, file)
        with self._stage.lock:
            folder.open_children += 1
        if entry.kind == "f":
            self._position = 0
            if entry.flags & MORE:
                self._long = file
            self._lay(file, entry)
        else:
            self._make_special(file)

    def _lay(self, file: RestoredFile, entry: Entry) -> None:
        """Turn one record's extents into pieces; finish the file if nothing is left to write."""
        runs, self._position = lay_out(entry, self._position)
        file.sparse = file.sparse or bool(entry.packed_holes) or bool(entry.flags & PAGED)
        with self._stage.lock:
            if file.failed:
                return
            for run in runs:
                file.left += run[3]
            if not entry.flags & MORE:
                file.complete = True
                file.entry.size = entry.size
                if not file.left:
                    self._files.finish_planned(file)
        for chunk_id, file_offset, chunk_offset, length in runs:
            self._add_piece(chunk_id, Piece(file, file_offset, chunk_offset, length))

    def _add_piece(self, chunk_id: bytes, piece: Piece) -> None:
        group = self._group
        if group is None or group.chunk_id != chunk_id or len(group.pieces) >= MAX_GROUP_PIECES:
            if group is not None:
                self._groups.append(group)
            group = self._group = Group(chunk_id, [])
        group.pieces.append(piece)

    # -- folders

    def _folder(self) -> StagedFolder:
        """Return the folder the walk is in; it and those above are made if they are not there yet."""
        steps = self._walk.steps
        if steps and steps[-1].folder is not None:
            return steps[-1].folder
        folder = self._stage.top
        for step in steps:
            if step.folder is None:
                step.folder = self._make_folder(folder, step)
            folder = step.folder
        return folder

    def _make_folder(self, parent: StagedFolder, step: Step) -> StagedFolder:
        if step.name:
            folder = self._stage.make_folder(parent, step.name, step.entry)
            if not step.included:
                self._stage.mark_ancestor(folder)
            return folder
        self._stage.top.entry = step.entry
        return self._stage.top

    def _leave(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if step.folder is not None and step.folder is not self._stage.top:
                self._stage.release(step.folder)

    # -- links and devices

    def _link(self, entry: Entry, folder: StagedFolder, name: bytes) -> None:
        with self._stage.lock:
            file = self._links.find(entry)
            if file.done or file.failed:
                self._make_link(entry, folder, name, file)
            else:
                folder.open_children += 1
                self._links.wait(entry, folder, name, file)

    def _make_link(self, entry: Entry, folder: StagedFolder, name: bytes, file: RestoredFile) -> None:
        if file.failed:
            self._stage.note("not-restored", entry.path, "the file it is a further name of was not restored", gap=True)
            return
        try:
            source_fd = os.dup(self._stage.cache.fd(file.folder))  # the next line may close the original
            try:
                target_fd = self._stage.cache.fd(folder)
                os.link(file.name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
            finally:
                os.close(source_fd)
        except OSError as error:
            self._stage.refuse(error, entry)
        else:
            self._stage.files += entry.kind == "f"

    def _make_special(self, file: RestoredFile) -> None:
        entry, name = file.entry, file.name
        with self._stage.lock:
            try:
                fd = self._stage.cache.fd(file.folder)
                if entry.kind == "l":
                    os.symlink(entry.target, name, dir_fd=fd)
                elif entry.kind == "p":
                    os.mkfifo(name, 0o600, dir_fd=fd)
                else:
                    form = stat.S_IFBLK if entry.kind == "b" else stat.S_IFCHR
                    os.mknod(name, form | 0o600, entry.rdev, dir_fd=fd)
                self._stage.metadata.to_name(fd, name, entry)
                file.done = True
            except (OSError, ValueError, OverflowError) as error:
                file.failed = True
                self._stage.refuse(error, entry)
        self._stage.release(file.folder)
