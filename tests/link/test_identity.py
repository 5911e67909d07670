"""A node's identity outlives its certificates; its private key is private."""

from __future__ import annotations

import datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from transporter.clock import ManualClock
from transporter.errors import ConfigError
from transporter.link.identity import (
    LIFETIME,
    RENEW_WHEN_LEFT,
    create_identity,
    fingerprint_text,
    load_identity,
    pin_of,
)

DAY = 24 * 3600.0


@pytest.fixture
def clock():
    return ManualClock()


def test_a_certificate_is_renewed_and_the_pin_stays(tmp_path, clock):
    first = create_identity(tmp_path, "alice", clock)
    assert load_identity(tmp_path, "alice", clock).certificate == first.certificate
    clock.advance((LIFETIME - RENEW_WHEN_LEFT).total_seconds() - DAY)
    assert load_identity(tmp_path, "alice", clock).certificate == first.certificate
    clock.advance(2 * DAY)
    second = load_identity(tmp_path, "alice", clock)
    assert second.certificate != first.certificate
    assert second.pin == first.pin == pin_of(second.certificate)
    now = datetime.datetime.fromtimestamp(clock.now_ns() / 1e9, datetime.UTC)
    assert second.certificate.not_valid_before_utc < now < second.certificate.not_valid_after_utc
    assert load_identity(tmp_path, "alice", clock).certificate == second.certificate


@pytest.mark.parametrize("content", [None, b"", b"garbage", "of another"])
def test_a_certificate_that_is_lost_or_wrong_is_made_anew(tmp_path, clock, content):
    first = create_identity(tmp_path, "alice", clock)
    path = tmp_path / "identity.crt"
    if content is None:
        path.unlink()
    elif content == "of another":
        (tmp_path / "other").mkdir()
        other = create_identity(tmp_path / "other", "bob", clock)
        path.write_bytes(other.certificate.public_bytes(serialization.Encoding.PEM))
    else:
        path.write_bytes(content)
    assert load_identity(tmp_path, "alice", clock).pin == first.pin


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_private_key_that_others_can_read_is_refused(tmp_path, clock, mode):
    create_identity(tmp_path, "alice", clock)
    path = tmp_path / "identity.key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    with pytest.raises(ConfigError, match="read by others"):
        load_identity(tmp_path, "alice", clock)


def test_an_identity_is_never_replaced(tmp_path, clock):
    first = create_identity(tmp_path, "alice", clock)
    with pytest.raises(ConfigError, match="already"):
        create_identity(tmp_path, "alice", clock)
    assert load_identity(tmp_path, "alice", clock).pin == first.pin


def test_a_home_without_an_identity(tmp_path, clock):
    with pytest.raises(ConfigError, match="no identity"):
        load_identity(tmp_path, "alice", clock)


def test_a_key_of_another_kind(tmp_path, clock):
    key = ed25519.Ed25519PrivateKey.generate()
    path = tmp_path / "identity.key"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="ECDSA"):
        load_identity(tmp_path, "alice", clock)


@pytest.mark.parametrize("text", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_file_is_a_clear_error(tmp_path, clock, text):
    create_identity(tmp_path, "alice", clock)
    (tmp_path / "identity.key").write_bytes(text)
    with pytest.raises(ConfigError):
        load_identity(tmp_path, "alice", clock)


def test_the_key_is_in_no_repr(tmp_path, clock):
    made = create_identity(tmp_path, "alice", clock)
    assert "key=" not in repr(made)
    assert "PrivateKey" not in repr(made)


def test_a_fingerprint_can_be_read_aloud():
    assert fingerprint_text(bytes(range(32))).startswith("SHA256:0001:0203:")
    assert len(fingerprint_text(bytes(32))) == len("SHA256:") + 64 + 15
