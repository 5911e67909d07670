"""What happens, as typed facts, and the bus that carries them to whoever watches.

Stages and jobs publish; progress bars, logs, the job history, ``--json`` and the daemon's hand-over subscribe.
Events hold no secret and no plaintext beyond the names of files at the side that may see them. An event crosses
the control socket and ``--json`` as one flat map whose ``event`` names its type in snake case.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from typing import Any

import msgspec


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=_snake):
    """Base of all events."""


class JobStarted(Event, frozen=True, kw_only=True):
    """A job begins. ``operation`` is backup, restore, verify or scrub."""

    job: str
    operation: str
    peer: str = ""
    repository: str = ""
    zone: str = ""
    point: str = ""


class Progress(Event, frozen=True, kw_only=True):
    """How far a backup is. Sizes in bytes since the start; a total is ``None`` while it is not known."""

    job: str
    bytes_read: int = 0
    bytes_new: int = 0
    bytes_sent: int = 0
    files: int = 0
    files_unchanged: int = 0
    bytes_total: int | None = None
    files_total: int | None = None


class RestoreProgress(Event, frozen=True, kw_only=True):
    """How far a restore is. ``bytes_total`` counts what will be written."""

    job: str
    point: str = ""
    bytes_written: int = 0
    bytes_received: int = 0
    files: int = 0
    bytes_total: int | None = None
    files_total: int | None = None


class VerifyProgress(Event, frozen=True, kw_only=True):
    """How many chunks of a point were opened and found sound."""

    job: str
    point: str = ""
    chunks: int = 0
    bytes_verified: int = 0
    chunks_total: int | None = None
    bytes_total: int | None = None


class ScrubProgress(Event, frozen=True, kw_only=True):
    """How many packs of a repository were hashed again."""

    repository: str
    packs: int = 0
    bytes_checked: int = 0
    packs_total: int | None = None
    bytes_total: int | None = None


class DamageFound(Event, frozen=True, kw_only=True):
    """Verify or scrub met bytes that are not what was stored. ``where`` names the object, ``what`` the finding."""

    where: str
    what: str


class FileSkipped(Event, frozen=True, kw_only=True):
    """A file that could not be read: the job ends with exit status 8 and the point is marked."""

    job: str
    path: str
    reason: str


class FileNote(Event, frozen=True, kw_only=True):
    """Worth knowing of one file, no reason to fail: a socket left out, a file that changed while it was read."""

    job: str
    path: str
    note: str


class Note(Event, frozen=True, kw_only=True):
    """Anything else a person should read, e.g. that this run goes on where an interrupted one stopped."""

    text: str
    job: str = ""


class LinkUp(Event, frozen=True, kw_only=True):
    """A session with the peer stands; ``streams`` data channels carry it."""

    peer: str
    address: str = ""
    session: str = ""
    streams: int = 0


class LinkLost(Event, frozen=True, kw_only=True):
    """The link broke; the job goes on when it is back."""

    peer: str
    reason: str


class Redialling(Event, frozen=True, kw_only=True):
    """Attempt number ``attempt`` (from 1) to get the link back starts in ``delay`` seconds."""

    peer: str
    attempt: int
    delay: float


class SecurityEvent(Event, frozen=True, kw_only=True):
    """Someone altered the link, or is not who was expected. Never retried in silence."""

    peer: str
    what: str


class LimitInForce(Event, frozen=True, kw_only=True):
    """From now on the job may ``send`` or ``receive`` (``direction``) so many bytes a second; 0: no limit any more.

    ``by`` is whose limit is the strictest: daemon, peer, job, or ``asked`` where the other side asked for it.
    """

    job: str
    direction: str
    bytes_per_second: int
    by: str = ""


class JobPaused(Event, frozen=True, kw_only=True):
    """The job moves no more chunks until it is resumed; its session stays."""

    job: str


class JobResumed(Event, frozen=True, kw_only=True):
    """The job goes on."""

    job: str


class PointCommitted(Event, frozen=True, kw_only=True):
    """A restore point is durable and visible. ``point`` and ``parent`` in hex; ``parent`` is empty for a full one."""

    job: str
    point: str
    kind: str
    parent: str = ""


class JobFinished(Event, frozen=True, kw_only=True):
    """The last event of a job that reached its end (with gaps or without).

    ``bytes_read``: plain bytes read at the source; ``bytes_new``: plain bytes of chunks sent; ``bytes_sent`` and
    ``bytes_received``: on the wire, both ways; ``bytes_written``: by a restore; ``bytes_total``: plain size of the
    point. ``chunks_raw`` … ``bytes_zstd``: chunks that a backup packed by each codec, and their bytes as stored.
    """

    job: str
    operation: str
    point: str = ""
    kind: str = ""
    zone: str = ""
    bytes_read: int = 0
    bytes_new: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    bytes_written: int = 0
    bytes_total: int = 0
    files: int = 0
    files_unchanged: int = 0
    files_skipped: int = 0
    chunks: int = 0
    chunks_new: int = 0
    chunks_raw: int = 0
    chunks_lz4: int = 0
    chunks_zstd: int = 0
    bytes_raw: int = 0
    bytes_lz4: int = 0
    bytes_zstd: int = 0
    seconds: float = 0.0
    streams: int = 0
    redials: int = 0


class JobFailed(Event, frozen=True, kw_only=True):
    """The last event of a job that did not: an error's code, exit status and two sentences (see ``errors.py``)."""

    job: str
    code: str
    exit_status: int
    what: str
    remedy: str = ""


