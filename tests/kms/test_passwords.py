"""Passwords whose hash a service locks, keysets that a service keeps, and the slot of a service on a point."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from transporter.errors import (
    ConfigError,
    CorruptedPoint,
    DamagedData,
    KmsKeyDisabled,
    KmsRefused,
    KmsUnreachable,
    KmsWrongKey,
    NoKey,
    UsageError,
    WrongPassword,
)
from transporter.keys import kms_access
from transporter.keys.database import KeyDatabase
from transporter.keys.derive import bind
from transporter.keys.keyset import generate_keyset, seal_private
from transporter.keys.keyset_file import decode_keyset, encode_keyset
from transporter.keys.keyset_kms import seal_private_by_kms
from transporter.keys.kms import KmsKey, Provider
from transporter.keys.kms_slot import PreparedKmsSlot, prepare_kms_slot
from transporter.keys.node_key import NodeKey
from transporter.keys.password import KdfParameters, hash_password
from transporter.keys.secret import SYSTEM
from transporter.keys.settings import KeySettings
from transporter.keys.slot import MAX_REFERENCE, MAX_WRAPPED_BY_KMS, finish_slot, kms_header, read_kms_slot
from transporter.keys.storage_key import StorageKey, make_password_slot, unlock
from transporter.keys.wrap import context as place
from transporter.keys.wrap import wrap
from transporter.kms_config import KmsConfig

CHEAP = KdfParameters(8, 1, 1)
PASSWORD = b"hunter2-the-password"
TENANT, POINT = "büro", b"p" * 16
WHERE = place("restore point", TENANT, b"r" * 16, POINT)


@pytest.fixture
def services(openbao, tmp_path):
    """Two services: one with a key of this test, one that does not answer; a test may change them."""
    main = openbao.config(openbao.new_key(f"main-{tmp_path.name}"))
    other = openbao.config(openbao.new_key(f"other-{tmp_path.name}"))
    away = KmsConfig(kind="transit", key="x", endpoint="http://127.0.0.1:9", token_file=main.token_file)
    return {"main": main, "other": other, "away": away}


@pytest.fixture
def open_keys(tmp_path, services):
    def opened(name="keys.db"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return KeyDatabase(folder / "keys.db", parameters=CHEAP, settings=lambda: KeySettings("file", services))

    return opened


@pytest.fixture
def keys(open_keys):
    with open_keys() as opened:
        yield opened


def forget():
    kms_access.CACHE.clear()


class TestHashes:
    def test_the_hash_is_kept_and_comes_back(self, open_keys, keys):
        office = keys.add_password("office", PASSWORD, kms="main")
        assert office.kms == "main" and office.hash == hash_password(PASSWORD, office.salt, CHEAP)
        forget()
        with open_keys() as other:
            assert other.user_key("office") == other.find_by_salt(office.salt) == office
            assert [info.kms for info in other.list()] == ["main"]
        assert keys.kms_uses() == {"main": ["password office"]}

    def test_whoever_has_the_home_and_its_master_key_has_no_hash(self, tmp_path, keys, services):
        office = keys.add_password("office", PASSWORD, kms="main")
        key = StorageKey.generate()
        keys.put_storage_key(POINT, key, office)
        forget()
        services["main"] = services["away"]
        with pytest.raises(KmsUnreachable):
            keys.user_key("office")
        with pytest.raises(KmsUnreachable):
            keys.storage_key(POINT)
        everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        for secret in (office.hash.raw, office.hash.kek, key.secret, PASSWORD):
            assert secret not in everything

    def test_what_needs_no_hash_asks_nobody(self, keys, services):
        office = keys.add_password("office", PASSWORD, kms="main")
        forget()
        services["main"] = services["away"]
        assert keys.list()[0].name == "office" and keys.use_of("office").points == 0
        assert keys.knows_salt(office.salt) and keys.count_unfinished("office") == 0
        with pytest.raises(UsageError, match="already"):
            keys.add_password("office", b"another")
        # A job that began with it goes on, to its end and whatever it writes down.
        assert keys.user_key("office", held=office) == office
        keys.put_storage_key(POINT, StorageKey.generate(), office)
        keys.remove_password("office")

    def test_a_service_that_is_not_there_or_not_named_keeps_nothing(self, keys):
        with pytest.raises(KmsUnreachable):
            keys.add_password("office", PASSWORD, kms="away")
        with pytest.raises(ConfigError, match=r"\[kms.nobody\]"):
            keys.add_password("office", PASSWORD, kms="nobody")
        assert keys.list() == []

    def test_another_service_of_the_same_name(self, keys, services):
        keys.add_password("office", PASSWORD, kms="main")
        forget()
        services["main"] = services["other"]
        with pytest.raises(KmsWrongKey):
            keys.user_key("office")

    def test_it_is_changed_as_any_other(self, open_keys, keys):
        office = keys.add_password("office", PASSWORD, kms="main")
        key = StorageKey.generate()
        keys.put_storage_key(POINT, key, office)
        new = keys.change_password("office", b"another")
        assert new.kms == "main"
        forget()
        with open_keys() as other:
            assert other.user_key("office") == new and other.storage_key(POINT) == key
            assert other.find_by_salt(office.salt).hash == office.hash
            assert [change.old for change in other.unfinished_changes()] == [office.hash]
            with pytest.raises(UsageError, match="not finished"):
                other.set_password_kms("office", "other")
            other.finish_change(office.salt, replaced=0)
            assert other.find_by_salt(office.salt) is None

    def test_it_moves_to_another_service_and_away_from_all(self, open_keys, keys, services):
        office = keys.add_password("office", PASSWORD)
        keys.put_storage_key(POINT, StorageKey(b"s" * 32), office)
        for service in ("main", "other", ""):
            keys.set_password_kms("office", service)
            forget()
            with open_keys() as other:
                assert other.user_key("office").kms == service
                assert other.storage_key(POINT) == StorageKey(b"s" * 32)
        events = [(e["before"], e["now"]) for e in keys.audit.entries() if e["event"] == "password.kms"]
        assert events == [("", "main"), ("main", "other"), ("other", "")]

    def test_the_master_key_moves_with_it(self, open_keys, keys):
        office = keys.add_password("office", PASSWORD, kms="main")
        keys.change_password("office", b"another")
        keys.move_master("kms:other")
        forget()
        with open_keys() as other:
            assert other.find_by_salt(office.salt).hash == office.hash
            assert other.kms_uses() == {"main": ["password office"], "other": ["the master key"]}

    def test_every_use_is_recorded_and_those_from_the_cache_are_not(self, keys):
        keys.add_password("office", PASSWORD, kms="main")
        forget()
        for _time in range(20):
            keys.user_key("office")
        uses = [e["event"] for e in keys.audit.entries() if e["event"].startswith("kms.")]
        assert uses == ["kms.wrap", "kms.unwrap"]

    def test_a_broken_trail_does_not_stop_who_opens(self, open_keys, keys, tmp_path):
        office = keys.add_password("office", PASSWORD, kms="main")
        (tmp_path / "keys.db" / "audit.log").write_bytes(b"")
        forget()
        with open_keys() as other:
            assert other.user_key("office") == office
            with pytest.raises(DamagedData):
                other.add_password("vault", b"x", kms="main")


@pytest.fixture(scope="module")
def keyset():
    return generate_keyset("2026")


class TestKeysets:
    def test_a_service_keeps_the_private_half(self, open_keys, keys, keyset):
        half = seal_private_by_kms(keyset, keys.kms, "main", SYSTEM)
        keys.add_keyset(keyset.public, half, event="keyset.create")
        assert keys.kms_uses() == {"main": ["keyset 2026"]}
        forget()
        with open_keys() as other:
            info = other.keyset("2026")
            maker = NodeKey(ec.generate_private_key(ec.SECP256R1()))
            slot = keyset.public.make_slot(StorageKey(b"s" * 32), WHERE, maker)
            assert other.open_keyset(info, b"").open_slot(slot, WHERE) == StorageKey(b"s" * 32)
            assert info.private == half

    def test_each_opening_asks_the_service(self, keys, keyset, services):
        keys.add_keyset(keyset.public, seal_private_by_kms(keyset, keys.kms, "main", SYSTEM), event="keyset.create")
        info = keys.keyset("2026")
        keys.open_keyset(info, b"")
        services["main"] = services["away"]
        with pytest.raises(KmsUnreachable):
            keys.open_keyset(info, b"")

    def test_another_key_opens_nothing(self, keys, keyset, services):
        half = seal_private_by_kms(keyset, keys.kms, "main", SYSTEM)
        services["main"] = services["other"]
        with pytest.raises(KmsWrongKey):
            keys.open_half(keyset.public, half, b"")

    def test_it_travels_as_a_file(self, keys, keyset):
        half = seal_private_by_kms(keyset, keys.kms, "main", SYSTEM)
        public, again = decode_keyset(encode_keyset(keyset.public, half).encode())
        assert again == half
        assert keys.open_half(public, again, b"").key.private_numbers() == keyset.key.private_numbers()
        by_phrase = seal_private(keyset, b"phrase", parameters=CHEAP)
        assert "kms" not in encode_keyset(keyset.public, by_phrase)
        assert keys.open_half(public, decode_keyset(encode_keyset(keyset.public, by_phrase).encode())[1], b"phrase")


class TestSlots:
    @pytest.fixture
    def slot(self, keys):
        return prepare_kms_slot(keys.kms, "main", TENANT, POINT, SYSTEM).make_slot(StorageKey(b"s" * 32), WHERE)

    def opened(self, keys, slot, tenant=TENANT, point=POINT, where=WHERE):
        return unlock(
            [slot], where, lambda _info: None, None, lambda kms: keys.open_kms_slot(kms, tenant, point, where)
        )

    def test_another_home_with_the_service_and_nothing_else_opens_it(self, open_keys, slot):
        assert len(slot) <= 2048
        forget()
        with open_keys("elsewhere") as other:
            assert self.opened(other, slot) == (StorageKey(b"s" * 32), None)

    def test_the_service_has_another_name_there(self, open_keys, slot, services):
        services["ours"] = services.pop("main")
        forget()
        with open_keys("elsewhere") as other:
            assert self.opened(other, slot)[0] == StorageKey(b"s" * 32)

    def test_of_another_point_or_tenant(self, keys, slot):
        forget()
        elsewhere = place("restore point", TENANT, b"r" * 16, b"q" * 16)
        for where in ({"point": b"q" * 16}, {"tenant": "another"}):
            with pytest.raises(KmsWrongKey):
                self.opened(keys, slot, **where)
        with pytest.raises(DamagedData):
            self.opened(keys, slot, where=elsewhere)

    def test_no_service_here_has_the_key(self, keys, slot, services):
        del services["main"]
        forget()
        with pytest.raises(KmsWrongKey, match=r"transit/main-.* no .* has it"):
            self.opened(keys, slot)
        assert [e for e in keys.audit.entries() if e["event"] == "kms.unwrap"] == []

    def test_nobody_is_asked_for_a_key_of_another_provider(self, keys, services):
        services.clear()
        aws = PreparedKmsSlot("main", KmsKey(Provider.AWS, "arn:aws:kms:x:1:key/2"), b"w", b"k" * 32)
        with pytest.raises(KmsWrongKey):
            self.opened(keys, aws.make_slot(StorageKey(b"s" * 32), WHERE))

    def test_every_flipped_bit_opens_nothing(self, keys, slot):
        from blake3 import blake3

        forget()
        for index in range(0, len(slot) - 32, 7):
            changed = bytearray(slot)
            changed[index] ^= 1 << index % 8
            with pytest.raises(CorruptedPoint):
                self.opened(keys, bytes(changed))
            mended = bytes(changed[:-32]) + blake3(changed[:-32]).digest()
            with pytest.raises((DamagedData, NoKey, KmsRefused)):
                self.opened(keys, mended)

    def test_a_service_that_answers_with_another_key(self, keys, slot, monkeypatch):
        monkeypatch.setattr(type(keys.kms), "unwrap", lambda *_arguments: b"z" * 32)
        with pytest.raises(DamagedData, match="service answers wrongly"):
            self.opened(keys, slot)

    def test_the_order(self, keys, slot):
        """Hash, then service, then a person."""
        key = hash_password(PASSWORD, b"n" * 16, CHEAP)
        of_password = make_password_slot(StorageKey(b"p" * 32), key, key.salt, CHEAP, WHERE)
        told = []

        def look(info):
            told.append("hash")

        def ask(info):
            told.append("person")
            return PASSWORD

        def service(kms):
            told.append("service")
            raise KmsUnreachable("away")

        assert unlock([slot, of_password], WHERE, look, ask, service)[0] == StorageKey(b"p" * 32)
        assert told == ["hash", "service", "person"]
        assert unlock([slot, of_password], WHERE, lambda _info: key, ask, pytest.fail)[0] == StorageKey(b"p" * 32)
        with pytest.raises(KmsUnreachable):
            unlock([slot, of_password], WHERE, look, None, service)
        with pytest.raises(WrongPassword):
            unlock([slot, of_password], WHERE, look, lambda _info: b"wrong", service)
        with pytest.raises(NoKey, match="add the service"):
            unlock([slot], WHERE, look, None, None)

    def test_a_key_that_was_switched_off(self, keys, slot, openbao, services):
        forget()
        openbao.ask("DELETE", f"transit/keys/{services['main'].key}/soft-delete")
        keys.kms._keys.clear()
        with pytest.raises(KmsKeyDisabled):
            self.opened(keys, slot)

    def test_it_is_prepared_once_for_a_run_however_often_the_link_breaks(self, keys, services):
        office = keys.add_password("office", PASSWORD, kms="main")
        first = keys.prepare_kms_slot(office, TENANT, POINT)
        services["main"] = services["away"]
        assert keys.prepare_kms_slot(office, TENANT, POINT) is first
        assert keys.prepare_kms_slot(keys.add_password("plain", PASSWORD), TENANT, POINT) is None

    def test_what_a_tenant_had_prepared_for_a_point_of_that_id_is_not_used_for_this_nodes_own(self, keys):
        office = keys.add_password("office", PASSWORD, kms="main")
        keys.prepare_kms_slot(office, "a tenant", POINT)
        slot = keys.prepare_kms_slot(office, TENANT, POINT).make_slot(StorageKey(b"s" * 32), WHERE)
        forget()
        assert self.opened(keys, slot) == (StorageKey(b"s" * 32), None)

    @pytest.mark.parametrize(
        "made",
        [
            lambda: kms_header(1, "k" * (MAX_REFERENCE + 1), "", b"w"),
            lambda: kms_header(1, "", "", b"w"),
            lambda: kms_header(1, "k", "n" * 129, b"w"),
            lambda: kms_header(1, "k", "", b""),
            lambda: kms_header(1, "k", "", b"w" * (MAX_WRAPPED_BY_KMS + 1)),
        ],
    )
    def test_what_no_slot_can_hold(self, made):
        with pytest.raises(ValueError, match="bounded"):
            made()

    def test_the_longest_one_fits_the_wire(self):
        from protocol.limits import MAX_SLOT

        bound = kms_header(2, "k" * MAX_REFERENCE, "n" * 128, b"w" * MAX_WRAPPED_BY_KMS)
        slot = finish_slot(bound, wrap(b"k" * 32, b"s" * 32, bind(WHERE, bound)))
        assert len(slot) <= MAX_SLOT and read_kms_slot(slot).name == "n" * 128
