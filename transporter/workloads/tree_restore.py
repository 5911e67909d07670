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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from transporter.errors import DamagedData, JobFailed, UsageError
from transporter.file_system_sync import sync_all
from transporter.workloads.apply_changes import Changer
from transporter.workloads.compared import IdOf
from transporter.workloads.entry import Entry
from transporter.workloads.hard_links import HardLinks
from transporter.workloads.in_place import InPlace
from transporter.workloads.notes import LostRange, Note
from transporter.workloads.publish import Publisher
from transporter.workloads.restore_compare import Comparing
from transporter.workloads.restore_files import FileWriter, content_of
from transporter.workloads.restore_links import Names
from transporter.workloads.restore_path import Walk
from transporter.workloads.restore_stage import Stage
from transporter.workloads.restored import Group, Piece
from transporter.workloads.selection import Selection
from transporter.workloads.staging import Staging
from transporter.workloads.tree_plan import TreePlanner
from transporter.workloads.writeback import EarlyWriteback


class TreeWriter(TreePlanner):
    """One restore. ``place`` and ``write_group`` may run in two threads; large groups in any number of threads.

    Memory: the folders on the way down, files whose content is under way, and one line for each hard-linked file.
    Open descriptors: at most ``MAX_OPEN_FOLDERS`` folders, and a file for each group being written.

    ``selection`` says what of the point is restored, None: everything. ``in_place``: what lies in the output is
    compared by size and times, with ``compare`` by content, and only what differs is restored; with ``delete`` what the
    point lacks goes. ``id_of`` names chunks: with it what is there already need not be fetched. ``dry_run``: only note
    what would be done. ``partial``: files whose content is lost in part are restored with holes, under another name.
    ``order``: a digest of all this; a restore of the same order that was interrupted is taken up. ``links``: files
    with several names, where other writers have some of them; ``others``: remove what other restores left.

    Raises ``UsageError`` when ``output`` is not an empty folder and neither ``overwrite`` nor ``in_place`` is set,
    ``JobBusy`` when another restore works there.
    """

    def __init__(
        self,
        output: str | bytes | os.PathLike[str],
        point: str,
        roots: Sequence[bytes],
        *,
        include: Sequence[str | bytes] = (),
        selection: Selection | None = None,
        overwrite: bool = False,
        numeric_owner: bool = False,
        in_place: bool = False,
        compare: bool = False,
        delete: bool = False,
        dry_run: bool = False,
        partial: bool = False,
        order: str = "",
        links: HardLinks | None = None,
        others: bool = True,
        id_of: IdOf | None = None,
    ) -> None:
        super().__init__()
        self._selection = selection or Selection(include)
        self._walk = Walk(roots, self._selection)
        self._partial = not self._selection.whole
        self._dry = dry_run
        self._keep_partial = partial
        self._order = "" if dry_run else order
        self._staging = Staging(
            output, point, overwrite=overwrite or in_place, order=self._order, others=others and not dry_run
        )
        self._resumed = self._staging.resumed
        self._stage = Stage(self._staging, numeric_owner=numeric_owner)
        self._files = FileWriter(self._stage)
        self._early = EarlyWriteback(self._staging.output_fd)
        self._here: InPlace | None = None
        self._comparing: Comparing | None = None
        # What was interrupted while it published has moved some of it to its place.
        again = self._staging.published and not in_place
        if in_place or again:
            self._here = InPlace(self._staging, self._stage, self._walk, compare=compare, delete=delete, again=again)
            self._stage.top.there = self._here.top
        self._strict = again and not overwrite
        if in_place or self._staging.resumed:
            self._comparing = Comparing(self._stage, self._files, self._here, id_of)
            if dry_run:
                self._comparing.differs = self._list_changed
        self._names = Names(self._stage, self._here, links or HardLinks())
        self.published = False

    @property
    def files(self) -> int:
        """Files restored so far, further names of hard-linked ones included."""
        return self._stage.files

    @property
    def bytes_written(self) -> int:
        """Bytes of content written so far."""
        return self._stage.bytes_written

    @property
    def resumed(self) -> bool:
        """Whether an interrupted restore is taken up."""
        return self._staging.resumed

    @property
    def damaged(self) -> int:
        """Files of which some content could not be had."""
        return self._stage.damaged

    @property
    def unchanged(self) -> int:
        """Files among them that were there already, by a restore in place."""
        return self._here.unchanged if self._here is not None else 0

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

    def end(self, *, last: bool = True) -> list[Group]:
        """Say that there are no more entries; return the content needed for the last.

        ``last``: nothing of the point is restored elsewhere. Raises like ``place``, and then like ``check_met``.
        """
        if self._long is not None:
            raise DamagedData("The manifest ends within a file.")
        self._close_group()
        self._leave(reversed(self._walk.steps))
        self._walk.steps = []
        self._stage.drop_leftover(self._stage.top)
        if last:
            self.check_met()
        groups, self._groups = self._groups, []
        return groups

    def check_met(self) -> None:
        """Note what was asked for and is not in the point. Raises ``UsageError`` when nothing is."""
        if not self._selection.met:
            raise UsageError(
                "nothing in the restore point is what was asked for",
                "quotes keep the shell from a glob; `transporter search` shows paths as they are stored",
            )
        for asked in self._selection.not_found():
            self._stage.note("not-found", asked, "nothing in the restore point matches it", gap=True)

    def write_group(self, group: Group, plaintext: memoryview) -> None:
        """Write the pieces of one group; a file whose last piece it is gets its metadata and is closed.

        Groups must come in the order of ``place`` and from one thread, but for those that are ``large``.
        """
        pieces = self._compare(group, plaintext) if self._comparing is not None else group.pieces
        if group.large:
            for piece in pieces:
                if not piece.file.failed:
                    self._files.write(piece, content_of(piece, plaintext))
        else:
            self._files.write_small(pieces, plaintext)
            self._durably(self._early.wrote, sum(piece.length for piece in pieces))

    def _compare(self, group: Group, plaintext: memoryview) -> list[Piece]:
        """Take the pieces of files that are compared with what is there; return the others."""
        assert self._comparing is not None
        others = []
        for piece in group.pieces:
            if piece.file.base is None:
                others.append(piece)
            elif not piece.file.failed:
                self._comparing.take(piece, content_of(piece, plaintext))
        return others

    def skip_group(self, group: Group, reason: str) -> None:
        """Do without a chunk that cannot be had: its files are left out, or get holes and another name."""
        for piece in group.pieces:
            self._stage.lose(piece.file.entry.path, piece.file_offset, piece.length, reason)
            self._files.lose(piece, reason, partial=self._keep_partial)

    def finish(self) -> None:
        """Set what links and folders still wait for, make all durable; to be called when every group was written."""
        self._names.make_waiting()
        if self._stage.top.open_children != 1:
            raise JobFailed("The restore is not complete: some content was never written.")
        if self._dry:
            return
        self._durably(self._early.finish)
        # Before anything gets its final name: after a loss of power a name must not stand for half a file.
        self._durably(sync_all, self._staging.output_fd)

    def publish(self) -> None:
        """Move everything to its final place, with ``overwrite`` into what is there already, and make that durable."""
        if self._dry:
            self._list_changes()
            self.abort()
            self.published = True
            return
        self._stage.cache.close_all()
        top = self._stage.top.entry
        self._durably(self._staging.whole)
        changer = Changer(self._stage, self._staging.output_fd)
        if self._here is not None:
            self._durably(changer.remove, self._here.changes)
        Publisher(self._staging, self._stage).publish()
        if self._here is not None:
            self._durably(changer.repair, self._here.changes)
            self._here.close()
        self._staging.clear()
        if top is not None and (self._staging.created or not self._partial):
            self._stage.metadata.to_existing(self._staging.output_fd, top)
        self.published = True
        self._durably(sync_all, self._staging.output_fd)
        self._staging.close()

    def _durably(self, flush: Callable[..., None], *arguments: object) -> None:
        try:
            flush(*arguments)
        except OSError as error:
            self._stage.stop(error, Entry(self._staging.output, "d"))

    def abort(self, *, keep: bool = False) -> None:
        """Remove what was staged; the output is as it was. No thread may be writing any more.

        ``keep``: let it lie for a restore of the same order, if there is anything.
        """
        with suppress(OSError):  # what is given up need not be durable
            self._early.finish()
        self._files.close()
        self._stage.cache.close_all()
        if self._here is not None:
            self._here.close()
        worth = self._staging.publishing or (keep and (self._stage.bytes_written or self._staging.resumed))
        if worth and self._order:
            self._staging.keep()
        else:
            self._staging.remove()

    def take_notes(self) -> list[Note]:
        """Return the notes made since the last call."""
        return self._stage.take_notes()

    def take_lost(self) -> list[LostRange]:
        """Return the ranges of files that could not be had since the last call."""
        return self._stage.take_lost()

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.published:
            self.abort()

    def _list_changes(self) -> None:
        """Note what a restore in place would change besides what it restores."""
        for change in self._here.changes.read() if self._here is not None else ():
            self._planned(change.stored, "removed" if change.what == "remove" else "metadata")
