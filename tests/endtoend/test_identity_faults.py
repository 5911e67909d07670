"""Who may not come in, and whom nobody is fooled by: pins, invitations, old TLS, other protocols, garbage."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
from e2e_node import Node, sealed, wait_until
from e2e_trees import small_tree
from kept_port import kept_port

from transporter.catalog import Peer
from transporter.clock import SystemClock
from transporter.home import Home
from transporter.link.identity import load_identity
from transporter.link.invitation import decode_invitation, encode_invitation
from transporter.link.pairing import invite


@pytest.fixture
def stranger(tmp_path):
    """A node that nobody knows."""
    node = Node(tmp_path / "stranger")
    node.ok("init", "--name", "stranger")
    return node


def invitation_of(pair, **changes):
    """An invitation of the target, with the port where it really listens."""
    how = {"lifetime": changes.pop("lifetime")} if "lifetime" in changes else {}
    text = invite(Home.open(pair.target.home), "main", address=f"127.0.0.1:{pair.target.port}", **how)
    return encode_invitation(msgspec.structs.replace(decode_invitation(text), **changes)) if changes else text


def still_serves(pair):
    """Tell whether the target still answers those it knows."""
    return pair.source("points", "--from", "offsite/main").status == 0


def refused(done, code, words):
    assert (done.status, done.failed["code"]) == (5, code), done
    assert words in done.err
    assert done.err.count("\n") == 1, "one clear line"
    assert done.failed["remedy"]


def test_a_peer_with_another_key_than_the_pinned_one_is_refused_in_the_handshake(pair, second_home, tmp_path):
    source = second_home(pair.source)
    with source.catalog as catalog:
        peer = catalog.peer("offsite")
        catalog.remove_peer("offsite")
        catalog.put_peer(replace(peer, pin=bytes(32)))
    done = source("backup", "--job", "wrong-pin", *sealed(), small_tree(tmp_path / "tree"))
    refused(done, "identity-refused", "the peer's identity is not the one that was pinned")


def test_a_node_that_the_target_does_not_know_is_refused(pair, second_home, tmp_path, stranger):
    source = second_home(pair.source)
    for name in ("identity.key", "identity.crt"):
        (source.home / name).write_bytes((stranger.home / name).read_bytes())
    done = source("points", "--from", "offsite/main")
    refused(done, "identity-refused", "")
    assert "pair" in done.failed["remedy"]
    before = pair.target.log_text()
    assert "Traceback" not in before


def test_a_node_that_was_removed_is_refused_from_then_on(new_pair, tmp_path):
    pair = new_pair()
    pair.source.job("backup", "--job", "docs", *sealed(), small_tree(tmp_path / "tree"))
    pair.target.ok("peer", "remove", "office")
    refused(pair.source("run", "docs"), "identity-refused", "")


def test_a_node_sees_no_repository_that_it_was_not_invited_to(pair, second_home):
    source = second_home(pair.source)
    with source.catalog as catalog:
        catalog.put_peer(replace(catalog.peer("offsite"), offers=("other",)))
    refused(source("points", "--from", "offsite/other"), "refused", "may not use a repository 'other'")


def test_a_repository_that_was_given_up_is_not_offered_to_who_pairs_anew(new_pair):
    pair = new_pair(serve=False)
    pair.target.configure('[repositories.rest]\nencrypt_at_rest = "vault"\n', "")
    pair.serve()
    assert pair.source("drill").status == 4, "it is asked in vain"
    pair.source.ok("peer", "remove", "offsite")
    pair.source.ok("join", invitation_of(pair))
    with pair.source.catalog as catalog:
        assert catalog.peer("offsite").offers == ("main",)
    pair.source.ok("drill")


def test_an_invitation_works_once(pair, stranger, tmp_path):
    text = invitation_of(pair)
    stranger.ok("join", text)
    second = Node(tmp_path / "second")
    second.ok("init", "--name", "second")
    refused(second("join", text), "identity-refused", "")
    refused(stranger("join", text), "identity-refused", "used already")


def test_an_expired_invitation_is_refused_by_both_ends(pair, stranger):
    refused(stranger("join", invitation_of(pair, lifetime=-1.0)), "identity-refused", "expired")
    # Somebody makes it live longer; the node that gave it out knows better.
    with pair.target.catalog as catalog:
        open_ones = [one for one in catalog.invitations() if one.used_ns is None]
    later = SystemClock().now_ns() + 10**12
    prolonged = invitation_of(pair, lifetime=-1.0, expires_ns=later)
    assert open_ones or prolonged
    refused(stranger("join", prolonged), "identity-refused", "")


@pytest.mark.parametrize("change", ["secret", "pin"])
def test_an_altered_invitation_is_refused(pair, stranger, change):
    done = stranger("join", invitation_of(pair, **{change: bytes(32)}))
    refused(done, "identity-refused", "")
    with stranger.catalog as catalog:
        assert catalog.peers() == []


@pytest.mark.parametrize("text", ["", "transporter1:", "transporter1:AAAA", "hello", "transporter1:" + "A" * 5000])
def test_what_is_no_invitation_is_said_to_be_none(stranger, text):
    done = stranger("join", text)
    assert (done.status, done.failed["code"]) == (2, "usage")
    assert done.err.count("\n") == 1
    assert not text or len(text) < 10 or text not in done.err


def test_nothing_listens_there(pair, second_home, free_port):
    source = second_home(pair.source)
    source.dials("offsite", free_port)
    done = source("points", "--from", "offsite/main")
    assert (done.status, done.failed["code"]) == (4, "cannot-connect")
    assert f"127.0.0.1:{free_port}" in done.err and done.err.count("\n") == 1


@pytest.fixture
def free_port():
    """Nobody listens there for as long as the test lasts."""
    with kept_port() as port:
        yield port


# --- who knocks at the target ----------------------------------------------------------------------------------


def knock(pair, data):
    """Send bytes to the target's port; return all that comes back until it closes."""
    with socket.create_connection(("127.0.0.1", pair.target.port), timeout=9) as sock:
        answer = b""
        try:
            # Closed at the first bytes: where the target is quicker, what else there is to send has nowhere to go.
            sock.sendall(data)
            while more := sock.recv(65536):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x00" * 4096,
        bytes(range(255, 0, -1)) * 100,
        b"\x16\x03\x01\x00\x05hello",
        b"\x16" + b"\xff" * 100_000,
        b"TPDATA01" + b"\x00" * 200,
    ],
    ids=["http", "ssh", "zeros", "noise", "short TLS", "long TLS", "almost a preface"],
)
def test_other_protocols_and_garbage_are_closed_at_once_and_told_nothing(pair, data):
    answer = knock(pair, data)
    # A TLS alert (content type 21) is all that anybody is ever answered.
    assert answer == b"" or (answer[0] == 21 and len(answer) < 10), answer
    assert still_serves(pair)
    assert "Traceback" not in pair.target.log_text()