class DaemonReady(Event, frozen=True, kw_only=True):
    """The daemon accepts connections at ``listen``."""

    node: str
    listen: str
    fingerprint: str


AnyEvent = (
    JobStarted
    | Progress
    | RestoreProgress
    | VerifyProgress
    | ScrubProgress
    | DamageFound
    | FileSkipped
    | FileNote
    | Note
    | LinkUp
    | LinkLost
    | Redialling
    | SecurityEvent
    | LimitInForce
    | JobPaused
    | JobResumed
    | PointCommitted
    | JobFinished
    | JobFailed
    | DaemonReady
)

PROGRESS_EVENTS = (Progress, RestoreProgress, VerifyProgress, ScrubProgress)
"""Events that a newer one of the same job makes worthless: watchers may drop them."""


def event_to_dict(event: Event) -> dict[str, Any]:
    """Return the event as a flat map of plain values, ``event`` first."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return fields


def event_from_dict(fields: dict[str, Any]) -> AnyEvent:
    """Return the event of a map that ``event_to_dict`` made; raise ``ValueError`` for anything else."""
    try:
        event: AnyEvent = msgspec.convert(fields, AnyEvent)
    except msgspec.ValidationError as error:
        raise ValueError(f"not an event: {error}") from None
    return event


def display_path(path: bytes) -> str:
    """Return a path as text for people and JSON: control characters and bytes that are not UTF-8 become escapes."""
    text = path.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


Subscriber = Callable[[Event], None]


class EventBus:
    """Hands each published event to every subscriber, in the order of subscription, in the publishing thread.

    A subscriber that raises is dropped with a ``RuntimeWarning``: a broken progress bar must not end a backup.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[Subscriber, ...] = ()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Add a subscriber; return the function that takes it away again."""
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)
        return lambda: self._remove(subscriber)

    def publish(self, event: Event) -> None:
        """Hand the event to all subscribers."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception as error:
                self._remove(subscriber)
                warnings.warn(f"a watcher of events failed and was dropped: {error!r}", RuntimeWarning, stacklevel=2)

    def _remove(self, subscriber: Subscriber) -> None:
        with self._lock:
            self._subscribers = tuple(one for one in self._subscribers if one is not subscriber)
