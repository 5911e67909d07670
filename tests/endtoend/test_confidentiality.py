"""Zone ``source``: nothing at the target and nothing on the line says what was copied."""

from __future__ import annotations

import base64
import secrets
import zlib

import pytest
import trio
from e2e_node import PASSWORD, Node, sealed
from e2e_trees import assert_same, noise, words

from protocol.messages import GetPoint, ListPoints
from transporter.clock import SystemClock
from transporter.keys.database import KeyDatabase
from transporter.link.address import parse_address
from transporter.link.dial import Peer, dial_control
from transporter.link.identity import load_identity
from transporter.points.assemble import Place, find_in, open_point
from transporter.points.domain import domain_of
from transporter.repository import Repository
from transporter.repository.point_head import decode_head

MARKERS = 1000


@pytest.fixture(scope="module")
def markers():
    """Random words; a third become names, a third stand in text, a third among noise."""
    return [secrets.token_hex(10).encode() for _ in range(MARKERS)]


@pytest.fixture(scope="module")
def tree(markers, tmp_path_factory):
    root = tmp_path_factory.mktemp("marked") / "tree"
    names, texts, noises = markers[::3], markers[1::3], markers[2::3]
    for at, name in enumerate(names):
        folder = root / f"folder-{at % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        if at % 3 == 0:
            (folder / name.decode()).mkdir()
            (folder / name.decode() / "inner").write_bytes(b"inner")
        elif at % 3 == 1:
            (folder / name.decode()).write_bytes(words(at, at))
        else:
            (folder / f"link-{at}").symlink_to(name.decode())
    for at, marker in enumerate(texts):
        append(root / f"text-{at % 40}", words(1500, at) + marker * 3 + b"\n")
    for at, marker in enumerate(noises):
        append(root / f"noise-{at % 20}", noise(3000, at) + marker)
    return root


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


def everything_of(node):
    """All bytes and all names under a home, and its log."""
    parts = [node.log.read_bytes()]
    for path in sorted(node.home.rglob("*")):
        parts.append(str(path.relative_to(node.home)).encode())
        if path.is_file():
            parts.append(path.read_bytes())
    return b"\0".join(parts)


def found(needles, haystack):
    return [needle for needle in needles if needle in haystack]


def forms(secret):
    """A secret as somebody might write it down by mistake."""
    text = secret.hex().encode()
    return secret, text, text.upper(), base64.b64encode(secret)[:-3], repr(secret)[2:-1].encode()


def keys_of(pair, points):
    """Every key that the source has, for these points and for all else."""
    source = pair.source
    keys = {"password": PASSWORD}
    with KeyDatabase(source.home / "keys.db") as database:
        user_key = database.user_key("office")
        keys |= {"password hash": user_key.hash.raw, "kek": user_key.hash.kek, "master kek": database._kek}
        keys["chunk id key"] = database.domain_key("offsite/main/docs").secret
        for point in points:
            storage_key = database.storage_key(bytes.fromhex(point))
            keys[f"storage key {point}"] = storage_key.secret
            with Repository.open(pair.target.repository, SystemClock(), writable=False) as store:
                keys |= _ring_of(database, store, point)
    keys["master key"] = bytes.fromhex((source.home / "master.key").read_text().split()[-1])
    lines = (source.home / "identity.key").read_text().splitlines()[1:-1]
    keys["identity key"] = base64.b64decode("".join(lines))[36:68]
    return keys


def _ring_of(database, store, point):
    (tenant,) = store._points.tenants()
    head = store.read_head(tenant, "docs", bytes.fromhex(point))
    outline = decode_head(head)
    place = Place(tenant, "docs", store.repository_id, outline.point_id, domain_of(tenant, "docs"), "source")
    slots = list(store.slots(outline.point_id).values())
    ring = open_point(head, slots, lambda _head: place, find_in(database.find_by_salt)).ring
    keys = {f"session key {key.key_id.hex()}": key.secret for key in ring.session_keys}
    return keys | {f"metakey {key.key_id.hex()}": key.secret for key in ring.meta_keys}


def test_no_marker_no_password_and_no_key_reaches_the_target_or_the_line(new_pair, relay, tree, markers, tmp_path):
    pair = new_pair(serve=False)
    pair.source.log.touch()
    pair.serve()
    line = relay(pair, record=True)
    where = sealed()
    first = pair.source.job("backup", "--job", "docs", *where, tree)
    with (tree / "text-0").open("ab") as file:
        file.write(b"a line more")
    second = pair.source.job("run", "docs")
    pair.source.job("verify", "docs")
    pair.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    pair.source.ok("points")
    assert_same(tree, tmp_path / "out")
    pair.target.stop()

    there, on_the_line = everything_of(pair.target), b"".join(line.recorded)
    assert len(there) > 1_000_000 and len(on_the_line) > 2_000_000
    assert found(markers, there) == []
    assert found(markers, on_the_line) == []
    keys = keys_of(pair, [first["point"], second["point"]])
    assert len(keys) >= 13
    for name, secret in keys.items():
        assert len(secret) >= 16, name
        for form in forms(secret):
            assert form not in there, name
            assert form not in on_the_line, name
    for part in (b"folder-0", b"text-0", b"noise-1", b"inner"):
        assert part not in there and part not in on_the_line


