"""Bad input and faults of disks: a clear error, the documented exit status, and nothing lost."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
from dataclasses import replace

import pytest
from blake3 import blake3
from e2e_node import PASSWORD, Node, ended, sealed
from e2e_trees import MIB, assert_same, large_tree, noise, small_tree

from transporter.keys.slot import finish_slot, password_header, read_slot
from transporter.repository import points as point_files

CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root read everything
PR_CAPBSET_DROP = 24


def can_mount():
    words = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
    return (
        shutil.which("unshare") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


needs_mount = pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a small disk")


def on_small_disk(folder, size, *, keep=True):
    """Words before a command that give it ``folder`` on a disk of its own of that size, holding what it held."""
    fill = 'cp -a "$1" "$1.copy" && ' if keep else ""
    back = 'cp -a "$1.copy/." "$1/" && rm -r "$1.copy" && ' if keep else ""
    mount = f'mount -t tmpfs -o mode=700,size={size} none "$1"'
    return ["unshare", "-m", "sh", "-c", f'{fill}{mount} && {back}shift && exec "$@"', "sh", str(folder)]


def failed(done, status, code, words=""):
    assert (done.status, done.failed["code"]) == (status, code), done
    assert words.lower() in done.err.lower(), done.err
    assert len(done.err.strip().splitlines()) == 1, f"one clear line, not {done.err!r}"
    assert done.failed["remedy"]


@pytest.fixture
def tree(tmp_path):
    return small_tree(tmp_path / "tree")


# --- full disks and quotas -------------------------------------------------------------------------------------


@needs_mount
def test_a_full_disk_at_the_target_fails_the_job_and_loses_nothing(new_pair, tree, tmp_path):
    pair = new_pair(serve=False)
    pair.serve(before=on_small_disk(pair.target.repository, "12m"))
    first = pair.source.job("backup", "--job", "small", *sealed(), tree)
    failed(
        pair.source("backup", "--job", "large", *sealed(), large_tree(tmp_path / "large", 24)),
        1,
        "disk-full",
        "no room",
    )
    assert [row["point"] for row in pair.source.ok("points").objects] == [first["point"]]
    pair.source.job("restore", "small", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")
    assert "Traceback" not in pair.target.log_text()


@needs_mount
@pytest.mark.parametrize("folder", ["cache", "."])
def test_a_full_disk_at_the_source_fails_the_job_and_loses_nothing(new_pair, tmp_path, folder):
    pair = new_pair()
    tree = tmp_path / "many"
    tree.mkdir()
    for at in range(3000):
        (tree / f"{'a long name, so that the manifest grows ' * 4}{at}").touch()
    size = {"cache": "64k", ".": "200k"}[folder]
    command = pair.source.command("backup", "--job", "docs", *sealed(), tree)
    words = [*on_small_disk(pair.source.home / folder, size), *command]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    failed(ended(process), 1, "disk-full", "no room")
    assert pair.source("points", "--from", "offsite/main").objects == []


@needs_mount
def test_a_full_disk_under_a_restore_fails_it_and_leaves_nothing_half(pair, tmp_path):
    tree = large_tree(tmp_path / "tree", 8)
    pair.source.job("backup", "--job", "full-restore", *sealed(), tree)
    out = tmp_path / "out"
    out.mkdir()
    words = pair.source.command("restore", "full-restore", "latest", "--output", out)
    look = 'status=$?; ls -A "$0"; exit $status'
    script = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=3m none "$0" && "$@"; {look}', str(out)]
    process = subprocess.Popen([*script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done = ended(process)
    lines = done.out.splitlines()
    assert all(line.startswith("{") for line in lines), f"left behind: {lines[-1]}"
    failed(done, 1, "disk-full", f"no room left for {out}")


def test_a_quota_is_kept_and_what_is_committed_stays(new_pair, tree, tmp_path):
    pair = new_pair(serve=False)
    pair.target.configure("\n[repositories.main]\n", '\n[repositories.main]\nquota = "6MB"\n')
    pair.serve()
    first = pair.source.job("backup", "--job", "small", *sealed(), tree)
    large = large_tree(tmp_path / "large", 8)
    failed(pair.source("backup", "--job", "large", *sealed(), large), 5, "quota-exceeded", "quota")
    assert [row["point"] for row in pair.source.ok("points").objects] == [first["point"]]
    pair.source.job("verify", "small")
    pair.target.stop()
    pair.target.configure('"6MB"', '"20MB"')
    pair.serve()
    pair.source.job("run", "large")


# --- repositories that are not as they were --------------------------------------------------------------------


def test_a_repository_of_a_future_version_is_left_alone_and_the_others_are_served(new_pair, tree, tmp_path):
    pair = new_pair(serve=False)
    path = pair.target.repository / "format"
    raw = bytearray(path.read_bytes()[:-32])
    raw[11] += 1
    path.write_bytes(raw + blake3(raw).digest())
    before = sorted(path.stat().st_mtime_ns for path in pair.target.repository.rglob("*") if path.is_file())
    for command in (("scrub", "main"), ("repository", "rebuild-index", "main")):
        done = pair.target(*command)
        failed(done, 7, "unsupported-format", "version 2")
    pair.serve()
    assert "repository not opened" in pair.target.log_text()
    failed(pair.source("backup", "--job", "a", *sealed(), tree), 5, "refused", "version 2")
    pair.source.job("backup", "--job", "b", *sealed(to="offsite/rest"), tree)
    pair.source.job("restore", "b", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")
    pair.target.stop()
    pair.target.configure('[repositories.rest]\nencrypt_at_rest = "vault"\n', "")
    failed(pair.target("serve"), 7, "unsupported-format", "version 2")
    after = sorted(path.stat().st_mtime_ns for path in pair.target.repository.rglob("*") if path.is_file())
    assert before == after


def test_a_home_of_a_future_version_is_left_alone(new_pair):
    import sqlite3

    pair = new_pair(serve=False)
    for name in ("catalog.db", "keys.db"):
        with sqlite3.connect(pair.source.home / name) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            database.execute("PRAGMA user_version = 99")
        database.close()
        done = pair.source("points", "--from", "offsite/main")
        failed(done, 7, "unsupported-format", "newer version")
        with sqlite3.connect(pair.source.home / name) as database:
            database.execute(f"PRAGMA user_version = {version}")
        database.close()


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))


@pytest.fixture
def copied(new_pair, tree):
    """A pair with one point; the daemon has stopped."""
    pair = new_pair()
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    pair.target.stop()
    return pair


def test_a_flipped_bit_in_a_pack_is_found_by_scrub_and_verify_and_never_restored(copied, tree, tmp_path):
    (pack,) = copied.target.files("packs/*/*")
    pack.chmod(0o600)
    flip(pack, pack.stat().st_size // 2)
    done = copied.target("scrub", "main")
    assert (done.status, done.failed["code"]) == (7, "damaged")
    assert [event for event in done.events("damage_found") if pack.name in event["where"]]
    copied.serve()
    done = copied.source("verify", "docs")
    assert (done.status, done.failed["code"]) == (7, "damaged")
    assert done.events("damage_found")
    done = copied.source("restore", "docs", "latest", "--output", tmp_path / "out")
    assert (done.status, done.failed["code"]) == (7, "damaged")
    assert "--keep-going" in done.err and not (tmp_path / "out").exists()
    done = copied.source("restore", "docs", "latest", "--output", tmp_path / "out", "--keep-going")
    assert done.status == 7, "what is sound is restored, what is not is listed"
    skipped = done.events("file_skipped")
    assert skipped and len(skipped) == done.finished["files_damaged"]
    assert {event["path"] for event in done.events("range_lost")} == {event["path"] for event in skipped}
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        assert path.read_bytes() == (tree / path.relative_to(tmp_path / "out")).read_bytes()


ZONES = {"source": sealed(), "none": ("--to", "offsite/main", "--encrypt", "none")}


@pytest.mark.parametrize("zone", ZONES)
def test_a_flipped_bit_in_a_pack_is_healed_by_scrub_and_the_next_run(new_pair, tree, tmp_path, zone):
    pair = new_pair()
    first = pair.source.job("backup", "--job", "docs", *ZONES[zone], tree)
    (pack,) = pair.target.files("packs/*/*")
    pack.chmod(0o600)
    flip(pack, pack.stat().st_size // 2)
    done = pair.target("scrub", "main")
    assert (done.status, done.failed["code"]) == (7, "damaged")
    assert pack.exists(), "a scrub alone touches nothing"
    assert "scrub main --heal" in done.failed["remedy"]

    done = pair.target("scrub", "main", "--heal")
    assert (done.status, done.failed["code"]) == (7, "damaged")
    assert "packs set aside in quarantine/: 1, of" in done.failed["what"]
    assert "1 dropped" in done.failed["what"]
    assert [path.name for path in pair.target.files("quarantine/*")] == [pack.name, f"{pack.name}.lost"]
    # The chunk is still missing, and what needs it is still named; but there is no damaged pack any more.
    done = pair.target("scrub", "main")
    assert done.status == 7
    assert [event["where"].split("/")[0] for event in done.events("damage_found")] == ["points"]

    done = pair.source.ok("run", "docs")
    assert [note for note in done.events("note") if "read again" in note["text"]], "no file has changed"
    assert 0 < done.finished["bytes_new"] < first["bytes_new"], "what is missing, and no more"
    assert pair.source("verify", "docs").status == 0
    pair.target.ok("scrub", "main")
    pair.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


def test_a_copy_heals_a_repository_while_the_daemon_serves_it(new_pair, tree, tmp_path):
    pair = new_pair()
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    (pack,) = pair.target.files("packs/*/*")
    shutil.copytree(pack.parents[2], tmp_path / "copy")
    whole = pack.read_bytes()
    pack.chmod(0o600)
    flip(pack, pack.stat().st_size // 2)
    failed(pair.target("scrub", "main", "--heal", "--from", "nowhere"), 2, "usage", "neither a repository")
    failed(pair.target("scrub", "main", "--heal", "--from", pack.parents[2]), 2, "usage", "is the repository itself")
    done = pair.target.ok("scrub", "main", "--heal", "--from", tmp_path / "copy", "--limit", "100MB/s")
    (event,) = done.events("scrub_finished")
    assert (event["healed"], event["supplied"], event["lost"]) == (1, 1, 0)
    assert pack.read_bytes() == whole, "the very same pack"
    pair.target.ok("scrub", "main")
    pair.source.job("verify", "docs")


def test_what_heals_nothing_says_so(copied):
    copied.target.ok("scrub", "main", "--heal")
    (point,) = copied.target.files("points/*/*/*")
    point.chmod(0o600)
    flip(point, 500)
    failed(copied.target("scrub", "main", "--heal"), 7, "damaged", "nothing to heal")
    (pack,) = copied.target.files("packs/*/*")
    pack.chmod(0o600)
    pack.write_bytes(bytes(pack.stat().st_size))
    assert copied.target("repository", "rebuild-index", "main").status == 7
    done = copied.target("scrub", "main", "--heal")
    assert "no pack is damaged" not in done.failed["what"]
    assert any("move the file out" in event["what"] for event in done.events("damage_found"))
    assert pack.exists()
    pack.unlink()
    done = copied.target("scrub", "main", "--heal")
    assert (done.status, done.failed["code"]) == (7, "damaged")
    copied.serve()
    copied.source.job("run", "docs")
    copied.source.job("verify", "docs")


def test_the_next_run_replaces_a_pack_that_is_gone(copied, tree, tmp_path):
    (pack,) = copied.target.files("packs/*/*")
    pack.unlink()
    copied.target.ok("repository", "rebuild-index", "main")
    copied.serve()
    done = copied.source.ok("run", "docs")
    assert [note for note in done.events("note") if "read again" in note["text"]]
    copied.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_a_point_is_found_by_scrub_and_is_never_opened(copied, tmp_path, where):
    (point,) = copied.target.files("points/*/*/*")
    point.chmod(0o600)
    flip(point, int(point.stat().st_size * where))
    done = copied.target("scrub", "main")
    assert (done.status, done.failed["code"]) == (7, "damaged")
    copied.serve()
    for command in (("restore", "docs", "latest", "--output", tmp_path / "out"), ("verify", "docs")):
        done = copied.source(*command)
        assert (done.status, done.failed["code"]) == (7, "damaged"), done
        assert "is damaged" in done.err
        assert not (tmp_path / "out").exists()


def test_one_damaged_point_does_not_hide_the_sound_ones(copied, tree, tmp_path):
    copied.serve()
    copied.source.job("run", "docs")
    first, second = (row["point"] for row in copied.source.points("docs"))
    (bad,) = copied.target.files(f"points/*/docs/{second}")
    bad.chmod(0o600)
    flip(bad, 500)
    assert [(row["point"], row["kind"]) for row in copied.source.points("docs")] == [
        (first, "full"),
        (second, "damaged"),
    ]
    for point in ("latest", second):
        failed(copied.source("verify", "docs", point), 7, "damaged", f"restore point {second[:8]} is damaged")
    copied.source.job("restore", "docs", first, "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")

    third = copied.source.job("run", "docs")
    assert third["kind"] == "incremental"
    assert third["bytes_new"] < 100_000, "the chunks of the sound point are used"
    assert copied.source.points("docs")[-1]["parent"] == first
    copied.source.job("verify", "docs")
    copied.source.job("run", "docs")


def test_a_flipped_bit_in_the_index_is_found_and_mended(copied, tree, tmp_path):
    (index,) = copied.target.files("index/chunks.db")
    # In a row of the table of chunks: a stored id.
    chunk = bytes.fromhex(copied.target.files("points/*/*/*")[0].read_bytes()[-72:-40].hex())
    at = index.read_bytes().find(chunk)
    assert at > 0
    flip(index, at + 5)
    done = copied.target("scrub", "main")
    assert (done.status, done.failed["code"]) == (7, "damaged")
    assert "rebuild-index" in done.failed["remedy"]
    copied.target.ok("repository", "rebuild-index", "main")
    copied.target.ok("scrub", "main")
    copied.serve()
    copied.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


def test_an_index_that_is_lost_is_made_anew(copied, tree, tmp_path):
    shutil.rmtree(copied.target.repository / "index")
    (copied.target.repository / "index").mkdir(mode=0o700)
    copied.target.ok("repository", "rebuild-index", "main")
    copied.serve()
    assert copied.source.job("run", "docs")["bytes_new"] == 0
    copied.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


# --- passwords -------------------------------------------------------------------------------------------------


def rewrite_slot(target, change):
    """Replace the only slot of the only point by ``change(slot)``."""
    (path,) = target.files("slots/*/*")
    point_id, slot_id = bytes.fromhex(path.parent.name), bytes.fromhex(path.name)
    slot = point_files.decode_slot(path.read_bytes(), point_id, slot_id)
    path.chmod(0o600)
    path.write_bytes(point_files.encode_slot(point_id, slot_id, change(slot)))


def without_salt(slot):
    parts = read_slot(slot)
    return finish_slot(password_header(replace(parts.info, salt=b"")), parts.cryptogram)


def altered_cryptogram(slot):
    parts = read_slot(slot)
    broken = bytearray(parts.cryptogram)
    broken[-1] ^= 1
    return finish_slot(parts.bound, bytes(broken))


def test_wrong_password_missing_salt_and_damaged_slot_are_three_different_errors(copied, second_home, tmp_path, tree):
    newcomer = second_home(copied.source, keys=False)
    copied.serve()
    newcomer.dials("offsite", copied.target.port)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_bytes(PASSWORD + b"\r\n")
    wrong.write_bytes(b"hunter2\n")
    restore = ("restore", "docs", "latest", "--output", tmp_path / "out", "--password-file")
    original = copied.target.files("slots/*/*")[0].read_bytes()

    failed(newcomer(*restore, wrong), 6, "wrong-password")
    failed(newcomer("restore", "docs", "latest", "--output", tmp_path / "out"), 6, "no-key")

    rewrite_slot(copied.target, without_salt)
    for each in (right, wrong):
        failed(newcomer(*restore, each), 7, "corrupted-point", "salt")
    failed(copied.source("verify", "docs"), 7, "corrupted-point", "salt")

    (path,) = copied.target.files("slots/*/*")
    path.write_bytes(original)
    rewrite_slot(copied.target, altered_cryptogram)
    failed(newcomer(*restore, right), 7, "damaged")

    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    done = newcomer(*restore, right)
    assert (done.status, done.failed["code"]) == (7, "damaged")
    path.unlink()
    assert newcomer(*restore, right).status == 7

    assert not (tmp_path / "out").exists()
    path.write_bytes(original)
    newcomer.job(*restore, right)
    assert_same(tree, tmp_path / "out")
    assert wrong.read_bytes().strip() not in newcomer.home.joinpath("catalog.db").read_bytes()


def test_a_newline_at_the_end_of_a_password_file_is_no_part_of_it(pair, second_home, tree, tmp_path):
    """Added with a newline, opened without one."""
    pair.source.job("backup", "--job", "newline", *sealed(), tree)
    bare = tmp_path / "bare"
    bare.write_bytes(PASSWORD)
    newcomer = second_home(pair.source, keys=False)
    newcomer.job("restore", "newline", "latest", "--output", tmp_path / "out", "--password-file", bare)
    assert_same(tree, tmp_path / "out")
    two = tmp_path / "two"
    two.write_bytes(b"one line\nanother\n")
    failed(newcomer("password", "add", "new", "--from-file", two), 2, "usage", "more than one line")


def test_the_targets_password_is_not_asked_of_the_source(new_pair, tree, tmp_path):
    """Mode target: without the target's password nothing is restored, whoever asks."""
    pair = new_pair()
    where = ("--to", "offsite/main", "--encrypt", "target", "--password", "vault")
    pair.source.job("backup", "--job", "docs", *where, tree)
    pair.target.stop()
    keys = {path: path.read_bytes() for path in (*pair.target.home.glob("keys.db*"), pair.target.home / "master.key")}
    for path in keys:
        path.unlink()
    pair.serve()
    done = pair.source("restore", "docs", "latest", "--output", tmp_path / "out")
    failed(done, 6, "no-key")
    assert not (tmp_path / "out").exists()


