from __future__ import annotations

import json
import os
import threading

import pytest

from transporter.clock import ManualClock
from transporter.errors import ConfigError, DamagedData, DiskFull
from transporter.keys import audit_trail
from transporter.keys.audit_trail import NO_HASH, AuditTrail, Head

KEY = b"k" * 32


@pytest.fixture
def trail(tmp_path):
    return AuditTrail(tmp_path / "audit.log", ManualClock(), KEY)


def lines(trail):
    return trail.path.read_bytes().splitlines(keepends=True)


def filled(trail, count=4):
    return [trail.append("password.add", {"password": f"p{number}", "points": number}) for number in range(count)]


def test_entries_follow_one_another(trail):
    heads = filled(trail)
    entries = list(trail.entries())
    assert [entry["n"] for entry in entries] == [1, 2, 3, 4]
    assert [entry["prev"] for entry in entries] == [NO_HASH, *(head.hash for head in heads[:-1])]
    assert heads[-1] == Head(4, entries[-1]["hash"])
    assert entries[2] | {"event": "password.add", "password": "p2", "points": 2} == entries[2]
    assert entries[0]["by"].split()[0] == str(os.getuid())
    assert trail.verify(heads[-1]) == 4


def test_an_empty_trail_is_whole(trail):
    assert list(trail.entries()) == [] and trail.verify(Head()) == 0


def test_only_its_owner_may_read_it(trail):
    filled(trail, 1)
    assert trail.path.stat().st_mode & 0o777 == 0o600
    trail.path.chmod(0o644)
    with pytest.raises(ConfigError, match="other users"):
        trail.append("password.add", {})
    with pytest.raises(ConfigError):
        list(trail.entries())


@pytest.mark.parametrize("number", range(4))
def test_a_single_altered_entry_is_found(trail, number):
    head = filled(trail)[-1]
    written = lines(trail)
    entry = json.loads(written[number])
    for field, value in [("password", "px"), ("at", "2020"), ("n", 9), ("prev", "1" * 64), ("hash", "2" * 64)]:
        altered = json.dumps(entry | {field: value}, separators=(",", ":")).encode() + b"\n"
        trail.path.write_bytes(b"".join([*written[:number], altered, *written[number + 1 :]]))
        with pytest.raises(DamagedData):
            trail.verify(head)


def test_every_altered_bit_is_found(trail):
    head = filled(trail, 2)[-1]
    written = bytearray(trail.path.read_bytes())
    for at in range(len(written)):
        written[at] ^= 1
        trail.path.write_bytes(written)
        with pytest.raises(DamagedData):
            trail.verify(head)
        written[at] ^= 1


def test_nothing_can_be_hidden_behind_the_hash(trail):
    """Of two fields of one name a reader takes the last."""
    head = filled(trail, 1)[-1]
    (line,) = lines(trail)
    for more in (b',"event":"harmless"}\n', b" }\n", b"} \n"):
        trail.path.write_bytes(line[:-2] + more)
        with pytest.raises(DamagedData, match="altered"):
            trail.verify(head)


def test_without_the_key_nobody_makes_an_entry(trail, tmp_path):
    head = filled(trail, 2)[-1]
    forger = AuditTrail(tmp_path / "forged.log", ManualClock(), b"f" * 32)
    for _ in range(3):
        forger.append("password.add", {})
    trail.path.write_bytes(trail.path.read_bytes() + lines(forger)[2])
    with pytest.raises(DamagedData):
        trail.verify(head)
    with pytest.raises(DamagedData):
        trail.append("password.add", {}, head)


def test_nothing_is_added_behind_an_end_that_is_not_the_one_remembered(trail):
    """Else the next entry would cover up what was cut off."""
    head = filled(trail)[-1]
    written = lines(trail)
    for cut in (b"".join(written[:3]), b"", b"".join(written)[:-1], b"".join(written)[:-30]):
        trail.path.write_bytes(cut)
        with pytest.raises(DamagedData, match="cut off"):
            trail.append("password.add", {}, head)
        assert trail.path.read_bytes() == cut
    trail.path.write_bytes(b"".join(written))
    assert trail.append("password.add", {}, head).number == 5


