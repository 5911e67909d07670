"""What happens, as typed facts, and the bus that carries them to whoever watches.

Stages and jobs publish; progress bars, logs, the job history, ``--json`` and the daemon's hand-over subscribe.
Events hold no secret and no plaintext beyond the names of files at the side that may see them. An event crosses
the control socket and ``--json`` as one flat map whose ``event`` names its type in snake case.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Awaitable, Callable
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


class PruneProgress(Event, frozen=True, kw_only=True):
    """How far a prune is. ``step``: points, chunks, deleting, packs, compacting; ``total`` 0: not known."""

    repository: str
    step: str
    done: int = 0
    total: int = 0


class DamageFound(Event, frozen=True, kw_only=True):
    """Verify or scrub met bytes that are not what was stored. ``where`` names the object, ``what`` the finding.

    ``point``: in hex, of a file that verify names.
    """

    where: str
    what: str
    point: str = ""


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


class RangeLost(Event, frozen=True, kw_only=True):
    """``length`` bytes at ``offset`` of a file cannot be restored: the chunk that they are in is lost or damaged."""

    job: str
    path: str
    offset: int
    length: int
    reason: str


class FilePlanned(Event, frozen=True, kw_only=True):
    """What a restore would do with one path, said by a dry run: new, changed, metadata, linked, removed."""

    job: str
    path: str
    what: str


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


class PointCopied(Event, frozen=True, kw_only=True):
    """A restore point (in hex) is durable, visible and proven in another repository."""

    job: str
    point: str
    source: str
    target: str


class JobFinished(Event, frozen=True, kw_only=True):
    """The last event of a job that reached its end (with gaps or without).

    ``bytes_read``: plain bytes read at the source; ``bytes_new``: plain bytes of chunks sent; ``bytes_sent`` and
    ``bytes_received``: on the wire, both ways; ``bytes_written``: by a restore; ``files_damaged``: files that a restore
    left out or gave holes, for some of their content is lost; ``bytes_total``: plain size of the point; ``dry_run``: a
    restore only said what it would do.
    ``chunks_raw`` … ``bytes_zstd``: chunks that a backup packed by each codec, and their bytes as stored; ``points``:
    that a copy copied.
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
    files_damaged: int = 0
    chunks: int = 0
    chunks_new: int = 0
    chunks_raw: int = 0
    chunks_lz4: int = 0
    chunks_zstd: int = 0
    bytes_raw: int = 0
    bytes_lz4: int = 0
    bytes_zstd: int = 0
    points: int = 0
    seconds: float = 0.0
    streams: int = 0
    redials: int = 0
    dry_run: bool = False


class JobFailed(Event, frozen=True, kw_only=True):
    """The last event of a job that did not: an error's code, exit status and two sentences (see ``errors.py``)."""

    job: str
    code: str
    exit_status: int
    what: str
    remedy: str = ""


class FoundFile(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a file in a point: the newest of ``points`` that have it; ``oldest_ns`` is the other end of them.

    ``kind``: a letter, f d l p c b. Sizes in bytes, times in ns since 1970; ``path`` as `display_path` makes it.
    """

    path: str
    size: int
    mtime_ns: int
    kind: str
    job: str
    repository: str
    point: str
    created_ns: int
    points: int = 1
    oldest_ns: int = 0


class SearchHits(Event, frozen=True, kw_only=True):
    """What a search has found since the last such event, in the order in which it is to be shown."""

    hits: list[FoundFile]


class ListedFile(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a point. ``path``: as stored, any bytes. ``kind``: a letter, f d l p c b; bytes, ns since 1970.

    ``mode`` and what follows it is there in listings (``mode`` −1: the index of the point does not say it).
    """

    path: bytes
    kind: str
    size: int
    mtime_ns: int
    mode: int = -1
    uid: int = 0
    gid: int = 0
    user: bytes = b""
    group: bytes = b""
    target: bytes = b""
    link: bytes = b""
    rdev: int = 0
    xattrs: list[bytes] = []


class Listing(Event, frozen=True, kw_only=True):
    """Entries of a point, in path order, since the last such event."""

    files: list[ListedFile]


class FoundDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A path that is not the same in two points. ``change``: added, removed, changed; ``what``: the names of it."""

    path: bytes
    change: str
    kind: str
    size: int
    old_size: int = 0
    what: list[str] = []


class Differences(Event, frozen=True, kw_only=True):
    """What two points differ in, in path order, since the last such event."""

    found: list[FoundDifference]


class FileContent(Event, frozen=True, kw_only=True):
    """The next bytes of a file that was asked for; every one of them is proven."""

    data: bytes

    def __repr__(self) -> str:
        return f"FileContent({len(self.data)} bytes)"


class Mounted(Event, frozen=True, kw_only=True):
    """A point (``point``, hex; empty: all points of the job) can be read at ``mountpoint``."""

    job: str
    mountpoint: str
    point: str = ""


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
    | PruneProgress
    | DamageFound
    | FileSkipped
    | FileNote
    | FilePlanned
    | RangeLost
    | Note
    | LinkUp
    | LinkLost
    | Redialling
    | SecurityEvent
    | LimitInForce
    | JobPaused
    | JobResumed
    | PointCommitted
    | PointCopied
    | JobFinished
    | JobFailed
    | SearchHits
    | Listing
    | Differences
    | FileContent
    | Mounted
    | DaemonReady
)

RESULT_EVENTS = (SearchHits, Listing, Differences, FileContent)
"""Events that are what a command was asked for: it shows them itself. None may be dropped (`EventBus.room`)."""

PROGRESS_EVENTS = (Progress, RestoreProgress, VerifyProgress, ScrubProgress, PruneProgress)
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
        # Waits until a slow reader of events has caught up. For the few jobs whose events are their result: what they
        # find must neither be dropped nor gather in memory.
        self.room: Callable[[], Awaitable[None]] | None = None

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