def test_the_search_finds_what_is_there_to_be_found(new_pair, relay, tree, markers):
    """The same search over a plain repository: else the test above would prove nothing."""
    pair = new_pair()
    line = relay(pair, record=True)
    pair.source.job("backup", "--job", "docs", "--to", "offsite/main", "--encrypt", "none", tree)
    pair.target.stop()
    there = everything_of(pair.target)
    in_noise = markers[2::3]
    # Where compression leaves bytes as they are.
    assert len(found(in_noise, there)) > len(in_noise) * 0.9
    assert len(found(markers, there)) > MARKERS * 0.6
    assert found(markers, b"".join(line.recorded)) == [], "the line is encrypted in every zone"


@pytest.mark.parametrize("zone", ["target", "at rest"])
def test_where_the_target_seals_the_repository_and_the_line_say_nothing_either(new_pair, relay, tree, markers, zone):
    pair = new_pair()
    line = relay(pair, record=True)
    where = {
        "target": ("--to", "offsite/main", "--encrypt", "target", "--password", "vault"),
        "at rest": ("--to", "offsite/rest", "--encrypt", "none"),
    }[zone]
    pair.source.job("backup", "--job", "docs", *where, tree)
    pair.target.stop()
    assert found(markers, everything_of(pair.target)) == []
    assert found(markers, b"".join(line.recorded)) == []
    # The source's zone holds no backup keys: nothing of the target's, and no key of the run.
    with KeyDatabase(pair.target.home / "keys.db") as database:
        user_key = database.user_key("vault")
    here = b"".join(path.read_bytes() for path in pair.source.home.rglob("*") if path.is_file())
    assert user_key.hash.raw not in here and user_key.hash.kek not in here
    with KeyDatabase(pair.source.home / "keys.db") as database:
        assert database.runs("offsite/main/docs") == ()


def test_what_the_line_carries_does_not_compress(new_pair, relay, tree):
    """Encrypted twice over, equal files look different, and so does the same file on another day."""
    pair = new_pair()
    line = relay(pair, record=True)
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    sent = b"".join(block for block in line.recorded if len(block) > 10_000)
    assert len(zlib.compress(sent, 1)) > 0.999 * len(sent)
    pieces = [sent[at : at + 32] for at in range(0, len(sent) - 32, 32)]
    assert len(set(pieces)) == len(pieces)


def test_two_jobs_of_the_same_data_share_no_chunk_id(new_pair, tree):
    """The target cannot tell that two jobs copy the same file."""
    pair = new_pair()
    where = sealed()
    for job in ("one", "two"):
        done = pair.source.job("backup", "--job", job, *where, tree)
        assert done["chunks_new"] == done["chunks"]
    pair.target.stop()
    ids = []
    with Repository.open(pair.target.repository, SystemClock(), writable=False) as store:
        (tenant,) = store._points.tenants()
        for job in ("one", "two"):
            (ref,) = store.points(tenant, job)
            ids.append(set(store.read_needs(tenant, job, ref.point_id)))
    assert ids[0] and ids[1] and not ids[0] & ids[1]


async def test_a_tenant_sees_nothing_of_another(new_pair, tree, tmp_path):
    """A second node with rights to the same repository asks for the first one's points, by name and by id."""
    pair = new_pair()
    where = ("--to", "offsite/main", "--encrypt", "none")
    done = await trio.to_thread.run_sync(lambda: pair.source.outside("backup", "--job", "docs", *where, tree))
    point = bytes.fromhex(done.finished["point"])
    other = Node(tmp_path / "other")
    other.ok("init", "--name", "other")
    pair.target.configure("address = ", "# address = ")
    pair.target.configure('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{pair.target.port}"')
    (made,) = pair.target.ok("invite", "--repository", "main").objects
    joined = await trio.to_thread.run_sync(lambda: other.outside("join", made["invitation"]))
    assert joined.status == 0, joined
    with pair.source.catalog as catalog:
        pin = catalog.peer("offsite").pin
    identity = load_identity(other.home, "other", SystemClock())
    peer = Peer("offsite", parse_address(f"127.0.0.1:{pair.target.port}"), pin)
    with trio.fail_after(20):
        async with dial_control(peer, identity) as link:
            for question in (
                ListPoints(repository="main", job=""),
                ListPoints(repository="main", job="docs"),
                ListPoints(repository="rest", job=""),
                GetPoint(repository="main", job="docs", point=point),
                ListPoints(repository="main", job="../../" + "office"),
            ):
                await link.send(question)
                received = await link.receive()
                assert point not in bytes(received.payload)
                assert getattr(received.message, "code", "") in {"", "refused", "no-such-point", "usage"}, received