def test_a_data_channel_of_no_session_is_closed(pair):
    from protocol.data import PREFACE_LENGTH, PREFACE_MAGIC

    assert knock(pair, PREFACE_MAGIC + bytes(PREFACE_LENGTH - len(PREFACE_MAGIC))) == b""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_2_is_refused_by_the_target(pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", pair.target.port), timeout=9) as sock,
        pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version"),
    ):
        context.wrap_socket(sock)
    assert still_serves(pair)


def test_tls_without_a_certificate_is_refused_by_the_target(pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", pair.target.port), timeout=9) as sock:
        try:
            with context.wrap_socket(sock) as tls:
                tls.sendall(b"GET /transporter/v1 HTTP/1.1\r\n\r\n")
                assert tls.recv(100) == b""
        except (ssl.SSLError, ConnectionResetError):
            pass
    assert still_serves(pair)


def test_many_half_open_peers_do_not_keep_others_out(pair):
    socks = [socket.create_connection(("127.0.0.1", pair.target.port)) for _ in range(100)]
    for sock in socks[::2]:
        sock.sendall(b"\x16")
    assert still_serves(pair)
    for sock in socks:
        sock.close()


# --- what answers when the source dials -------------------------------------------------------------------------

SERVERS = {
    "garbage": "c.sendall(bytes(range(256)) * 64)",
    "http": "c.recv(9999); c.sendall(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n')",
    "closes": "pass",
    "endless": "\n".join(["try:", "  while True: c.sendall(bytes(65536))", "except OSError: pass"]),
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_source_that_dials_something_else_says_so(pair, second_home, server):
    source = second_home(pair.source)
    body = SERVERS[server].replace("\n", "\n  ")
    script = f"""
import socket, sys
s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True)
while True:
  c, _ = s.accept()
  {body}
  c.close()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        try:
            source.dials("offsite", int(process.stdout.readline()))
            done = source("points", "--from", "offsite/main")
        finally:
            process.kill()
    assert (done.status, done.failed["code"]) == (4, "cannot-connect"), done
    assert done.err.count("\n") == 1


def test_a_source_does_not_talk_tls_1_2(pair, second_home):
    source = second_home(pair.source)
    script = """
import socket, ssl, sys, warnings
warnings.simplefilter("ignore")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + "/identity.crt", sys.argv[1] + "/identity.key")
context.maximum_version = ssl.TLSVersion.TLSv1_2
s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True)
while True:
  c, _ = s.accept()
  try: context.wrap_socket(c, server_side=True)
  except (OSError, ssl.SSLError): pass
"""
    words = [sys.executable, "-c", script, str(pair.target.home)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            source.dials("offsite", int(process.stdout.readline()))
            done = source("points", "--from", "offsite/main")
        finally:
            process.kill()
    assert done.status in {4, 5}, done
    assert done.err.count("\n") == 1


def test_a_certificate_is_renewed_without_pairing_again(new_pair, tmp_path):
    """The pin is the key's: both ends get new certificates, nobody is asked."""
    pair = new_pair(serve=False)
    old = [(node.home / "identity.crt").read_bytes() for node in pair.nodes]
    for node in pair.nodes:
        (node.home / "identity.crt").unlink()
    pair.serve()
    pair.source.job("backup", "--job", "docs", *sealed(), small_tree(tmp_path / "tree"))
    for node, before in zip(pair.nodes, old, strict=True):
        assert (node.home / "identity.crt").read_bytes() != before
        identity = load_identity(node.home, "x", SystemClock())
        assert len(identity.pin) == 32


def test_a_name_belongs_to_one_key(pair, stranger, tmp_path):
    """Another node that calls itself ``office`` does not become its tenant."""
    impostor = Node(tmp_path / "impostor")
    impostor.ok("init", "--name", "office")
    done = impostor("join", invitation_of(pair))
    refused(done, "identity-refused", "")
    with pair.target.catalog as catalog:
        known = catalog.peer("office")
    assert isinstance(known, Peer)
    assert known.pin == load_identity(pair.source.home, "x", SystemClock()).pin
    assert wait_until(lambda: still_serves(pair), "the real one to be served")
