"""The plan of a restore: entries in path order in; folders, links and empty files made, pieces of content out."""

from __future__ import annotations

import os
from collections.abc import Iterable

from transporter.errors import DamagedData
from transporter.workloads.compared import Base
from transporter.workloads.entry import CHANGED, CONTINUATION, MORE, PAGED, UNTRUSTED, Entry
from transporter.workloads.folders import Folder
from transporter.workloads.in_place import NOTHING, InPlace, Verdict
from transporter.workloads.layout import lay_out
from transporter.workloads.restore_compare import Comparing
from transporter.workloads.restore_files import FileWriter
from transporter.workloads.restore_links import Names
from transporter.workloads.restore_path import Step, Walk
from transporter.workloads.restore_stage import Stage
from transporter.workloads.restored import MAX_GROUP_PIECES, Group, Piece, RestoredFile, StagedFolder


class TreePlanner:
    """The half of `TreeWriter` that takes entries. It makes the parts, and hands them over.

    ``_dry``: only note what would be done; ``_strict``: replace nothing that is there.
    """

    _walk: Walk
    _stage: Stage
    _files: FileWriter
    _names: Names
    _here: InPlace | None
    _comparing: Comparing | None
    _partial: bool
    _dry: bool
    _strict: bool
    _resumed: bool

    def __init__(self) -> None:
        self._groups: list[Group] = []
        self._group: Group | None = None
        self._long: RestoredFile | None = None
        self._long_entry: Entry | None = None
        self._position = 0  # in the file whose extents are being laid

    def _planned(self, path: bytes, what: str) -> None:
        self._stage.note("planned", path, what, gap=False)

    # -- entries

    def _place(self, entry: Entry) -> None:
        if entry.flags & CONTINUATION or self._long_entry is not None:
            self._continue(entry)
            return
        self._leave(self._walk.left(entry))
        name, included = self._walk.enter(entry)
        parent = self._walk.step
        if self._here is not None and self._here.passed(parent, name) and parent is not None:
            self._touch(parent)
        if entry.kind == "d":
            self._enter_folder(self._walk.down(entry, name, included), parent)
        elif included:
            self._place_inside(entry, parent, name)
        elif self._partial:
            self._names.links.skip(entry)
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
            self._names.links.skip_more(before, entry)
        if not entry.flags & MORE:
            self._long = self._long_entry = None

    def _place_inside(self, entry: Entry, parent: Step | None, name: bytes) -> None:
        if not entry.link:
            self._place_first(entry, parent, name, entry.path)
            return
        content = self._names.links.content_of(entry)
        if content is None:
            self._place_further(entry, parent, name)
            return
        first, *more = content
        self._place_first(first, parent, name, entry.link)
        for record in more:
            if self._long is not None:
                self._lay(self._long, record)
        self._long = None

    def _place_further(self, entry: Entry, parent: Step | None, name: bytes) -> None:
        """Restore a further name of a file."""
        file = self._names.links.find(entry)
        if self._here is not None and self._names.kept(entry, self._here.there(parent), name, file):
            return
        if self._dry:
            self._planned(entry.path, "linked")
        else:
            self._names.link(entry, self._folder(parent), name, file)

    def _place_first(self, entry: Entry, parent: Step | None, name: bytes, link_path: bytes) -> None:
        """Restore a file, or the first name of a hard-linked one."""
        found = self._here.look(parent, name, entry) if self._here is not None else NOTHING
        keep = found.verdict is Verdict.KEEP
        if keep and entry.kind == "f" and entry.nlink < 2 and not entry.flags & MORE:
            # One name and one record: of most restores in place that is nearly all that there is to do.
            self._keep(entry, parent, name, found.state)
            lay_out(entry, 0)  # a record that does not fit together is refused, kept or not
            return
        file = RestoredFile(self._stage.top if keep or self._dry else self._folder(parent), name, entry)
        if entry.nlink > 1:
            file.home = self._names
            self._names.links.add(link_path, file)
        if keep:
            file.done, file.kept = True, (self._keep(entry, parent, name, found.state), name)
        elif self._strict and found.state is not None:
            file.done = True
            self._stage.note("in-the-way", entry.path, "it was not there when the restore began", gap=True)
        elif self._dry and found.verdict is Verdict.NEW:
            file.done = True
            self._planned(entry.path, "new" if found.state is None else "changed")
        else:
            with self._stage.lock:
                file.folder.open_children += 1
            if self._begun(file):
                pass
            elif self._comparing is not None and self._here is not None and found.verdict is Verdict.COMPARE:
                there = self._here.there(parent)
                assert there is not None and found.state is not None
                self._comparing.begin(file, Base(there, name, found.state, own=False))
        if entry.kind == "f":
            self._position = 0
            if entry.flags & MORE:
                self._long = file
            self._lay(file, entry)
        elif not file.done:
            self._names.make_special(file)

    def _keep(self, entry: Entry, parent: Step | None, name: bytes, state: os.stat_result | None) -> Folder:
        """Keep what lies in the output; return the folder that it lies in."""
        assert self._here is not None and state is not None
        there = self._here.there(parent)
        assert there is not None
        self._stage.files += entry.kind == "f"
        self._here.kept(there, name, state, entry)
        return there

    def _begun(self, file: RestoredFile) -> bool:
        """Tell whether an interrupted restore had begun a file: then it goes on with that."""
        if not self._resumed or file.entry.kind != "f" or self._comparing is None:
            return False
        state = self._stage.left_file(file.folder, file.name, file.entry)
        if state is None:
            return False
        self._comparing.begin(file, Base(file.folder, file.name, state, own=True))
        return True

    def _lay(self, file: RestoredFile, entry: Entry) -> None:
        """Turn one record's extents into pieces; finish the file if nothing is left to write."""
        runs, self._position = lay_out(entry, self._position)
        if file.done:
            self._check_kept(file, entry)
            return
        file.sparse = file.sparse or bool(entry.packed_holes) or bool(entry.flags & PAGED)
        if self._comparing is not None and entry.packed_holes:
            self._comparing.holes(file, entry.iter_holes())
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

    def _check_kept(self, file: RestoredFile, entry: Entry) -> None:
        """Look at the last record of a long file that was kept: it alone tells whether the file changed meanwhile."""
        if file.kept is None or entry is file.entry or entry.flags & MORE:
            return
        if entry.size != file.entry.size or entry.flags & (CHANGED | UNTRUSTED):
            self._stage.note(
                "not-restored", entry.path, "it changed during the backup: --checksum compares it", gap=True
            )

    def _add_piece(self, chunk_id: bytes, piece: Piece) -> None:
        group = self._group
        if group is None or group.chunk_id != chunk_id or len(group.pieces) >= MAX_GROUP_PIECES:
            self._close_group()
            group = self._group = Group(chunk_id, [])
        group.pieces.append(piece)

    def _close_group(self) -> None:
        """Pass on what is to be fetched, unless it lies here already."""
        group, self._group = self._group, None
        if group is None or (self._comparing is not None and self._comparing.settle(group)):
            return
        # A dry run fetches what it must compare, and nothing else: else it could only guess.
        if not self._dry or any(piece.file.base is not None and not piece.file.failed for piece in group.pieces):
            self._groups.append(group)

    def _list_changed(self, file: RestoredFile) -> None:
        if not file.failed:
            file.failed = True
            self._planned(file.entry.path, "changed")
            self._stage.release(file.folder)

    # -- folders

    def _enter_folder(self, step: Step, parent: Step | None) -> None:
        same = self._here is not None and self._here.enter(step, parent)
        if not step.included or (same and step.name):
            return
        if not self._dry:
            self._folder(step)
        elif not same:
            self._planned(step.entry.path, "new" if step.there is None else "metadata")

    def _touch(self, step: Step) -> None:
        """Have a folder get its metadata when all is published, for something in it will be removed before."""
        if not self._dry:
            self._folder(step)

    def _folder(self, step: Step | None) -> StagedFolder:
        """Return the staged folder of a step; it and those above are made if they are not there yet."""
        missing = []
        while step is not None and step.folder is None:
            missing.append(step)
            step = step.parent
        folder = self._stage.top if step is None or step.folder is None else step.folder
        for inner in reversed(missing):
            folder = inner.folder = self._make_folder(folder, inner)
        return folder

    def _make_folder(self, parent: StagedFolder, step: Step) -> StagedFolder:
        if step.name:
            folder = self._stage.make_folder(parent, step.name, step.entry)
            folder.there = step.there
            if not step.included:
                self._stage.mark_ancestor(folder)
            return folder
        self._stage.top.entry = step.entry
        return self._stage.top

    def _leave(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if self._here is not None and self._here.left(step):
                self._touch(step)
            if step.folder is not None and step.folder is not self._stage.top:
                self._stage.drop_leftover(step.folder)
                self._stage.release(step.folder)
