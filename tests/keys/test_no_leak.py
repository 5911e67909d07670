"""No secret in the repr or str of any object, nor in any error or its chain, nor where a formatter would look."""

from __future__ import annotations

import dataclasses
import traceback

import pytest

from transporter.errors import TransporterError
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.database import KeyDatabase, RememberedRun
from transporter.keys.key_ring import KeyRing, open_ring, seal_ring
from transporter.keys.master_key import MasterKey
from transporter.keys.password import KdfParameters, UserKey, hash_password, read_password_file
from transporter.keys.session_key import ChunkOpener, ChunkSealer, MetaKey, SessionKey
from transporter.keys.slot import read_slot
from transporter.keys.storage_key import StorageKey, make_password_slot, open_slot, open_slot_with_password, unlock
from transporter.keys.wrap import context, unwrap, wrap

CHEAP = KdfParameters(8, 1, 1)
PASSWORD = b"hunter2-the-password"
SECRET = b"SECRETsecretSECRETsecretSECRETse"
PLACE = context("slot", "tenant", b"r" * 16, b"p" * 16)


def shapes(secret):
    """How a secret could stand in a text: as is, as a repr, in hex, in base 64, as a list of numbers."""
    import base64

    yield from (secret.decode("latin-1"), repr(secret)[2:-1], secret.hex(), secret.hex().upper())
    yield from (base64.b64encode(secret).decode().rstrip("=")[:-1], ", ".join(map(str, secret)))


def assert_clean(text, *secrets):
    for secret in secrets:
        for shape in shapes(secret):
            assert shape not in text


def everything():
    key = hash_password(PASSWORD, b"s" * 16, CHEAP)
    session, meta = SessionKey.generate(), MetaKey.from_secret(SECRET)
    storage = StorageKey(SECRET)
    master = MasterKey(SECRET)
    slot = make_password_slot(storage, key, key.salt, CHEAP, PLACE)
    ring = KeyRing(ChunkIdKey(SECRET), (session, SessionKey(SECRET)), (meta,))
    secrets = [PASSWORD, SECRET, session.secret, session.chunk_key, meta.chunk_key, meta.fsi_key, meta._mac_key]
    secrets += [key.raw, key.kek, key.verifier, storage.ring_kek, master.kek]
    objects = [key, UserKey("office", key), session, meta, storage, master, ChunkIdKey(SECRET), ring]
    objects += [ChunkSealer(session), ChunkOpener([session]), read_slot(slot), read_slot(slot).info]
    objects += [RememberedRun(b"r" * 16, session, meta)]
    return objects, secrets


def test_no_repr_shows_a_secret():
    objects, secrets = everything()
    for each in objects:
        for text in (repr(each), str(each), f"{each}", f"{[each]}", f"{each!r:>5}"):
            assert_clean(text, *secrets)
            assert text


def test_nested_dataclasses_show_none_either():
    objects, secrets = everything()
    for each in filter(dataclasses.is_dataclass, objects):
        assert_clean(
            repr({field.name: getattr(each, field.name) for field in dataclasses.fields(each) if field.repr}), *secrets
        )


def test_the_database_shows_its_path_only(tmp_path):
    with KeyDatabase(tmp_path / "keys.db", parameters=CHEAP) as database:
        key = database.add_password("office", PASSWORD, "the usual")
        assert repr(database) == f"<KeyDatabase {tmp_path / 'keys.db'}>"
        assert_clean(repr(database.list()), PASSWORD, key.hash.raw, key.hash.kek)


def failures(tmp_path):
    """Calls that fail, with secrets at hand in each."""
    key = hash_password(PASSWORD, b"s" * 16, CHEAP)
    storage = StorageKey(SECRET)
    slot = make_password_slot(storage, key, key.salt, CHEAP, PLACE)
    cryptogram = wrap(SECRET, SECRET, PLACE)
    session, meta = SessionKey(SECRET), MetaKey(SECRET)
    sealed = ChunkSealer(SessionKey.generate()).seal(b"i" * 32, 0, 32, SECRET)
    ring = seal_ring(storage, KeyRing(None, (session,), (meta,)), PLACE)
    file = tmp_path / "password"
    file.write_bytes(PASSWORD * 1000)
    yield lambda: hash_password(PASSWORD * 1000, b"s" * 16, CHEAP)
    yield lambda: hash_password(PASSWORD, b"s", CHEAP)
    yield lambda: read_password_file(file)
    yield lambda: unwrap(SECRET, cryptogram, b"elsewhere")
    yield lambda: unwrap(SECRET[::-1], cryptogram, PLACE)
    yield lambda: unwrap(SECRET, SECRET + cryptogram, PLACE)
    yield lambda: open_slot(slot, hash_password(b"x", b"s" * 16, CHEAP), PLACE)
    yield lambda: open_slot(slot, key, b"elsewhere")
    yield lambda: open_slot_with_password(slot, PASSWORD + b"\n", PLACE)
    yield lambda: open_slot(SECRET + slot, key, PLACE)
    yield lambda: unlock([slot], b"elsewhere", lambda _: None, lambda _: PASSWORD)
    yield lambda: unlock([slot], PLACE, lambda _: None, lambda _: PASSWORD + b"!")
    yield lambda: open_ring(StorageKey(SECRET), ring[:1], PLACE)
    yield lambda: open_ring(StorageKey(SECRET[::-1]), ring, PLACE)
    yield lambda: ChunkOpener([session]).open(b"i" * 32, 0, 32, sealed)
    yield lambda: ChunkOpener([session]).open(b"i" * 32, 0, 32, b"\0" + SECRET)
    yield lambda: meta.check_mac(SECRET, SECRET)
    yield lambda: StorageKey(SECRET[1:])
    yield session.next_counter
    yield lambda: make_password_slot(storage, key, b"t" * 16, CHEAP, PLACE)
    with KeyDatabase(tmp_path / "keys.db", parameters=CHEAP) as database:
        database.add_password("office", PASSWORD)
        yield lambda: database.add_password("office", PASSWORD)
        yield lambda: database.add_password("hinted", PASSWORD, f"it is {PASSWORD.decode()}")
        yield lambda: database.remember_hash("again", database.user_key("office").hash)


def test_no_error_shows_a_secret(tmp_path):
    count = 0
    for act in failures(tmp_path):
        with pytest.raises((TransporterError, ValueError, RuntimeError)) as caught:
            act()
        error = caught.value
        key = hash_password(PASSWORD, b"s" * 16, CHEAP)
        everything_said = [str(error), repr(error), repr(error.args), repr(vars(error))]
        everything_said += [line for line in traceback.format_exception_only(error)]
        chain = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        everything_said.append(repr(chain))
        for text in everything_said:
            assert_clean(text, PASSWORD, SECRET, key.raw, key.kek, key.verifier)
        count += 1
    assert count == 23


def test_the_search_finds_what_does_leak():
    for text in (f"{PASSWORD!r}", SECRET.hex(), f"x{SECRET.decode()}x", str(list(SECRET))):
        with pytest.raises(AssertionError):
            assert_clean(text, PASSWORD, SECRET)
