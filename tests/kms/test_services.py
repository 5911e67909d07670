"""Both services as they run: what one wraps it unwraps, for the same context alone, and each failure has its name."""

from __future__ import annotations

import pytest
from kms_servers import ACCOUNT, REGION

from transporter.errors import ConfigError, KmsKeyDisabled, KmsRefused, KmsUnreachable, KmsWrongKey
from transporter.keys import kms_http
from transporter.keys.kms import MAX_WRAPPED_BY_KMS, Provider, open_kms
from transporter.kms_config import KmsConfig

KEY = bytes(range(32))
CONTEXT = {"transporter-tenant": "büro", "transporter-point": "0a" * 16}


@pytest.fixture(params=["aws", "transit"])
def service(request, tmp_path):
    """A service with a key of its own, and how to switch that key off."""
    if request.param == "aws":
        moto = request.getfixturevalue("moto")
        arn = moto.new_key()

        def off():
            moto.ask("disable_key", KeyId=arn.rpartition("/")[2])

        return moto.config(arn), off, moto.config()
    openbao = request.getfixturevalue("openbao")
    name = openbao.new_key(f"key-{tmp_path.name}")
    other = openbao.new_key(f"other-{tmp_path.name}")

    def off():
        openbao.ask("DELETE", f"transit/keys/{name}/soft-delete")

    return openbao.config(name, openbao.new_token(tmp_path / "token", name)), off, openbao.config(other)


def test_what_is_wrapped_is_unwrapped(service):
    kms = open_kms("main", service[0])
    wrapped = kms.wrap(KEY, CONTEXT)
    assert KEY not in wrapped and len(wrapped) <= MAX_WRAPPED_BY_KMS
    assert open_kms("main", service[0]).unwrap(wrapped, CONTEXT) == KEY
    assert kms.wrap(KEY, CONTEXT) != wrapped


def test_the_key_is_named_in_full(service):
    config = service[0]
    key = open_kms("main", config).key()
    assert key.provider is (Provider.AWS if config.kind == "aws" else Provider.TRANSIT)
    assert key.reference == (config.key if config.kind == "aws" else f"transit/{config.key}")


def test_only_the_same_context_opens_it(service):
    kms = open_kms("main", service[0])
    wrapped = kms.wrap(KEY, CONTEXT)
    for other in ({}, {**CONTEXT, "transporter-point": "0b" * 16}, {**CONTEXT, "more": "x"}):
        with pytest.raises(KmsWrongKey, match="another key, or for another place"):
            kms.unwrap(wrapped, other)


def test_altered_bytes_open_nothing(service):
    kms = open_kms("main", service[0])
    wrapped = kms.wrap(KEY, CONTEXT)
    for bad in (wrapped[:-1], b"", wrapped[:-3] + b"AAA", bytes(40), b"x" * (MAX_WRAPPED_BY_KMS + 1)):
        with pytest.raises(KmsWrongKey):
            kms.unwrap(bad, CONTEXT)


def test_another_key_is_the_wrong_one(service):
    wrapped = open_kms("main", service[0]).wrap(KEY, CONTEXT)
    with pytest.raises((KmsWrongKey, KmsRefused)) as caught:
        open_kms("main", service[2]).unwrap(wrapped, CONTEXT)
    # moto says "access denied" where AWS says "incorrect key".
    assert caught.type is KmsWrongKey or service[0].kind == "aws"


def test_a_key_that_was_switched_off(service):
    config, off, _other = service
    off()
    with pytest.raises(KmsKeyDisabled) as caught:
        open_kms("main", config).key()
    assert (caught.value.code, caught.value.exit_status) == ("kms-key-disabled", 6)
    with pytest.raises(KmsKeyDisabled):
        open_kms("main", config).wrap(KEY, CONTEXT)


def test_a_transit_key_that_was_switched_off_opens_nothing(openbao, tmp_path):
    name = openbao.new_key("switched-off")
    kms = open_kms("main", openbao.config(name))
    wrapped = kms.wrap(KEY, CONTEXT)
    openbao.ask("DELETE", f"transit/keys/{name}/soft-delete")
    with pytest.raises(KmsKeyDisabled):
        kms.unwrap(wrapped, CONTEXT)
    openbao.ask("POST", f"transit/keys/{name}/soft-delete-restore")
    assert kms.unwrap(wrapped, CONTEXT) == KEY
    openbao.ask("POST", f"transit/keys/{name}/rotate")
    assert kms.unwrap(wrapped, CONTEXT) == KEY  # a rotated key opens what it wrapped before
    openbao.ask("POST", f"transit/keys/{name}/config", {"min_decryption_version": 2})
    with pytest.raises(KmsKeyDisabled, match="min_decryption_version"):
        kms.unwrap(wrapped, CONTEXT)