def test_what_a_crash_left_behind_the_remembered_end_is_gone_on_from(trail):
    heads = filled(trail)
    trail.path.write_bytes(trail.path.read_bytes() + b'{"n":5')
    assert trail.append("password.add", {}, heads[1]).number == 5


def test_an_entry_taken_out_put_in_or_moved_is_found(trail):
    head = filled(trail)[-1]
    one, two, three, four = lines(trail)
    for forged in ([one, three, four], [one, two, two, three, four], [two, one, three, four], [two, three, four]):
        trail.path.write_bytes(b"".join(forged))
        with pytest.raises(DamagedData, match="follow"):
            trail.verify(head)


def test_an_end_that_was_cut_off_is_found_by_who_remembers_it(trail):
    head = filled(trail)[-1]
    written = lines(trail)
    for count in range(4):
        trail.path.write_bytes(b"".join(written[:count]))
        with pytest.raises(DamagedData, match="cut off"):
            trail.verify(head)
    trail.path.unlink()
    with pytest.raises(DamagedData, match="cut off"):
        trail.verify(head)


def test_a_trail_that_was_begun_anew_is_found(trail):
    head = filled(trail)[-1]
    trail.path.unlink()
    for number in range(9):
        trail.append("password.add", {"password": f"other {number}"})
    with pytest.raises(DamagedData, match="replaced"):
        trail.verify(head)


def test_it_may_go_further_than_is_remembered(trail):
    heads = filled(trail)
    assert trail.verify(heads[1]) == 4


def test_what_a_crash_left_of_an_entry_is_taken_off(trail):
    head = filled(trail, 2)[-1]
    whole = trail.path.read_bytes()
    for torn in (b"{", b'{"n":3,"at":"20', whole.splitlines()[0]):
        trail.path.write_bytes(whole + torn)
        assert trail.verify(head) == 2
        assert trail.append("password.remove", {}).number == 3
        assert [entry["event"] for entry in trail.entries()] == ["password.add", "password.add", "password.remove"]


def test_nothing_is_added_behind_a_damaged_end(trail):
    filled(trail, 2)
    trail.path.write_bytes(trail.path.read_bytes()[:-20] + b"x" * 19 + b"\n")
    with pytest.raises(DamagedData, match="altered"):
        trail.append("password.add", {})


def test_the_last_entry_is_found_in_a_long_trail(trail, monkeypatch):
    monkeypatch.setattr(audit_trail, "_LAST_LINE", 1000)
    head = filled(trail, 40)[-1]
    assert trail.verify(head) == 40


def test_several_processes_append_one_after_the_other(trail):
    def append():
        for _ in range(20):
            AuditTrail(trail.path, ManualClock(), KEY).append("password.add", {})

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry["n"] for entry in trail.entries()] == list(range(1, 81))


def test_a_full_disk_is_told_of_and_leaves_a_trail_that_goes_on(trail, monkeypatch):
    head = filled(trail, 2)[-1]
    really_write, whole = os.write, trail.path.read_bytes()

    def half(fd, data):
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return really_write(fd, data[: len(data) // 2])

    monkeypatch.setattr(audit_trail.os, "write", half)
    with pytest.raises(DiskFull):
        trail.append("password.add", {})
    monkeypatch.undo()
    assert trail.path.read_bytes() != whole
    assert trail.verify(head) == 2 and trail.append("password.add", {}).number == 3


def test_names_of_any_characters(trail):
    trail.append("password.add", {"password": 'quote " and ,"hash":"' + "ü\udcff"})
    trail.append("password.add", {"jobs": ["a", "b"], "done": True})
    assert [entry.get("password") for entry in trail.entries()] == ['quote " and ,"hash":"' + "ü\udcff", None]


def test_a_fact_cannot_pose_as_a_field(trail):
    with pytest.raises(ValueError, match="field"):
        trail.append("password.add", {"n": 7})
