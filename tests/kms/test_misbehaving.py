"""A service that answers slowly, wrongly, too much, or never: one clear line, and nobody waits long."""

from __future__ import annotations

import base64
import json

import pytest

from transporter.clock import ManualClock
from transporter.errors import KmsBadAnswer, KmsKeyDisabled, KmsRefused, KmsUnreachable, KmsWrongKey
from transporter.keys import kms_http
from transporter.keys.key_cache import FRESH_SECONDS, MOST_KEYS, QUIET_SECONDS, STALE_SECONDS, KeyCache
from transporter.keys.kms import open_kms
from transporter.keys.kms_access import KmsAccess
from transporter.kms_config import KmsConfig

KEY = bytes(range(32))


@pytest.fixture(params=["aws", "transit"])
def config(request, misbehaving, tmp_path):
    if request.param == "aws":
        return KmsConfig(kind="aws", key="alias/main", region="eu-central-1", endpoint=misbehaving.endpoint)
    token = tmp_path / "token"
    token.write_text("a-token-that-nobody-shall-see")
    token.chmod(0o600)
    return KmsConfig(kind="transit", key="main", endpoint=misbehaving.endpoint, token_file=str(token))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(kms_http, "PAUSE", 0.01)


@pytest.fixture
def short_calls(monkeypatch):
    """For a service that never gets there. One that answers keeps its time in earnest: machines are busy."""
    monkeypatch.setattr(kms_http, "CALL_SECONDS", 0.5)


def refused(config, kind):
    with pytest.raises(kind) as caught:
        open_kms("main", config).key()
    text = str(caught.value)
    assert "[kms.main]" in text and "\n" not in text and len(text) < 400
    assert "nobody-shall-see" not in text and "no secret" not in text
    return caught.value


class TestWhatItDoes:
    def test_it_says_nothing(self, misbehaving, config, short_calls):
        misbehaving.says_nothing()
        assert "in time" in str(refused(config, KmsUnreachable))

    def test_it_drips(self, misbehaving, config, short_calls):
        misbehaving.drips()
        assert "in time" in str(refused(config, KmsUnreachable))

    def test_it_floods(self, misbehaving, config):
        misbehaving.floods()
        assert "more than 64 KiB" in str(refused(config, KmsBadAnswer))
        assert misbehaving.sent < 16 << 20  # what the buffers of two sockets hold, not what there is memory for

    def test_it_announces_more_than_there_is_memory(self, misbehaving, config):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n"
        misbehaving.answer = lambda connection: connection.sendall(head + b"x" * 100_000)
        assert "more than 64 KiB" in str(refused(config, KmsBadAnswer))

    def test_it_hangs_up(self, misbehaving, config):
        refused(config, KmsUnreachable)
        assert misbehaving.asked == kms_http.ATTEMPTS

    def test_it_cuts_its_answer_off(self, misbehaving, config):
        misbehaving.answer = lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")
        refused(config, KmsUnreachable)

    @pytest.mark.parametrize("status", ["500 Oops", "503 Service Unavailable", "429 Too Many Requests"])
    def test_it_is_not_ready_whenever_it_is_asked(self, misbehaving, config, status):
        misbehaving.says(b'{"errors": []}', status)
        refused(config, KmsUnreachable)
        assert misbehaving.asked == kms_http.ATTEMPTS

    def test_it_does_not_speak_http(self, misbehaving, config):
        misbehaving.answer = lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n" * 20)
        refused(config, (KmsBadAnswer, KmsUnreachable))

    def test_it_has_headers_without_an_end(self, misbehaving, config):
        misbehaving.answer = lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000)
        refused(config, KmsBadAnswer)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"no json",
            b"[]",
            b"null",
            b'{"data": []}',
            b'{"data": {}}',
            b"[" * 60_000,
            b'{"KeyMetadata": 5}',
            b"\xff\xfe",
        ],
        ids=lambda body: body[:12].decode("latin-1"),
    )
    def test_it_answers_with_nonsense(self, misbehaving, config, body):
        misbehaving.says(body)
        with pytest.raises((KmsBadAnswer, KmsWrongKey)):
            open_kms("main", config).key()

    def test_it_sends_elsewhere(self, misbehaving, config):
        misbehaving.answer = lambda connection: connection.sendall(
            b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
        )
        refused(config, KmsBadAnswer)

    def test_what_it_writes_does_not_reach_the_terminal(self, misbehaving, config):
        body = json.dumps({"errors": ["\x1b[2J evil"], "__type": "\x1b[2J", "message": "\x1b[2J evil"}).encode()
        misbehaving.says(body, "418 \x1b[2J")
        assert "\x1b" not in str(refused(config, KmsBadAnswer)) and "evil" not in str(refused(config, KmsBadAnswer))