def test_a_key_that_is_not_there_and_is_not_made_by_asking(openbao, moto, tmp_path):
    missing = openbao.config("no-such-key")
    for _attempt in range(2):
        with pytest.raises(KmsWrongKey, match="no-such-key") as caught:
            open_kms("main", missing).wrap(KEY, CONTEXT)
        assert (caught.value.code, caught.value.exit_status) == ("kms-wrong-key", 6)
    with pytest.raises(KmsWrongKey, match="'elsewhere'"):
        open_kms("main", openbao.config("x", mount="elsewhere")).key()
    gone = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"
    with pytest.raises(KmsWrongKey) as caught:
        open_kms("main", moto.config(gone)).key()
    assert caught.value.exit_status == 6


def test_another_account_is_refused(moto):
    config = moto.config(account=ACCOUNT)
    assert open_kms("main", config).key().reference == config.key
    with pytest.raises(KmsRefused, match="another AWS account than 999999999999") as caught:
        open_kms("main", moto.config(account="999999999999")).wrap(KEY, CONTEXT)
    assert (caught.value.code, caught.value.exit_status) == ("kms-refused", 5)


def test_no_credentials(moto, openbao, tmp_path, monkeypatch):
    config = moto.config()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(KmsRefused, match="no AWS credentials"):
        open_kms("main", config).key()
    missing = openbao.config("x", tmp_path / "no-token")
    with pytest.raises(ConfigError, match="missing"):
        open_kms("main", missing).key()


def test_a_token_that_is_not_valid_or_may_not_use_the_key(openbao, tmp_path):
    key, other = openbao.new_key("guarded"), openbao.new_key("not-ours")
    wrong = tmp_path / "token"
    wrong.write_text("s.wrong-token-of-nobody\n")
    wrong.chmod(0o600)
    with pytest.raises(KmsRefused, match="refuses the token") as caught:
        open_kms("main", openbao.config(key, wrong)).key()
    assert "wrong-token" not in str(caught.value)
    with pytest.raises(KmsRefused):
        open_kms("main", openbao.config(other, openbao.new_token(tmp_path / "narrow", key))).key()


def test_a_token_that_others_can_read_is_refused(openbao, tmp_path):
    token = openbao.new_token(tmp_path / "token", openbao.new_key("private"))
    token.chmod(0o640)
    with pytest.raises(ConfigError, match="0640"):
        open_kms("main", openbao.config("private", token)).key()


def test_a_token_comes_as_a_credential(openbao, tmp_path, monkeypatch):
    openbao.new_token(tmp_path / "kms-token", openbao.new_key("by-credential"))
    config = KmsConfig(
        kind="transit", key="by-credential", endpoint=openbao.endpoint, token_file="credential:kms-token"
    )
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert open_kms("main", config).key().reference == "transit/by-credential"


def test_a_transit_key_that_binds_nothing_is_refused(openbao):
    openbao.new_key("signing", type="rsa-4096")
    with pytest.raises(KmsWrongKey, match="binds nothing"):
        open_kms("main", openbao.config("signing")).wrap(KEY, CONTEXT)


def test_no_network(service, monkeypatch):
    monkeypatch.setattr(kms_http, "PAUSE", 0.0)
    config = service[0]
    away = KmsConfig(
        kind=config.kind,
        key=config.key,
        region=config.region,
        token_file=config.token_file,
        endpoint="http://127.0.0.1:9",
    )
    with pytest.raises(KmsUnreachable, match=r"127\.0\.0\.1:9") as caught:
        open_kms("main", away).key()
    assert (caught.value.code, caught.value.exit_status) == ("kms-unreachable", 4)


def test_without_boto3_it_says_what_to_install(moto, monkeypatch):
    config = moto.config()
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(ConfigError, match=r"transporter-pair\[kms\]"):
        open_kms("main", config).key()
