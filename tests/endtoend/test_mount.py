"""`mount` against the kernel: what programs see, also when something breaks, and that nothing stays mounted."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from compare_trees import differences
from e2e_mount import mounted, needs_mount, reason_not_to
from e2e_node import sealed, wait_until
from e2e_trees import awkward_tree, small_tree

from transporter.cli.main import run_command

pytestmark = needs_mount

# Patience is for people: tests wait some seconds for a target that is away (a busy one must answer in that time), and
# its session sleeps soon.
IMPATIENT = """
import sys
from pathlib import Path
from transporter.jobs import kept_point, mount_silence
mount_silence.ANSWER_SECONDS, kept_point.LONGEST_PAUSE, kept_point.IDLE_SECONDS = 4.0, 0.5, float(sys.argv.pop(1))
from transporter.cli.main import main
main()
"""


class Impatient:
    """A node whose mounts give up soon."""

    def __init__(self, node, idle=300.0):
        self._node = node
        self._idle = idle

    def spawn(self, *arguments, **how):
        line = [sys.executable, "-c", IMPATIENT, str(self._idle), "--home", str(self._node.home), "--json"]
        how = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **how}
        process = subprocess.Popen([*line, *map(str, arguments)], **how)
        self._node._spawned.append(process)
        return process


def test_a_mounted_point_is_the_tree_with_everything_that_a_restore_brings_back(new_pair, tmp_path):
    pair = new_pair()
    tree = awkward_tree(tmp_path / "tree")
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    with mounted(pair.source, tmp_path / "mnt", "docs") as mount:
        # A socket has no content, and is never in a point.
        assert list(differences(tree, mount.place)) == ["special/socket: missing in the restored tree"]
        # Holes are told by the room that a file takes, as far as the kernel lets a file system tell it.
        for sparse in (tree / "sparse").iterdir():
            seen, made = (mount.place / "sparse" / sparse.name).stat(), sparse.stat()
            assert (seen.st_blocks * 512 < seen.st_size) == (made.st_blocks * 512 < made.st_size - 4096)
        with pytest.raises(OSError) as refused:
            (mount.place / "new").write_text("x")
        assert refused.value.errno == errno.EROFS
        options = next(
            line for line in Path("/proc/mounts").read_text().splitlines() if str(mount.place) in line
        ).split()[3]
        assert {"ro", "nosuid", "nodev"} <= set(options.split(","))
        done = mount.unmount()
    assert (done.status, done.err) == (0, "")
    assert not os.path.ismount(mount.place)
    assert os.listdir(mount.place) == []


def test_all_points_of_a_job_each_in_its_folder(new_pair, tmp_path):
    pair = new_pair()
    tree = small_tree(tmp_path / "tree")
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    (tree / "new").write_text("new")
    pair.source.job("run", "docs")
    with mounted(pair.source, tmp_path / "mnt", "docs", "--all") as mount:
        # By their ids: names that are of the same second do not sort by age.
        names = {name.rpartition("_")[2]: name for name in os.listdir(mount.place)}
        first, second = (names.pop(row["point"][:8]) for row in pair.source.points("docs"))
        assert names == {"latest": "latest"} and os.readlink(mount.place / "latest") == second
        assert "new" in os.listdir(mount.place / "latest")
        assert list(differences(tree, mount.place / second)) == []
        assert set(os.listdir(mount.place / second)) - set(os.listdir(mount.place / first)) == {"new"}
        assert (mount.place / first / "big.bin").read_bytes() == (tree / "big.bin").read_bytes()
        with pytest.raises(FileNotFoundError):
            (mount.place / "2001-01-01_000000Z_00000000").stat()
        # Unmounted by somebody else: that is an end as good as any.
        subprocess.run(["fusermount3", "-u", str(mount.place)], check=True)
        assert mount.ended().status == 0


def test_a_repository_of_this_node_is_mounted_without_a_line(new_pair, tmp_path):
    pair = new_pair()
    tree = small_tree(tmp_path / "tree")
    zone = ("--to", "offsite/main", "--encrypt", "target", "--password", "vault")
    pair.source.job("backup", "--job", "docs", *zone, tree)
    pair.target.stop()
    with mounted(pair.target, tmp_path / "mnt", "docs", "--from", "main") as mount:
        assert list(differences(tree, mount.place)) == []


def is_gone(place):
    """Whether nothing is mounted any more, neither alive nor dead (which is no mount to `ismount`)."""
    try:
        return not os.path.ismount(place) and os.listdir(place) == []
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_mounted_whatever_ends_it(new_pair, tmp_path, how):
    pair = new_pair()
    tree = small_tree(tmp_path / "tree")
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    with mounted(pair.source, tmp_path / "mnt", "docs") as mount:
        busy = os.open(mount.place / "big.bin", os.O_RDONLY)
        assert os.read(busy, 10) == (tree / "big.bin").read_bytes()[:10]
        done = mount.unmount(how)
        assert done.status == (-9 if how == signal.SIGKILL else 0), done
        wait_until(lambda: is_gone(mount.place), "the mount to be gone")
        # What was open ends for whoever has it open, and hangs nobody.
        with pytest.raises(OSError):
            os.pread(busy, 10, 400_000)
        with contextlib.suppress(OSError):
            os.close(busy)
    assert [path for path in pair.source.home.rglob("cache/*") if path.suffix not in {".manifest", ".db"}] == []


def test_a_target_that_goes_away_is_an_error_in_time_and_comes_back(new_pair, tmp_path):
    pair = new_pair()
    tree = small_tree(tmp_path / "tree")
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    with mounted(Impatient(pair.source), tmp_path / "mnt", "docs") as mount:
        pair.target.kill_daemon()
        pair.target.configure('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{pair.target.port}"')
        # Names are here, contents are not.
        assert set(os.listdir(mount.place)) == set(os.listdir(tree))
        with pytest.raises(OSError) as failed:
            (mount.place / "big.bin").read_bytes()
        assert failed.value.errno == errno.EIO
        pair.serve()

        def reads():
            try:
                return (mount.place / "big.bin").read_bytes() == (tree / "big.bin").read_bytes()
            except OSError:
                return False

        wait_until(reads, "the mount to read again")
        assert list(differences(tree, mount.place)) == []


def test_an_idle_mount_gives_its_session_back_and_opens_another_when_it_is_read(new_pair, tmp_path):
    pair = new_pair()
    tree = small_tree(tmp_path / "tree")
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    with mounted(Impatient(pair.source, idle=0.2), tmp_path / "mnt", "docs") as mount:

        def sessions():
            (status,) = pair.target.ok("status").objects
            return status["sessions"]

        wait_until(lambda: not sessions(), "the session to end")
        assert (mount.place / "big.bin").read_bytes() == (tree / "big.bin").read_bytes()
        wait_until(lambda: not sessions(), "the second session to end, too")
        # A read that is held up for longer than a session idles opens one more.
        opened = mount.said.read_text().count("link_up")
        assert opened >= 2
        # And nobody asks for a further one: names are here.
        assert (mount.place / "folder-0").is_dir() and not sessions()
        assert mount.said.read_text().count("link_up") == opened


def test_a_damaged_chunk_is_an_error_for_its_files_and_an_event(new_pair, tmp_path):
    pair = new_pair()
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("a", "b"):
        (tree / name).write_bytes(os.urandom(6 << 20))
    (tree / "z").write_text("sound")
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    (pack,) = pair.target.files("packs/*/*")
    data = bytearray(pack.read_bytes())
    data[1 << 20] ^= 1  # within the first chunks: of the file a
    pack.chmod(0o600)
    pack.write_bytes(data)
    with mounted(pair.source, tmp_path / "mnt", "docs") as mount:
        for _ in range(2):
            with pytest.raises(OSError) as failed:
                (mount.place / "a").read_bytes()
            assert failed.value.errno == errno.EIO
        assert (mount.place / "b").read_bytes()[-1000:] == (tree / "b").read_bytes()[-1000:]
        assert (mount.place / "z").read_text() == "sound"
        done = mount.unmount()
    (damage,) = done.events("damage_found")
    assert damage["where"].endswith("tree/a") and "damaged at the target" in damage["what"]


def test_what_cannot_be_mounted_is_said_at_once(new_pair, tmp_path):
    pair = new_pair()
    tree = small_tree(tmp_path / "tree")
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    place = tmp_path / "mnt"
    for arguments, status, what in (
        (("docs", place), 2, "No such file"),
        (("docs", tree), 2, "not empty"),
        (("docs", tree / "big.bin"), 2, "not a folder"),
        (("docs", "latest", place, "more"), 2, "too many words"),
        (("docs", "--all", "latest", place), 2, "too many words"),
        (("nobody", place), 3, "nobody"),
    ):
        done = pair.source("mount", *arguments)
        assert (done.status, what in done.err) == (status, True), (arguments, done)
    place.mkdir()
    for point, status in (("0000", 2), ("latest", 4)):
        if status == 4:
            pair.target.kill_daemon()
        done = pair.source("mount", "docs", point, place)
        assert (done.status, done.events("note")) == (status, []), "said once, as what it ended with"
    assert not os.path.ismount(place)


def test_without_the_extra_one_line_says_what_to_install(new_pair, tmp_path, monkeypatch, capsys):
    pair = new_pair(serve=False)
    tree = small_tree(tmp_path / "tree")
    pair.source.configure("[node]", f'[jobs.docs]\nto = "offsite/main"\nencrypt = "none"\npaths = ["{tree}"]\n[node]')
    monkeypatch.setitem(sys.modules, "pyfuse3", None)
    assert run_command(["--home", str(pair.source.home), "mount", "docs", str(tmp_path)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "pyfuse3" in line and "libfuse3-dev" in line and "transporter-pair[mount]" in line


def test_the_reason_to_skip_is_empty_here():
    assert reason_not_to() == ""
