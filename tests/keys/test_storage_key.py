from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from transporter.errors import (
    CorruptedPoint,
    DamagedData,
    NoKey,
    TransporterError,
    UnsupportedFormat,
    WrongPassword,
)
from transporter.keys.password import KdfParameters, UserKey, hash_password
from transporter.keys.slot import MAX_SLOT, SlotInfo, SlotKind, check_slot, finish_slot, password_header, read_slot
from transporter.keys.storage_key import (
    MAX_SLOTS,
    StorageKey,
    make_password_slot,
    open_slot,
    open_slot_with_password,
    read_slot_public,
    unlock,
)
from transporter.keys.wrap import context

PLACE = context("slot", "tenant", b"r" * 16, b"p" * 16)
ELSEWHERE = context("slot", "tenant", b"r" * 16, b"q" * 16)
PASSWORD = b"hunter2-the-password"


def resum(slot):
    return slot[:-32] + blake3(slot[:-32]).digest()


def flips(data):
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


@pytest.fixture
def storage_key():
    return StorageKey.generate()


@pytest.fixture
def make(password_hash):
    def make_slot(storage_key, key=None, place=PLACE, **other):
        key = key or password_hash
        found = key.hash if isinstance(key, UserKey) else key
        return make_password_slot(storage_key, key, found.salt, found.parameters, place, **other)

    return make_slot


def unsalted(slot):
    """The same slot as a writer would leave it that lost the salt: sound, and of no use."""
    parts = read_slot(slot)
    info = SlotInfo(SlotKind.PASSWORD, b"", parts.info.params, "", parts.info.verifier)
    return finish_slot(password_header(info), parts.cryptogram)


def test_a_slot_opens_by_hash_by_user_key_and_by_password(make, storage_key, password_hash, user_key):
    slot = make(storage_key)
    assert open_slot(slot, password_hash, PLACE) == storage_key
    assert open_slot(make(storage_key, user_key), user_key, PLACE) == storage_key
    assert open_slot_with_password(slot, PASSWORD, PLACE) == (storage_key, password_hash)


def test_what_a_slot_says_to_everyone(make, storage_key, password_hash, cheap):
    info = read_slot_public(make(storage_key, hint_name="büro"))
    assert (info.kind, info.salt, info.params, info.hint_name) == (1, password_hash.salt, cheap, "büro")
    assert read_slot_public(make(storage_key)).hint_name == ""
    with pytest.raises(ValueError, match="name"):
        make(storage_key, hint_name="x" * 129)


def test_a_slot_holds_no_key_in_clear(make, storage_key, password_hash):
    slot = make(storage_key, hint_name="office")
    for secret in (storage_key.secret, password_hash.raw, password_hash.kek, PASSWORD):
        assert secret not in slot


def test_two_slots_of_one_key_share_no_cryptogram(make, storage_key):
    one, other = read_slot(make(storage_key)).cryptogram, read_slot(make(storage_key)).cryptogram
    assert one[1:33] != other[1:33] and one[65:] != other[65:]


def test_three_different_errors(make, storage_key, password_hash, cheap):
    slot = make(storage_key)
    wrong = hash_password(b"hunter3", password_hash.salt, cheap)
    for act, expected, status in (
        (lambda: open_slot(slot, wrong, PLACE), WrongPassword, 6),
        (lambda: open_slot(unsalted(slot), password_hash, PLACE), CorruptedPoint, 7),
        (lambda: open_slot(slot[:50] + b"\0" + slot[51:], password_hash, PLACE), DamagedData, 7),
    ):
        with pytest.raises(TransporterError) as caught:
            act()
        assert type(caught.value) is expected and caught.value.exit_status == status


def test_every_flipped_bit_is_found_without_any_key(make, storage_key):
    slot = make(storage_key, hint_name="office")
    check_slot(slot)
    for changed in flips(slot):
        with pytest.raises(DamagedData):
            check_slot(changed)


def test_every_cut_and_every_addition_is_found_without_any_key(make, storage_key):
    slot = make(storage_key)
    for changed in (*(slot[:length] for length in range(len(slot))), slot + b"\0", b"\0" + slot, slot + slot):
        with pytest.raises(DamagedData):
            check_slot(changed)


def test_every_flipped_bit_with_a_new_checksum_opens_nothing(make, storage_key, password_hash, monkeypatch):
    """The hostile repository recomputes the checksum: by hash and by password, no altered slot gives a key."""
    slot = make(storage_key, hint_name="office")
    # A flip in the price would make the test wait for a dearer Argon2id; that it differs is shown in test_password.
    monkeypatch.setattr("argon2.low_level.hash_secret_raw", lambda **_: b"h" * 32)
    for changed in flips(slot[:-32]):
        with pytest.raises((DamagedData, WrongPassword)):
            open_slot(resum(changed + bytes(32)), password_hash, PLACE)
        with pytest.raises((DamagedData, WrongPassword)):
            open_slot_with_password(resum(changed + bytes(32)), PASSWORD, PLACE)


def test_a_slot_of_another_point_opens_nothing(make, storage_key, password_hash):
    slot = make(storage_key, place=ELSEWHERE)
    check_slot(slot)
    with pytest.raises(DamagedData):
        open_slot(slot, password_hash, PLACE)


def test_the_cryptogram_of_another_slot_opens_nothing(make, storage_key, password_hash, cheap):
    ours = read_slot(make(storage_key))
    other_key = hash_password(b"other", bytes(16), cheap)
    theirs = read_slot(make(StorageKey.generate(), other_key))
    mixed = finish_slot(ours.bound, theirs.cryptogram)
    with pytest.raises(DamagedData):
        open_slot(mixed, password_hash, PLACE)
    mixed = finish_slot(theirs.bound, ours.cryptogram)
    with pytest.raises(WrongPassword):
        open_slot(mixed, password_hash, PLACE)
    with pytest.raises(DamagedData):
        open_slot(mixed, other_key, PLACE)


