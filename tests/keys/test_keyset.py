from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from protocol.limits import MAX_SLOTS
from transporter.clock import ManualClock
from transporter.errors import CorruptedPoint, DamagedData, NoKey, UnsupportedFormat, UsageError, WrongPassword
from transporter.keys.keyset import PublicKeyset, generate_keyset, open_private, seal_private
from transporter.keys.keyset_file import decode_keyset, encode_keyset
from transporter.keys.keyset_table import MOST_ACTIVE
from transporter.keys.node_key import NodeKey
from transporter.keys.password import KdfParameters
from transporter.keys.slot import check_slot, read_keyset_slot, read_slot
from transporter.keys.storage_key import StorageKey, make_password_slot, unlock

CHEAP = KdfParameters(8, 1, 1)
PHRASE = b"a phrase that hangs in a safe"
# The NULL of rsaEncryption left out, and the length of the whole not mended: either is refused.
ALGORITHM_WITHOUT_NULL = bytes.fromhex("300b06092a864886f70d010101")
WHERE, ELSEWHERE = b"one point", b"another point"


@pytest.fixture(autouse=True, scope="module")
def lent_rsa_keys():
    """Nobody's: here they are made as for people."""


@pytest.fixture(scope="module")
def keyset():
    return generate_keyset("2026", ManualClock())


@pytest.fixture(scope="module")
def other():
    return generate_keyset("2027", ManualClock())


@pytest.fixture(scope="module")
def sealed(keyset):
    return seal_private(keyset, PHRASE, parameters=CHEAP)


@pytest.fixture(scope="module")
def maker():
    return NodeKey(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def slot(keyset, maker):
    return keyset.public.make_slot(StorageKey(b"s" * 32), WHERE, maker)


def spki(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class TestSlots:
    def test_the_private_half_opens_what_the_public_one_wrapped(self, keyset, slot, maker):
        assert keyset.open_slot(slot, WHERE) == StorageKey(b"s" * 32)
        parts = read_keyset_slot(slot)
        assert (parts.keyset_id, parts.name, len(parts.cryptogram)) == (keyset.public.id, "2026", 512)
        assert parts.maker == maker.public
        check_slot(slot)
        assert len(slot) < 2048

    def test_no_two_slots_are_alike(self, keyset, slot, maker):
        assert keyset.public.make_slot(StorageKey(b"s" * 32), WHERE, maker) != slot

    def test_what_another_node_wrapped_is_not_taken_for_this_ones(self, keyset, slot, maker):
        """Whoever has the public half can wrap; only the node itself can say that it did."""
        forged = keyset.public.make_slot(StorageKey(b"f" * 32), WHERE, NodeKey(ec.generate_private_key(ec.SECP256R1())))
        theirs = read_keyset_slot(forged)
        body = bytearray(forged[:-32])
        at = body.index(theirs.maker)
        body[at : at + len(theirs.maker)] = maker.public
        with pytest.raises(DamagedData):
            keyset.open_slot(bytes(body) + blake3(bytes(body)).digest(), WHERE)

    @pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "two\nlines", "\u202eright to left", "x" * 200])
    def test_a_name_that_plays_with_a_terminal_is_damage(self, keyset, slot, name):
        header = read_keyset_slot(slot).bound[8:57] + bytes((len(name.encode()),)) + name.encode()
        body = slot[:6] + len(header).to_bytes(2, "big") + header + slot[-32 - 2 - 576 : -32]
        with pytest.raises(DamagedData, match="name"):
            read_keyset_slot(body + blake3(body).digest())

    def test_it_opens_for_its_point_alone(self, keyset, slot):
        with pytest.raises(DamagedData):
            keyset.open_slot(slot, ELSEWHERE)

    def test_another_keyset_does_not_open_it(self, other, slot):
        with pytest.raises(NoKey):
            other.open_slot(slot, WHERE)

    def test_every_altered_byte_is_found(self, keyset, slot):
        for at in range(0, len(slot) - 32):
            altered = bytearray(slot)
            altered[at] ^= 1
            with pytest.raises((DamagedData, NoKey)):
                keyset.open_slot(bytes(altered), WHERE)
            if at % 16 == 0:  # also where the checksum is made anew: decrypting takes its time
                altered[-32:] = blake3(bytes(altered[:-32])).digest()
                with pytest.raises((DamagedData, NoKey)):
                    keyset.open_slot(bytes(altered), WHERE)

    def test_a_password_slot_is_none_of_a_keyset_and_the_other_way_round(self, keyset, slot, password_hash, cheap):
        key = password_hash
        of_password = make_password_slot(StorageKey.generate(), key, key.salt, key.parameters, WHERE)
        assert read_keyset_slot(of_password) is None
        with pytest.raises(NoKey):
            keyset.open_slot(of_password, WHERE)
        with pytest.raises(UnsupportedFormat):
            read_slot(slot)

    def test_beside_a_password_slot_it_is_in_nobodys_way(self, slot, password_hash):
        key = password_hash
        mine = StorageKey.generate()
        of_password = make_password_slot(mine, key, key.salt, key.parameters, WHERE)
        for slots in ([slot, of_password], [of_password, slot]):
            assert unlock(slots, WHERE, lambda _info: key)[0] == mine
        # Alone it says whom to ask.
        with pytest.raises(NoKey) as raised:
            unlock([slot], WHERE, lambda _info: key)
        assert raised.value.remedy == "ask keyset '2026' for the key: `transporter recover request`"

    def test_a_point_that_lost_its_password_slot_is_not_given_up(self, slot, password_hash):
        key = password_hash
        of_password = make_password_slot(StorageKey.generate(), key, key.salt, key.parameters, WHERE)
        rotten = of_password[:50] + bytes((of_password[50] ^ 1,)) + of_password[51:]
        for slots in ([rotten, slot], [slot, rotten]):
            with pytest.raises(NoKey, match="checksum") as raised:
                unlock(slots, WHERE, lambda _info: key)
            assert "recover request" in raised.value.remedy
        with pytest.raises(CorruptedPoint):
            unlock([rotten], WHERE, lambda _info: key)


