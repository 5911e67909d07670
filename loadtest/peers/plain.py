"""The plain tools: rsync over ssh, tar through lz4 and ssh, and a local copy. They neither deduplicate nor seal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar

from ..measure import BenchError, Usage, run
from ..ssh import HOST
from .base import IMAGE_FIRST, IMAGE_RESTORE, TREE_FIRST, TREE_RESTORE, Peer, Result


class Rsync(Peer):
    """rsync -aHAX; the target's file system is flushed once at the end, inside the measured time."""

    name: ClassVar[str] = "rsync"
    options: ClassVar[str] = "-aHAX"
    needs: ClassVar[tuple[str, ...]] = ("rsync", "ssh")
    note: ClassVar[str] = "-aHAX over ssh, then one `sync -f` of the target"

    def __enter__(self) -> Rsync:
        """There is nothing to prepare."""
        return self

    def _sync(self, source: str, target: str, settle: Path, stored: Path | None) -> Result:
        command = ["rsync", self.options, "-e", self.ssh.shell(), source, target]
        return self.over_ssh(command, settle=settle, stored=stored)

    def copy(self, what: str, source: Path) -> Result:
        """Mirror the source into a folder of the target."""
        stored = self.folder / f"copy-{what}"
        stored.mkdir(exist_ok=True)
        name = f"{source}/" if what == "tree" else str(source)
        return self._sync(name, f"{HOST}:{stored}/", stored, stored)

    def restore(self, what: str, output: Path) -> Result:
        """Mirror the copy back."""
        return self._sync(f"{HOST}:{self.folder}/copy-{what}/", f"{output}/", output, None)


class RsyncZ(Rsync):
    """rsync that compresses: what one types where the line is slow."""

    name: ClassVar[str] = "rsync -z"
    options: ClassVar[str] = "-aHAXz"
    note: ClassVar[str] = "-aHAXz over ssh, then one `sync -f` of the target"


class TarLz4(Peer):
    """tar | lz4 | ssh 'cat > file; sync file': no deduplication, no index, the fastest thing one can type."""

    name: ClassVar[str] = "tar|lz4|ssh"
    works: ClassVar[tuple[str, ...]] = (IMAGE_FIRST, IMAGE_RESTORE, TREE_FIRST, TREE_RESTORE)
    needs: ClassVar[tuple[str, ...]] = ("tar", "lz4", "ssh")
    note: ClassVar[str] = "`tar | lz4 | ssh 'cat > file; sync file'`; nothing to repeat, so no second copy"

    def __enter__(self) -> TarLz4:
        """There is nothing to prepare."""
        return self

    def _archive(self, what: str) -> Path:
        return self.folder / "archives" / f"{what}.tar.lz4"

    def copy(self, what: str, source: Path) -> Result:
        """Send one compressed archive."""
        archive = self._archive(what)
        archive.parent.mkdir(exist_ok=True)
        file = shlex.quote(str(archive))
        tar = shlex.join(["tar", "-C", str(source.parent), "-cf", "-", source.name])
        ssh = shlex.join([*self.ssh.client(), f"cat > {file} && sync {file}"])
        return self.over_ssh(["sh", "-c", f"{tar} | lz4 -q -c | {ssh}"], stored=archive.parent)

    def restore(self, what: str, output: Path) -> Result:
        """Fetch the archive and unpack it."""
        ssh = shlex.join([*self.ssh.client(), f"cat {shlex.quote(str(self._archive(what)))}"])
        tar = shlex.join(["tar", "-C", str(output), "-xf", "-"])
        return self.over_ssh(["sh", "-c", f"{ssh} | lz4 -q -d -c | {tar}"], settle=output)


class LocalCopy(Peer):
    """What the disk and the kernel take for the files of a restore, whoever writes them: no line, no opening."""

    name: ClassVar[str] = "local copy"
    works: ClassVar[tuple[str, ...]] = (IMAGE_RESTORE, TREE_RESTORE)
    needs: ClassVar[tuple[str, ...]] = ("cp", "dd")
    needs_ssh: ClassVar[bool] = False
    note: ClassVar[str] = (
        "`cp -a` of the tree, `dd bs=1M oflag=direct` of the image, from the page cache to where restores go, then one"
        " `sync -f`: what the disk and the kernel take, whoever restores"
    )

    def __enter__(self) -> LocalCopy:
        """There is nothing to prepare."""
        return self

    def copy(self, what: str, source: Path) -> Result:
        """There is no line to copy over."""
        raise BenchError(f"a local copy is no copy to another site ({what}, {source.name})")

    def restore(self, what: str, output: Path) -> Result:
        """Copy the original."""
        if what == "tree":
            command = ["cp", "-a", f"{self.corpora.tree}/.", f"{output}/"]
        else:
            source = self.corpora.image
            command = ["dd", f"if={source}", f"of={output / source.name}", "bs=1M", "oflag=direct", "status=none"]
        done = run(command, settle=output)
        return Result(done.seconds, done.usage, Usage(0.0, 0), flush=done.flush)