@pytest.mark.parametrize("price", [(2**32 - 1, 1, 1), (8, 255, 1), (4096, 1, 255), (8, 0, 1), (8, 1, 0), (0, 1, 1)])
def test_a_price_out_of_bounds_is_refused_before_it_is_paid(make, storage_key, monkeypatch, price):
    slot = bytearray(make(storage_key))
    slot[8:14] = price[0].to_bytes(4, "big") + bytes(price[1:])

    def pay(**_):
        raise AssertionError("it was paid")

    monkeypatch.setattr("argon2.low_level.hash_secret_raw", pay)
    with pytest.raises(DamagedData):
        open_slot_with_password(resum(bytes(slot)), PASSWORD, PLACE)


def test_salt_and_price_must_be_those_of_the_hash(storage_key, password_hash, cheap):
    with pytest.raises(ValueError, match="salt"):
        make_password_slot(storage_key, password_hash, bytes(16), cheap, PLACE)
    with pytest.raises(ValueError, match="salt"):
        make_password_slot(storage_key, password_hash, password_hash.salt, KdfParameters(16, 1, 1), PLACE)


@given(st.binary(max_size=300))
@example(b"TSLT\x01\x01\x00\x00\x00\x00" + bytes(32))
def test_any_bytes_give_a_documented_error(content):
    for slot in (content, resum(content + bytes(32)), resum(b"TSLT\x01\x01" + content + bytes(32))):
        with pytest.raises(DamagedData):
            read_slot(slot)


def test_longer_than_any_slot(make, storage_key):
    with pytest.raises(DamagedData):
        check_slot(resum(make(storage_key)[:-32] + bytes(MAX_SLOT)))


class TestUnlock:
    """The order of docs/security.md: hash in the key database, then the salt and a person, then the error."""

    def nothing(self, _):
        return None

    def kept(self, user_key):
        return lambda info: user_key if info.salt == user_key.salt else None

    def test_a_kept_hash_asks_nobody(self, make, storage_key, user_key):
        slot = make(storage_key)
        assert unlock([slot], PLACE, self.kept(user_key), pytest.fail) == (storage_key, user_key.hash)

    def test_a_kept_hash_for_a_later_slot_asks_nobody(self, make, storage_key, user_key, cheap):
        first = make(storage_key, hash_password(b"other", bytes(16), cheap))
        assert unlock([first, make(storage_key)], PLACE, self.kept(user_key), pytest.fail)[0] == storage_key

    def test_without_a_hash_a_person_is_asked(self, make, storage_key, password_hash):
        asked = []

        def ask(info):
            asked.append(info.hint_name)
            return PASSWORD

        assert unlock([make(storage_key, hint_name="office")], PLACE, self.nothing, ask) == (storage_key, password_hash)
        assert asked == ["office"]

    def test_one_damaged_slot_does_not_stand_in_the_way(self, make, storage_key):
        slot = make(storage_key)
        slots = [slot[:-1], unsalted(slot), make(storage_key, place=ELSEWHERE), slot]
        assert unlock(slots, PLACE, self.nothing, lambda _: PASSWORD)[0] == storage_key

    def test_a_wrong_password(self, make, storage_key):
        slot = make(storage_key)
        with pytest.raises(WrongPassword):
            unlock([slot, slot[:-1]], PLACE, self.nothing, lambda _: b"wrong")

    def test_a_wrong_password_found_before(self, make, storage_key, cheap):
        for ask in (None, self.nothing):
            with pytest.raises(WrongPassword):
                unlock([make(storage_key)], PLACE, lambda info: hash_password(b"wrong", info.salt, info.params), ask)

    def test_a_wrong_password_found_before_does_not_stop_asking(self, make, storage_key):
        def find(info):
            return hash_password(b"wrong", info.salt, info.params)

        assert unlock([make(storage_key)], PLACE, find, lambda _: PASSWORD)[0] == storage_key

    def test_nobody_knows(self, make, storage_key):
        for ask in (None, self.nothing):
            with pytest.raises(NoKey) as caught:
                unlock([make(storage_key)], PLACE, self.nothing, ask)
            assert type(caught.value) is NoKey

    def test_no_sound_slot_is_a_corrupted_point(self, make, storage_key):
        slot = make(storage_key)
        for slots in ([], [slot[:-1]], [unsalted(slot)], [slot[:-1], unsalted(slot)]):
            with pytest.raises(CorruptedPoint):
                unlock(slots, PLACE, self.nothing, pytest.fail)

    def test_a_slot_of_another_point_under_a_kept_hash_is_damage(self, make, storage_key, user_key):
        with pytest.raises(DamagedData) as caught:
            unlock([make(storage_key, place=ELSEWHERE)], PLACE, self.kept(user_key), self.nothing)
        assert type(caught.value) is DamagedData

    def test_a_slot_of_a_later_kind_is_not_a_corrupted_point(self, make, storage_key):
        slot = bytearray(make(storage_key))
        slot[5] = 9
        with pytest.raises(UnsupportedFormat):
            unlock([resum(bytes(slot)), b"rubbish"], PLACE, self.nothing, pytest.fail)

    def test_a_heap_of_slots_is_not_paid_for(self, make, storage_key):
        with pytest.raises(DamagedData, match="more slots"):
            unlock([make(storage_key)] * (MAX_SLOTS + 1), PLACE, self.nothing, pytest.fail)