class TestWhatItUnwraps:
    def answer(self, misbehaving, config, plain: bytes):
        text = base64.b64encode(plain).decode()
        misbehaving.says(
            json.dumps(
                {
                    "Plaintext": text,
                    "data": {"plaintext": text, "type": "aes256-gcm96"},
                    "KeyMetadata": {"Arn": "arn:aws:kms:x:1:key/2"},
                }
            ).encode()
        )
        return open_kms("main", config)

    @pytest.mark.parametrize("length", [0, 16, 31, 33, 4096])
    def test_a_key_of_another_length(self, misbehaving, config, length):
        with pytest.raises(KmsWrongKey):
            self.answer(misbehaving, config, b"k" * length).unwrap(b"wrapped", {})

    def test_no_base64(self, misbehaving, config):
        misbehaving.says(
            b'{"Plaintext": "*", "data": {"plaintext": "*"}, "KeyMetadata": {"Arn": "arn:aws:kms:x:1:key/2"}}'
        )
        with pytest.raises((KmsBadAnswer, KmsWrongKey)):
            open_kms("main", config).unwrap(b"wrapped", {})

    def test_a_wrapped_key_that_no_slot_could_hold(self, misbehaving, config):
        text = base64.b64encode(b"w" * 1025).decode()
        body = {
            "CiphertextBlob": text,
            "data": {"ciphertext": text, "type": "aes256-gcm96"},
            "KeyMetadata": {"Arn": "arn:aws:kms:x:1:key/2"},
        }
        misbehaving.says(json.dumps(body).encode())
        with pytest.raises(KmsBadAnswer):
            open_kms("main", config).wrap(KEY, {})


class Scripted:
    """A service that does what the test says, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None

    def unwrap(self, wrapped, _context):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return bytes(wrapped) * 32

    def wrap(self, key, _context):
        self.asked += 1
        return key[:1]


@pytest.fixture
def access(monkeypatch):
    clock, service, entries = ManualClock(), Scripted(), []
    config = KmsConfig(kind="aws", key="k")
    made = KmsAccess(
        lambda: {"main": config},
        clock,
        lambda event, **facts: entries.append((event, facts)),
        KeyCache(),
    )
    monkeypatch.setitem(made._open, "main", (config, service))
    return made, service, clock, entries


class TestTheCache:
    def test_a_key_is_asked_for_once_until_it_is_old(self, access):
        made, service, clock, entries = access
        for _time in range(5):
            assert made.unwrap("main", b"w", {"a": "b"}) == b"w" * 32
        assert (service.asked, len(entries)) == (1, 1)
        clock.advance(FRESH_SECONDS + 1)
        made.unwrap("main", b"w", {"a": "b"})
        assert (service.asked, len(entries)) == (2, 2)

    def test_another_context_is_another_key(self, access):
        made, service, _clock, _entries = access
        made.unwrap("main", b"w", {"a": "b"})
        made.unwrap("main", b"w", {"a": "c"})
        assert service.asked == 2

    def test_an_outage_is_bridged_and_a_refusal_is_not(self, access):
        made, service, clock, _entries = access
        made.unwrap("main", b"w", {})
        service.error = KmsUnreachable("away")
        clock.advance(FRESH_SECONDS + 1)
        assert made.unwrap("main", b"w", {}) == b"w" * 32
        clock.advance(QUIET_SECONDS + 1)
        service.error = KmsKeyDisabled("off")
        with pytest.raises(KmsKeyDisabled):
            made.unwrap("main", b"w", {})
        clock.advance(QUIET_SECONDS + 1)
        service.error = KmsUnreachable("away")
        with pytest.raises(KmsUnreachable):  # it was let go of
            made.unwrap("main", b"w", {})

    def test_an_outage_is_not_bridged_for_ever(self, access):
        made, service, clock, _entries = access
        made.unwrap("main", b"w", {})
        service.error = KmsUnreachable("away")
        clock.advance(STALE_SECONDS + 1)
        with pytest.raises(KmsUnreachable):
            made.unwrap("main", b"w", {})

    def test_after_a_failure_a_thousand_questions_are_one(self, access):
        made, service, clock, _entries = access
        service.error = KmsRefused("no")
        for number in range(1000):
            with pytest.raises(KmsRefused):
                made.unwrap("main", number.to_bytes(2, "big"), {})
        assert service.asked == 1
        clock.advance(QUIET_SECONDS + 1)
        service.error = None
        assert made.unwrap("main", b"w", {}) == b"w" * 32

    def test_a_key_that_opens_not_this_may_open_the_next(self, access):
        made, service, _clock, _entries = access
        service.error = KmsWrongKey("other")
        with pytest.raises(KmsWrongKey):
            made.unwrap("main", b"w", {})
        service.error = None
        assert made.unwrap("main", b"v", {}) == b"v" * 32

    def test_it_is_bounded(self):
        cache = KeyCache()
        for number in range(MOST_KEYS + 10):
            cache.put(number.to_bytes(4, "big"), KEY, 0.0)
        assert len(cache._keys) == MOST_KEYS and cache.get(bytes(4), 0.0) is None

    def test_what_was_wrapped_here_is_not_asked_for(self, access):
        made, service, _clock, entries = access
        wrapped = made.wrap("main", b"w" * 32, {"transporter-purpose": "test"}, prove=False)
        assert made.unwrap("main", wrapped, {"transporter-purpose": "test"}) == b"w" * 32
        assert service.asked == 1 and entries == [("kms.wrap", {"kms": "main", "purpose": "test"})]

    def test_a_service_that_gives_back_another_key_is_not_relied_upon(self, access):
        made, _service, _clock, entries = access
        with pytest.raises(KmsWrongKey, match="another key than it was given"):
            made.wrap("main", KEY, {}, prove=True)
        assert entries == []

    def test_a_drill_is_one_entry(self, access):
        made, _service, _clock, entries = access
        with made.counted():
            for number in range(50):
                made.unwrap("main", bytes((number,)), {"transporter-purpose": "restore point"})
        assert entries == [("kms.unwrap", {"kms": "main", "purpose": "restore point", "keys": 50})]
