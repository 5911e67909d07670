"""What the command line asks of a daemon, or of itself: one job, in plain data that crosses the control socket."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec


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

    ``include``: globs over paths; empty means everything. ``source`` (``PEER/REPOSITORY``) names where to look when
    the job is not in this home's configuration.
    """

    job: str
    point: str
    output: str
    include: list[str] = []
    overwrite: bool = False
    source: str = ""


class VerifyRequest(_Unlocking, frozen=True, kw_only=True):
    """Open everything of a point, as a restore would; ``sample`` is the share of its chunks, 0 < sample <= 1."""

    job: str
    point: str = "latest"
    sample: float = 1.0
    source: str = ""


class PointsRequest(_Request, frozen=True, kw_only=True):
    """List restore points; ``job`` empty means all jobs. The result has ``points``: a list of maps, oldest first."""

    job: str = ""
    source: str = ""


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
    | PointsRequest
    | RewrapRequest
    | DrillRequest
    | ExplainRequest
    | SaltsRequest
    | StatusRequest
    | SteerRequest
)


def operation_of(request: JobRequest) -> str:
    """Return what a request does, as people call it: ``backup``, ``restore``, ``verify``."""
    return type(request).__name__.removesuffix("Request").lower()


class JobOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended. ``result`` depends on the request; details of a failure were published as ``JobFailed``."""

    exit_status: int
    result: dict[str, Any] = {}


def request_to_bytes(request: JobRequest) -> bytes:
    """Encode a request for the control socket."""
    return msgspec.msgpack.encode(request)


def request_from_bytes(data: bytes) -> JobRequest:
    """Decode a request; raise ``ValueError`` for anything that is not one."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"not a request: {error}") from None


_decoder: msgspec.msgpack.Decoder[JobRequest] = msgspec.msgpack.Decoder(JobRequest)