def same_key(one, other):
    return one.key.private_numbers() == other.key.private_numbers()


class TestPrivateHalf:
    def test_its_pass_phrase_opens_it(self, keyset, sealed):
        assert same_key(open_private(keyset.public, sealed, PHRASE), keyset)

    def test_another_pass_phrase_is_told_apart_from_damage(self, keyset, other, sealed):
        with pytest.raises(WrongPassword, match="2026"):
            open_private(keyset.public, sealed, b"another")
        with pytest.raises(UsageError):
            open_private(keyset.public, sealed, b"")
        with pytest.raises(DamagedData):
            open_private(other.public, sealed, PHRASE)
        for at in range(0, len(sealed.cryptogram), 97):
            altered = bytearray(sealed.cryptogram)
            altered[at] ^= 1
            with pytest.raises(DamagedData):
                open_private(keyset.public, type(sealed)(sealed.salt, CHEAP, bytes(altered)), PHRASE)
        with pytest.raises(DamagedData):
            open_private(keyset.public, type(sealed)(sealed.salt, CHEAP, b""), PHRASE)

    def test_it_lies_under_the_pass_phrase_alone(self, keyset, sealed):
        numbers = keyset.key.private_numbers()
        for number in (numbers.d, numbers.p, numbers.q, numbers.dmp1):
            assert number.to_bytes(512, "big").lstrip(b"\0") not in sealed.cryptogram
        for shown in (repr(keyset), repr(sealed), repr(keyset.public)):
            assert "cryptogram" not in shown and "RSA" not in shown

    def test_its_signatures_are_its_own(self, keyset, other):
        signature = keyset.sign(b"message")
        assert keyset.public.signed(b"message", signature)
        assert not keyset.public.signed(b"another", signature)
        assert not other.public.signed(b"message", signature)
        assert not keyset.public.signed(b"message", signature[:-1])

    def test_a_public_half_with_another_signing_key_is_not_its_own(self, keyset, other, sealed):
        mixed = PublicKeyset.from_keys(keyset.public.spki, other.public.signing, "2026", 0)
        assert mixed.id != keyset.public.id
        with pytest.raises(DamagedData):
            open_private(mixed, sealed, PHRASE)


