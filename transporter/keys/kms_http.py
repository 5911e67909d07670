"""One HTTP exchange with a key management service: a hard deadline, a bounded answer, no redirects, few attempts.

The library's time-outs hold for each read, so a server that sends a byte now and then would hold a caller for ever:
a watchdog shuts the connection down when the time is up, whatever it is waiting for. (Looking up a host's name is the
resolver's own affair; it has its own limits.) The peer is what its certificate says, or this machine itself: plain
http is refused for any other by the configuration.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from transporter.errors import ConfigError, KmsBadAnswer, KmsUnreachable

CALL_SECONDS: Final = 6.0
"""A call takes so long at most, attempts included: services answer in milliseconds, and a job waits for this."""

ATTEMPTS: Final = 3
"""A throttled or restarting service answers at the second or third; more would only be asked of one that is down."""

PAUSE: Final = 0.2
"""Seconds between attempts."""

MAX_ANSWER: Final = 64 << 10
"""Bytes: a wrapped key with everything around it has some 1 KiB."""

_TRY_AGAIN: Final = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, header fields (names in lower case) and body of an answer."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def call(
    name: str, method: str, url: str, headers: Mapping[str, str], body: bytes, *, ca_file: str = "", retry: bool = True
) -> Answer:
    """Ask once, or again while the service is not ready. ``name`` is the one of ``[kms.name]``, for messages.

    Raises KmsUnreachable, KmsBadAnswer, ConfigError (``ca_file``).
    """
    until = time.monotonic() + CALL_SECONDS
    for attempt in range(ATTEMPTS if retry else 1):
        last = attempt == ATTEMPTS - 1 or not retry
        try:
            answer = exchange(name, method, url, headers, body, until, ca_file=ca_file)
            if answer.status not in _TRY_AGAIN or last:
                return answer
        except KmsUnreachable:
            if last or time.monotonic() + PAUSE >= until:
                raise
        time.sleep(min(PAUSE, max(0.0, until - time.monotonic())))
    raise AssertionError("the last attempt returns or raises")


def exchange(
    name: str, method: str, url: str, headers: Mapping[str, str], body: bytes, until: float, *, ca_file: str = ""
) -> Answer:
    """Ask once; ``until``: of the monotonic clock."""
    parts = urlsplit(url)
    connection = _Connection(name, parts, until, ca_file)
    try:
        return connection.ask(method, _target(parts), headers, body)
    finally:
        connection.close()


class _Connection:
    """A connection that ends at its deadline."""

    def __init__(self, name: str, parts: SplitResult, until: float, ca_file: str) -> None:
        self._name = name
        self._host = parts.hostname or ""
        self._tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._until = until
        self._ca_file = ca_file
        self._late = threading.Event()
        self._socket: socket.socket | None = None
        self._raw: socket.socket | None = None

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        left = self._until - time.monotonic()
        if left <= 0:
            raise self._unreachable("it did not answer in time")
        watchdog = threading.Timer(left, self._cut)
        watchdog.daemon = True
        watchdog.start()
        try:
            return self._ask(method, target, headers, body, left)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._told(error) from None
        finally:
            watchdog.cancel()

    def _ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes, left: float) -> Answer:
        self._raw = self._socket = socket.create_connection((self._host, self._port), timeout=left)
        self._raw.settimeout(left)
        if self._tls:
            self._socket = _trust(self._ca_file).wrap_socket(self._raw, server_hostname=self._host)
        client = http.client.HTTPConnection(self._host, self._port)
        client.sock = self._socket
        client.request(method, target, body or None, {**headers, "Connection": "close"})
        with closing(client.getresponse()) as answer:  # unread, it would keep the socket open
            content = answer.read(MAX_ANSWER + 1)
            cut_off = bool(answer.length) and len(content) <= MAX_ANSWER
        if self._late.is_set():  # what looks like the end may be our own cut
            raise TimeoutError
        if cut_off:
            raise http.client.IncompleteRead(content)  # the library says so only to who reads all there is
        if len(content) > MAX_ANSWER:
            raise KmsBadAnswer(
                f"[kms.{self._name}] answers with more than {MAX_ANSWER >> 10} KiB, as no such service does",
                "is this the address of the service? nothing was changed",
            )
        return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, content)

    def _cut(self) -> None:
        self._late.set()
        if self._raw is not None:
            with suppress(OSError):
                # Not the method of a TLS socket: that one alters what another thread is reading by.
                socket.socket.shutdown(self._socket or self._raw, socket.SHUT_RDWR)

    def close(self) -> None:
        for each in (self._socket, self._raw):
            if each is not None:
                each.close()

    def _told(self, error: Exception) -> Exception:
        if self._late.is_set() or isinstance(error, TimeoutError):
            return self._unreachable("it did not answer in time")
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._unreachable(f"its certificate is not trusted: {error.verify_message}")
        if isinstance(error, ssl.SSLError):
            return self._unreachable("no TLS connection came about")
        if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead | ConnectionError):
            return self._unreachable("it does not answer")
        if isinstance(error, OSError):
            return self._unreachable(error.strerror or "the network does not reach it")
        return KmsBadAnswer(
            f"what answers at the address of [kms.{self._name}] does not speak HTTP",
            "is this the address of the service? nothing was changed",
        )

    def _unreachable(self, why: str) -> KmsUnreachable:
        return KmsUnreachable(
            f"the key management service [kms.{self._name}] at {self._host}:{self._port} cannot be reached: {why}",
            "look at the network and the endpoint; nothing was changed, try again",
        )


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        trust = ssl.create_default_context()
        if ca_file:
            trust.load_verify_locations(ca_file)
    except OSError as error:  # ssl.SSLError, too
        raise ConfigError(
            f"ca_file {ca_file} cannot be used: {os.strerror(error.errno) if error.errno else 'no certificates'}",
            "name a file of PEM certificates",
        ) from None
    trust.minimum_version = ssl.TLSVersion.TLSv1_2
    return trust
