"""What the command line asks of a daemon, or of itself: one job, in plain data that crosses the control socket."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from transporter.quantities import Duration
from transporter.retention import KeepPolicy

if TYPE_CHECKING:
    from transporter.config import CopyConfig


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Request")).lower()


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="request", tag=_snake):
    pass


class _Unlocking(_Request, frozen=True, kw_only=True):
    """A request that opens sealed data.

    ``password`` is for a home whose key database does not hold the point's password: as typed, used once, never
    stored, never shown. ``zone``: the trust zone that the point must be of, where the configuration does not say it.
    """

    zone: str = ""

    password: bytes = b""

    def __repr__(self) -> str:
        fields = (name for name in self.__struct_fields__ if name != "password")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"


class BackupRequest(_Request, frozen=True, kw_only=True):
    """Run a job of the configuration."""

    job: str


class RestoreRequest(_Unlocking, frozen=True, kw_only=True):
    """Restore ``point`` (``latest``, an id in hex, or the unique beginning of one) to the absolute folder ``output``.

    ``include``: globs over paths; empty means everything. ``source`` names where to look when it is not where the
    configuration says: PEER/REPOSITORY, or a repository of this node, and there ``tenant`` says whose job it is.
    ``exclude`` … ``dry_run``: see `Wish`. ``output`` is empty for a restore in place to where everything was.
    ``onto``: it is a block device. ``to_fd``: a descriptor of the process that carries it out, which gets a stream.
    """

    job: str
    point: str
    output: str
    include: list[str] = []
    overwrite: bool = False
    source: str = ""
    exclude: list[str] = []
    paths: list[bytes] = []
    in_place: bool = False
    compare: bool = False
    delete: bool = False
    dry_run: bool = False
    keep_going: bool = False
    partial: bool = False
    tar: bool = False
    onto: bool = False
    to_fd: int = -1
    tenant: str = ""


class VerifyRequest(_Unlocking, frozen=True, kw_only=True):
    """Open everything of a point, as a restore would; ``sample`` is the share of its chunks, 0 < sample <= 1.

    ``points``: these, by their ids, one after the other, instead of one. The result then has ``closed``: those that
    nothing at hand opens, and ``worst``: the exit status of the others.
    """

    job: str
    point: str = "latest"
    points: list[str] = []
    sample: float = 1.0
    source: str = ""
    tenant: str = ""


class CopyRequest(_Request, frozen=True, kw_only=True):
    """Copy restore points from repository to repository. ``job``: what the run is called.

    ``source`` and ``target``: PEER/REPOSITORY or a repository of this home; ``jobs`` empty: of all jobs. ``point``:
    ``latest``, the beginning of an id, or empty: all that are missing there.
    ``through``: between two peers the data passes through this node. ``seal``: what is sealed on the way under
    ``password``, the name of one of this home: nothing, what is plain, or all. ``target``: the target seals what
    is plain, under a password of its own (empty: the one of its repository). ``removed_too``: also points that were
    removed from the target.
    """

    job: str
    source: str
    target: str
    jobs: list[str] = []
    point: str = ""
    through: bool = False
    seal: Literal["as-is", "plain", "all", "target"] = "as-is"
    password: str = ""
    removed_too: bool = False


def configured_copy(name: str, copy: CopyConfig) -> CopyRequest:
    """Return the request for a backup copy job of the configuration."""
    return CopyRequest(
        job=name,
        source=copy.source,
        target=copy.to,
        jobs=copy.jobs,
        through=copy.through,
        seal=copy.seal,
        password=copy.password,
    )


class PointsRequest(_Request, frozen=True, kw_only=True):
    """List restore points; ``job`` empty means all jobs. The result has ``points``: a list of maps, oldest first.

    ``repository``: those in a repository of this node. ``recycled``: those in the recycle bin instead. ``accept``: take
    what a target lists for what should be there; the result has ``settled``, too.
    """

    job: str = ""
    source: str = ""
    repository: str = ""
    recycled: bool = False
    accept: bool = False


class RewrapRequest(_Request, frozen=True, kw_only=True):
    """Replace the slots of the unfinished changes of a password (empty: of all), wherever they lie.

    ``give_up``: finish although points are left whose old slot is damaged. The result is a `RewrapReport`.
    """

    password_name: str = ""
    give_up: bool = False


class DrillRequest(_Request, frozen=True, kw_only=True):
    """Try the ways of opening of every point. The result is a `DrillReport`."""


class ExplainRequest(_Request, frozen=True, kw_only=True):
    """Say which ways of opening the points have whose id begins so (hex). The result has ``points``, with ``ways``."""

    point: str


class SaltsRequest(_Request, frozen=True, kw_only=True):
    """Ask for the passwords that points were made with and that this home does not keep. The result has ``salts``.

    Each is a map of public facts: ``salt``, ``verifier`` (hex), ``memory_kib``, ``iterations``, ``lanes``, ``points``.
    """


class ApplyKeysetsRequest(_Request, frozen=True, kw_only=True):
    """Wrap the keys of all points for every active keyset. The result is an `ApplyReport`."""


class ApplyKmsRequest(_Request, frozen=True, kw_only=True):
    """Give all points the slot of a key management service. The result is an `ApplyReport`."""

    kms: str


class KeysetDrillRequest(_Request, frozen=True, kw_only=True):
    """Write what a drill of keysets needs to the absolute path ``output``. The result has ``points``."""

    output: str


class RecoverRequest(_Request, frozen=True, kw_only=True):
    """Make a request to an escrow for the point whose id begins so. The result has ``request``: its text."""

    point: str
    keyset: str = ""
    place: str = ""


class RecoverKeepRequest(_Request, frozen=True, kw_only=True):
    """Give the point whose id begins so, and whose key came by a recovery, a slot of a password that is kept here.

    The result has ``point`` (hex) and ``added``.
    """

    point: str
    password_name: str
    place: str = ""


class SearchRequest(_Request, frozen=True, kw_only=True):
    """Search the file-system indexes of points; findings come as `SearchHits`. The result is a `SearchReport`.

    Bounds are inclusive, None where there is none; sizes in bytes, times in ns since 1970. ``kinds``: letters of f d l
    p c b, empty: all. ``at``: PEER/REPOSITORY or a repository of this node, empty: everywhere. ``point``: latest, or
    the beginning of an id. ``limit`` 0: none.
    """

    glob: bytes
    job: str = ""
    at: str = ""
    point: str = ""
    from_ns: int | None = None
    to_ns: int | None = None
    size_at_least: int | None = None
    size_at_most: int | None = None
    after_ns: int | None = None
    before_ns: int | None = None
    kinds: str = ""
    each: bool = False
    latest: bool = False
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    zone: str = ""


class RetentionRequest(_Request, frozen=True, kw_only=True):
    """Remove the points of a job that the policy does not keep. The result is a `RetentionReport`.

    ``policy`` None: that of the job's configuration. ``source``: PEER/REPOSITORY, empty: where the job goes.
    ``repository``: a repository of this node instead, and the ``tenant`` whose job it is.
    """

    job: str
    policy: KeepPolicy | None = None
    dry_run: bool = False
    source: str = ""
    repository: str = ""
    tenant: str = ""


class TransformRequest(_Request, frozen=True, kw_only=True):
    """Fold the oldest points of a job into one; one of the three says how far. The result is a `TransformReport`."""

    job: str
    keep: Annotated[int, msgspec.Meta(ge=1)] | None = None
    before_ns: int | None = None
    until: str = ""
    dry_run: bool = False


class PointRequest(_Request, frozen=True, kw_only=True):
    """Do something to points of a job; each of ``points`` is the unique beginning of an id. As to the place: see above.

    The result has ``points``, a list of maps. ``reason``: of a pin. ``until_ns``: of a lock.
    """

    action: Literal["remove", "undelete", "pin", "unpin", "lock"]
    job: str
    points: list[str]
    reason: str = ""
    until_ns: int = 0
    force: bool = False
    source: str = ""
    repository: str = ""
    tenant: str = ""


class BrowsingRequest(_Unlocking, frozen=True, kw_only=True):
    """A request that looks into a point. ``source``: PEER/REPOSITORY, or a repository of this node (of ``tenant``)."""

    job: str
    point: str = "latest"
    source: str = ""
    tenant: str = ""


class ListRequest(BrowsingRequest, frozen=True, kw_only=True):
    """List the entries of a folder of a point (empty: of its roots), or, ``recursive``, all beneath; as `Listing`."""

    path: bytes = b""
    recursive: bool = False


class FindRequest(BrowsingRequest, frozen=True, kw_only=True):
    """Find entries of a point that match one of ``globs`` and every bound (as of a search); as `Listing`."""

    globs: list[bytes]
    size_at_least: int | None = None
    size_at_most: int | None = None
    after_ns: int | None = None
    before_ns: int | None = None
    kinds: str = ""


class DiffRequest(BrowsingRequest, frozen=True, kw_only=True):
    """Compare ``point`` with a newer one, ``other``; what differs comes as `Differences`. ``path``: only beneath it."""

    other: str
    path: bytes = b""


class CatRequest(BrowsingRequest, frozen=True, kw_only=True):
    """Read a file of a point; its bytes come as `FileContent`."""

    path: bytes


class ScrubRequest(_Request, frozen=True, kw_only=True):
    """Scrub a repository of this node. ``share``: of the packs, 0 < share <= 1; ``limit``: bytes a second, 0: none.

    ``heal``: set damaged packs aside; ``source``: the copy that lost chunks come from. The result is a `ScrubOutcome`.
    """

    repository: str
    share: float = 1.0
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    heal: bool = False
    source: str = ""
    anew: bool = False


class PruneRequest(_Request, frozen=True, kw_only=True):
    """Prune a repository of this node. ``grace``: seconds. The result is what ``prune --json`` says last."""

    repository: str
    grace: Annotated[float, msgspec.Meta(ge=0)] = 86400.0


class StatusRequest(_Request, frozen=True, kw_only=True):
    """Ask for what is going on: the result has ``daemon``, ``running`` (jobs), ``sessions``, ``peers``."""


class SteerRequest(_Request, frozen=True, kw_only=True):
    """Pause, resume or cancel the runs of a job. The result has ``operations``: what was under way."""

    job: str
    action: Literal["pause", "resume", "cancel"]


JobRequest = (
    BackupRequest
    | RestoreRequest
    | VerifyRequest
    | CopyRequest
    | PointsRequest
    | RewrapRequest
    | DrillRequest
    | ExplainRequest
    | SaltsRequest
    | ApplyKeysetsRequest
    | ApplyKmsRequest
    | RecoverRequest
    | RecoverKeepRequest
    | KeysetDrillRequest
    | SearchRequest
    | RetentionRequest
    | TransformRequest
    | PointRequest
    | ListRequest
    | FindRequest
    | DiffRequest
    | CatRequest
    | ScrubRequest
    | PruneRequest
    | StatusRequest
    | SteerRequest
)


def operation_of(request: JobRequest) -> str:
    """Return what a request does, as people call it: ``backup``, ``restore``, ``verify``."""
    return type(request).__name__.removesuffix("Request").lower()


def after_a_stop(request: JobRequest) -> str:
    """Return what to do when a request was stopped (Ctrl-C, SIGTERM); the home and the target are in order then."""
    if isinstance(request, RewrapRequest):
        return f"go on with it: transporter password change {request.password_name} --resume"
    if isinstance(request, BackupRequest | CopyRequest):
        return "run it again: what was sent already is used"
    return "run it again"


class JobOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended. ``result`` depends on the request; details of a failure were published as ``JobFailed``."""

    exit_status: int
    result: dict[str, Any] = {}


def request_to_bytes(request: JobRequest) -> bytes:
    """Encode a request for the control socket."""
    return msgspec.msgpack.encode(request, enc_hook=_seconds)


def _seconds(value: object) -> float:
    if isinstance(value, Duration):
        return float(value)
    raise NotImplementedError(type(value).__name__)


def _duration(kind: type[object], value: object) -> Duration:
    if kind is not Duration or not isinstance(value, float | int) or not 0 <= value < float("inf"):
        raise ValueError("not a span of time")
    return Duration(value)


def request_from_bytes(data: bytes) -> JobRequest:
    """Decode a request; raise ``ValueError`` for anything that is not one."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"not a request: {error}") from None


_decoder: msgspec.msgpack.Decoder[JobRequest] = msgspec.msgpack.Decoder(JobRequest, dec_hook=_duration)
