"""What can go wrong with a repository, as far as `transporter.errors` has no name for it yet."""

from __future__ import annotations

from transporter.errors import DamagedData, JobBusy, JobFailed, PointsStay, RefusedByPeer, UsageError


class ChunkMissing(DamagedData):
    """The repository has no record of a chunk that is needed (under any key that is allowed)."""

    code = "chunk-missing"


class PackGone(ChunkMissing):
    """The file of a pack is not there: it is lost, or was compacted since its name was looked up."""


class DamagedIndex(DamagedData):
    """The index contradicts itself or its schema. It is a cache: it can be made anew."""


class PointExists(JobFailed):
    """A restore point, or a slot of it, is there already; committed objects are never overwritten."""

    code = "point-exists"


class PointMissing(UsageError):
    """No restore point of that id in that job."""

    code = "no-such-point"


class PointKept(PointsStay):
    """A restore point must stay: it is locked, pinned, or the provider's minimum retention keeps it."""


class ClockDoubtful(RefusedByPeer):
    """The clock is far from the last time that the repository has seen: nothing is deleted by it."""

    code = "clock-doubtful"


class RepositoryBusy(JobBusy):
    """Another process holds the repository for writing."""

    code = "repository-busy"


class RepositoryExists(UsageError):
    """A repository was to be created where something is already."""

    code = "repository-exists"


class RepositoryMissing(UsageError):
    """There is no repository at this path."""

    code = "no-repository"
