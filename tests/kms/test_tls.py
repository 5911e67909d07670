"""The service is what its certificate says: one that nobody vouches for gets neither token nor question."""

from __future__ import annotations

import datetime
import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from misbehaving import Misbehaving

from transporter.errors import ConfigError, KmsUnreachable
from transporter.keys import kms_http
from transporter.keys.kms import open_kms
from transporter.kms_config import KmsConfig

TOKEN = "a-token-that-nobody-shall-see"


class Tls(Misbehaving):
    """Answers over TLS, and keeps what it was sent."""

    def __init__(self, certificate) -> None:
        super().__init__()
        self._trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._trust.load_cert_chain(certificate)
        self.endpoint = self.endpoint.replace("http:", "https:")
        self.hands_shaken = 0

    def _serve(self, connection) -> None:
        try:
            inside = self._trust.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()
            return
        self._open.append(inside)
        self.hands_shaken += 1
        super()._serve(inside)


def make_certificate(folder, name, address="127.0.0.1"):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = folder / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + made.public_bytes(pem)
    )
    return file


@pytest.fixture
def configured(tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)

    def config(server, ca_file=""):
        return KmsConfig(kind="transit", key="k", endpoint=server.endpoint, token_file=str(token), ca_file=str(ca_file))

    return config


def test_an_authority_that_is_named_is_trusted(tmp_path, configured):
    certificate = make_certificate(tmp_path, "ours")
    with Tls(certificate) as server:
        server.says(b'{"data": {"type": "aes256-gcm96"}}')
        assert open_kms("main", configured(server, certificate)).key().reference == "transit/k"


@pytest.mark.parametrize("names", ["nobody", "another", "another host"])
def test_any_other_is_not_spoken_to(tmp_path, configured, monkeypatch, names):
    monkeypatch.setattr(kms_http, "PAUSE", 0.0)
    certificate = make_certificate(tmp_path, "theirs", "192.0.2.1" if names == "another host" else "127.0.0.1")
    ca_file = {"nobody": "", "another": make_certificate(tmp_path, "ours"), "another host": certificate}[names]
    with Tls(certificate) as server:
        with pytest.raises(KmsUnreachable, match="certificate is not trusted") as caught:
            open_kms("main", configured(server, ca_file)).key()
        assert server.asked == 0 and TOKEN not in str(caught.value)


def test_a_file_without_certificates(tmp_path, configured):
    certificate = make_certificate(tmp_path, "ours")
    (tmp_path / "empty").write_text("nothing")
    with Tls(certificate) as server:
        for bad in (tmp_path / "empty", tmp_path / "no-such-file"):
            with pytest.raises(ConfigError, match="ca_file"):
                open_kms("main", configured(server, bad)).key()


def test_a_server_that_speaks_no_tls(misbehaving, configured, monkeypatch):
    monkeypatch.setattr(kms_http, "CALL_SECONDS", 1.0)
    misbehaving.endpoint = misbehaving.endpoint.replace("http:", "https:")
    misbehaving.says(b"{}")
    with pytest.raises(KmsUnreachable):
        open_kms("main", configured(misbehaving)).key()