class TestFile:
    def test_public_and_private(self, keyset, sealed):
        public, private = decode_keyset(encode_keyset(keyset.public, None).encode())
        assert (public, private) == (keyset.public, None)
        public, private = decode_keyset(encode_keyset(keyset.public, sealed).encode())
        assert open_private(public, private, PHRASE).key.private_numbers() == keyset.key.private_numbers()

    def test_the_public_file_holds_nothing_private(self, keyset):
        content = json.loads(encode_keyset(keyset.public, None))
        assert content.pop("private") is None
        assert set(content) == {"transporter_keyset", "name", "created_ns", "public", "signing", "checksum"}
        assert base64.b64decode(content["public"]) == keyset.public.spki

    def test_a_file_that_was_cut_anywhere_is_damaged(self, keyset, sealed):
        text = encode_keyset(keyset.public, sealed).encode()
        for length in range(0, len(text) - 2, 61):
            with pytest.raises(DamagedData):
                decode_keyset(text[:length])

    def test_a_file_that_was_altered_anywhere_is_damaged(self, keyset, sealed):
        text = bytearray(encode_keyset(keyset.public, sealed).encode())
        for at in range(0, len(text) - 1, 37):
            if not chr(text[at]).isalnum():
                continue
            before = text[at]
            text[at] = ord("A") if before != ord("A") else ord("B")
            with pytest.raises((DamagedData, UnsupportedFormat)):
                decode_keyset(bytes(text))
            text[at] = before

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"transporter_keyset": 1}']
    )
    def test_garbage(self, data):
        with pytest.raises(DamagedData):
            decode_keyset(data)

    def test_a_newer_version(self, keyset):
        content = json.loads(encode_keyset(keyset.public, None)) | {"transporter_keyset": 2}
        with pytest.raises(UnsupportedFormat):
            decode_keyset(json.dumps(content).encode())


def rsa_spki(n, e=65537):
    return spki(rsa.RSAPublicNumbers(e, n).public_key())


def test_only_a_sound_rsa_4096_is_a_keyset(keyset):
    n = keyset.public.key.public_numbers().n
    good = keyset.public.spki
    bad = {
        "2048 bits": spki(rsa.generate_private_key(65537, 2048).public_key()),
        "no RSA": spki(ec.generate_private_key(ec.SECP256R1()).public_key()),
        "exponent 3": rsa_spki(n, 3),
        "more after it": good + b"\0",
        "not in its one form": good.replace(bytes.fromhex("300d06092a864886f70d0101010500"), ALGORITHM_WITHOUT_NULL),
        "nothing": b"",
    }
    for what, encoded in bad.items():
        with pytest.raises(DamagedData, match="4096"):
            PublicKeyset.from_keys(encoded, keyset.public.signing, what, 0)
    with pytest.raises(DamagedData):
        PublicKeyset.from_keys(good, b"short", "2026", 0)


@pytest.mark.parametrize("n", [1 << 4095, (1 << 4096) - 2])
def test_a_modulus_that_wraps_nothing(n, keyset):
    try:
        encoded = rsa_spki(n)
    except ValueError:
        pytest.skip("the library makes no such key")
    with pytest.raises(DamagedData):
        PublicKeyset.from_keys(encoded, keyset.public.signing, "even", 0)