# --- configuration and what people type ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ('[node]\nname = "a"\nlissten = "x:1"\n', "3:1", "unknown key 'lissten'"),
        ('[node]\nname = "a"\n[jobs.x]\nto = "b/c"\n  encrypted = "none"\n', "5:3", "unknown key 'encrypted'"),
        ('[node]\nname = "a"\n[nodes]\n', "3:2", "unknown section [nodes]"),
        ('[node]\nname = "a\n', "2:", "not valid TOML"),
        ('[node]\nname = "a"\n[limits]\nredial_for = "soon"\n', "4:1", "redial_for"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "points", "check-config"])
def test_a_wrong_configuration_is_named_with_line_and_column(tmp_path, text, where, words, command):
    node = Node(tmp_path / "home")
    node.ok("init", "--name", "a")
    (node.home / "config.toml").write_text(text)
    done = node(command)
    failed(done, 3, "config", words)
    assert f"config.toml:{where}" in done.err


def test_an_address_that_is_taken_is_a_configuration_error(pair, new_pair):
    other = new_pair(serve=False)
    other.target.configure('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{pair.target.port}"')
    failed(other.target("serve"), 3, "config", "cannot listen")


def test_a_restore_into_a_folder_that_is_not_empty_changes_nothing(pair, tree, tmp_path):
    pair.source.job("backup", "--job", "occupied", *sealed(), tree)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    failed(pair.source("restore", "occupied", "latest", "--output", out), 2, "usage", "is not empty")
    assert [path.name for path in out.iterdir()] == ["mine"]
    (tmp_path / "file").touch()
    failed(pair.source("restore", "occupied", "latest", "--output", tmp_path / "file"), 2, "usage", "not a folder")