class TestTable:
    def test_kept_listed_retired(self, database, keyset, other, sealed):
        database.add_keyset(keyset.public, sealed, event="keyset.create")
        database.add_keyset(other.public, None, event="keyset.import")
        assert {info.public.name for info in database.keysets()} == {"2026", "2027"}
        assert same_key(database.open_keyset(database.keyset("2026"), PHRASE), keyset)
        with pytest.raises(NoKey, match="not here"):
            database.open_keyset(database.keyset("2027"), PHRASE)
        database.retire_keyset("2026")
        assert [public.name for public in database.active_keysets()] == ["2027"]
        assert same_key(database.open_keyset(database.keyset("2026"), PHRASE), keyset)
        with pytest.raises(UsageError, match="already"):
            database.retire_keyset("2026")
        events = [entry["event"] for entry in database.audit.entries()]
        assert events == ["keyset.create", "keyset.import", "keyset.retire"]

    def test_twice_is_refused_and_changes_nothing(self, database, keyset, sealed):
        database.add_keyset(keyset.public, sealed, event="keyset.create")
        for private in (None, sealed):
            with pytest.raises(UsageError, match="known"):
                database.add_keyset(keyset.public, private, event="keyset.import")
        assert database.keyset("2026").private == sealed

    def test_the_private_half_may_come_later(self, database, keyset, sealed):
        database.add_keyset(keyset.public, None, event="keyset.import")
        database.add_keyset(keyset.public, sealed, event="keyset.import")
        assert same_key(database.open_keyset(database.keyset("2026"), PHRASE), keyset)

    def test_another_by_the_same_name(self, database, keyset, other):
        database.add_keyset(keyset.public, None, event="keyset.import")
        renamed = replace(other.public, name="2026")
        with pytest.raises(UsageError, match="another keyset"):
            database.add_keyset(renamed, None, event="keyset.import")

    def test_a_retired_one_comes_into_use_again_under_its_name_here(self, database, keyset):
        database.add_keyset(keyset.public, None, event="keyset.import")
        database.retire_keyset("2026")
        info = database.add_keyset(replace(keyset.public, name="other"), None, event="keyset.import")
        assert (info.public.name, info.active) == ("2026", True)
        assert [entry["keyset"] for entry in database.audit.entries()] == ["2026"] * 3

    def test_there_is_room_on_every_point(self, database, keyset):
        for number in range(MOST_ACTIVE):
            made_up = replace(keyset.public, id=bytes([number]) * 16, name=str(number))
            row = (made_up.id, made_up.name, 0, 0, made_up.spki, made_up.signing)
            with database._write() as db:
                query = (
                    "INSERT INTO keysets (id, name, created_ns, added_ns, public, signing) VALUES (?, ?, ?, ?, ?, ?)"
                )
                db.execute(query, row)
        with pytest.raises(UsageError, match="retire"):
            database.add_keyset(keyset.public, None, event="keyset.import")
        assert 3 * (1 + MOST_ACTIVE) <= MAX_SLOTS

    def test_a_damaged_one_is_named_and_can_be_removed(self, database, keyset):
        database.add_keyset(keyset.public, None, event="keyset.import")
        with database._write() as db:
            db.execute("UPDATE keysets SET public = zeroblob(10)")
        with pytest.raises(DamagedData, match="'2026'") as raised:
            database.active_keysets()
        assert "keyset remove" in raised.value.remedy
        database.remove_keyset("2026")
        assert database.active_keysets() == []

    def test_a_private_half_does_not_go_by_mistake(self, database, keyset, sealed):
        database.add_keyset(keyset.public, sealed, event="keyset.create")
        with pytest.raises(UsageError, match="lost"):
            database.remove_keyset("2026")
        assert database.keyset("2026").private == sealed
        database.remove_keyset("2026", private=True)
        with pytest.raises(NoKey):
            database.keyset("2026")

    def test_unknown(self, database):
        with pytest.raises(NoKey):
            database.keyset("2026")
        with pytest.raises(NoKey):
            database.retire_keyset("2026")
        assert database.keyset_by_id(b"x" * 16) is None