def test_points_and_jobs_that_are_not_there_are_usage_errors(pair, tree, tmp_path):
    pair.source.job("backup", "--job", "exists", *sealed(), tree)
    out = ("--output", tmp_path / "out")
    failed(pair.source("restore", "exists", "ffffffff", *out), 2, "usage", "no restore point begins with")
    failed(pair.source("restore", "exist", "latest", *out), 3, "config", "did you mean 'exists'?")
    failed(pair.source("run", "exist"), 3, "config", "did you mean 'exists'?")
    failed(pair.source("restore", "other", "latest", "--from", "offsite/main", *out), 2, "usage", "no restore points")


# --- sources that cannot be read -------------------------------------------------------------------------------


def powerless():
    """Make root as powerless as anybody: files without permission cannot be read by the program that comes."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in CAPABILITIES:
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) and ctypes.get_errno() != errno.EPERM:
            os._exit(99)


def test_files_that_cannot_be_read_are_listed_and_the_point_is_marked(new_pair, tree, tmp_path):
    pair = new_pair()
    (tree / "folder-0" / "file-00.txt").chmod(0)
    (tree / "folder-1").chmod(0)
    try:
        done = pair.source.outside("backup", "--job", "docs", *sealed(), tree, preexec_fn=powerless)
    finally:
        (tree / "folder-1").chmod(stat.S_IRWXU)
    assert done.status == 8, done.err
    skipped = {event["path"]: event["reason"] for event in done.events("file_skipped")}
    here = str(tree).lstrip("/")
    assert set(skipped) == {f"{here}/folder-0/file-00.txt", f"{here}/folder-1"}
    assert all("ermission denied" in reason for reason in skipped.values())
    assert done.finished["files_skipped"] == 2
    (row,) = pair.source.points("docs")
    assert row["skipped"] == 2
    pair.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert (tmp_path / "out" / "big.bin").read_bytes() == (tree / "big.bin").read_bytes()
    (tree / "folder-0" / "file-00.txt").chmod(0o644)
    assert pair.source.job("run", "docs")["files_skipped"] == 0
    with pair.source.catalog as catalog:
        assert [run.exit_status for run in catalog.runs("docs")] == [0, 0, 8]


def test_an_image_that_cannot_be_read_fails_the_job(pair, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(noise(MIB, 1))
    pair.source.job("backup", "--job", "image-gone", *sealed(), "--as", "image", image)
    image.unlink()
    done = pair.source("run", "image-gone")
    assert done.status in {1, 2}
    assert len(done.err.strip().splitlines()) == 1 and "image" in done.err
    assert len(pair.source.points("image-gone")) == 1
    assert not list((pair.source.home / "cache").glob("image-gone*new*"))


def test_a_root_that_is_gone_is_an_error_and_not_an_empty_copy(pair, tree):
    pair.source.job("backup", "--job", "gone", *sealed(), tree)
    shutil.rmtree(tree)
    done = pair.source("run", "gone")
    assert done.status in {1, 2, 8}, done
    points = pair.source.points("gone")
    assert len(points) == 1 or points[-1]["skipped"], "an unmounted disk must not look like deleted files"


def test_a_home_that_others_may_look_into_is_refused(new_pair):
    pair = new_pair(serve=False)
    pair.source.home.chmod(0o755)
    failed(pair.source("points"), 3, "config", "chmod 700")
    pair.source.home.chmod(0o700)
    (pair.source.home / "identity.key").chmod(0o644)
    failed(pair.source("points", "--from", "offsite/main"), 3, "config", "can be read by others")
