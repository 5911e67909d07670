"""The error tree of the transporter: what happened, what to do next, and how the process ends.

TransporterError
├── JobFailed            exit 1   the job failed; nothing half-visible is left
│   ├── JobBusy                   another run of the same job is under way
│   ├── NotRunning                there is no run to pause, resume or cancel
│   ├── DiskFull                  no room at one of the ends
│   ├── MissingChunks             the repository lost chunks that the point names; the job reads all again
│   └── LinkLost                  the link broke and could not be redialled in time
├── UsageError           exit 2   the command line cannot be carried out as typed
├── ConfigError          exit 3   the configuration is wrong (file, line and column are named)
├── CannotConnect        exit 4   the peer cannot be reached
│   ├── KmsUnreachable            a key management service does not answer, or not in time
│   └── KmsBadAnswer              it answers, but not as such a service does
├── RefusedByPeer        exit 5   identity, rights, quota or immutability
│   ├── IdentityRefused           wrong pin, unknown peer, bad invitation
│   ├── NeedsApproval             two operators must have signed for it, and have not
│   ├── PointsStay                they are locked, pinned, or the provider keeps them
│   ├── QuotaExceeded
│   ├── KmsRefused                the key management service refuses the credentials, or it is another account
│   └── TamperingDetected         a link or a message was altered: a security event, never retried
├── NoKey                exit 6   no way of opening what is sealed
│   ├── WrongPassword
│   ├── UnknownPassword           no password of that name in the key database
│   ├── KmsWrongKey               the key is not there, or not the one that wrapped what is to be opened
│   └── KmsKeyDisabled            the key is there and switched off, or about to be deleted
├── DamagedData          exit 7   stored bytes are not what was stored
│   ├── CorruptedPoint            a restore point that cannot be opened any more (e.g. its salt is missing)
│   └── UnsupportedFormat         a repository or a home of a future version
├── FinishedWithGaps     exit 8   finished, but some files could not be read
└── Interrupted          exit 130 stopped by the operator; the next run goes on
"""

from __future__ import annotations

from typing import ClassVar


class TransporterError(Exception):
    """Base of every error a user can meet.

    ``what`` says what happened, ``remedy`` what to do next: one sentence each, never a secret in them.
    ``code`` is stable across versions and has a line in docs/errors.md.
    """

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} ({self.remedy})" if self.remedy else self.what


class JobFailed(TransporterError):
    """The job failed; what it had stored is used by the next run."""

    code = "job-failed"
    exit_status = 1


class JobBusy(JobFailed):
    """Another run of this job holds its lock."""

    code = "job-busy"


class NotRunning(JobFailed):
    """There is no run of the job to pause, resume or cancel."""

    code = "not-running"


class DiskFull(JobFailed):
    """No room left at one of the ends."""

    code = "disk-full"


class MissingChunks(JobFailed):
    """The point names chunks that the repository does not hold (any more)."""

    code = "missing-chunks"


class LinkLost(JobFailed):
    """The link broke and did not come back before the deadline."""

    code = "link-lost"


class UsageError(TransporterError):
    """The command cannot be carried out as typed."""

    code = "usage"
    exit_status = 2


class ConfigError(TransporterError):
    """The configuration is wrong."""

    code = "config"
    exit_status = 3


class CannotConnect(TransporterError):
    """The peer cannot be reached."""

    code = "cannot-connect"
    exit_status = 4


class PeerAway(CannotConnect):
    """The peer dials, and is not dialled, and at the moment it has no connection open where it should."""

    code = "peer-away"


class KmsUnreachable(CannotConnect):
    """A key management service does not answer, or not in time; nothing was changed."""

    code = "kms-unreachable"


class KmsBadAnswer(CannotConnect):
    """What answers at the service's address does not answer as one: garbled, too long, or no such thing."""

    code = "kms-bad-answer"


class RefusedByPeer(TransporterError):
    """The peer (or our pin of it) refuses."""

    code = "refused"
    exit_status = 5


class IdentityRefused(RefusedByPeer):
    """A pin does not match, a peer is unknown, or an invitation is not valid."""

    code = "identity-refused"


class DuplicateIdentity(IdentityRefused):
    """Two daemons claim one identity, and both live: one of them is a copy, or the key was stolen."""

    code = "duplicate-identity"


class NeedsApproval(RefusedByPeer):
    """This home does it with the approval of two operators alone."""

    code = "needs-approval"


class PointsStay(RefusedByPeer):
    """Restore points must stay: locked, pinned, or kept by the provider's minimum retention."""

    code = "point-kept"


class QuotaExceeded(RefusedByPeer):
    """The tenant's quota does not allow it."""

    code = "quota-exceeded"


class KmsRefused(RefusedByPeer):
    """A key management service refuses the credentials, or they are of another account than was configured."""

    code = "kms-refused"


class TamperingDetected(RefusedByPeer):
    """Bytes of the link were altered, replayed, cut or spliced."""

    code = "tampering"
    # Whoever meddles with one connection may break another in the same moment (pipeline/run.py).
    OUTRANKS = True


class NoKey(TransporterError):
    """Nothing at hand opens what is sealed."""

    code = "no-key"
    exit_status = 6


class WrongPassword(NoKey):
    """The password is not the one; the data itself is sound."""

    code = "wrong-password"


class UnknownPassword(NoKey):
    """The key database has no password of that name."""

    code = "unknown-password"

    @classmethod
    def of(cls, name: str) -> UnknownPassword:
        """Return the error about ``name``."""
        return cls(f"no password is kept as {name!r}", "see `password list`, or add it")


class KmsWrongKey(NoKey):
    """The key of a key management service is not there, or is not the one that wrapped this."""

    code = "kms-wrong-key"


class KmsKeyDisabled(NoKey):
    """The key of a key management service is switched off, or waits for its deletion."""

    code = "kms-key-disabled"


KMS_ERRORS = (KmsUnreachable, KmsBadAnswer, KmsRefused, KmsWrongKey, KmsKeyDisabled)
"""What a key management service may fail with."""


class DamagedData(TransporterError):
    """Stored bytes are not what was stored."""

    code = "damaged"
    exit_status = 7


class CorruptedPoint(DamagedData):
    """A restore point that cannot be opened any more, whatever the password."""

    code = "corrupted-point"


class UnsupportedFormat(DamagedData):
    """Made by a newer version, or with a feature this one does not know."""

    code = "unsupported-format"


class FinishedWithGaps(TransporterError):
    """Finished, but some files could not be read; they are listed and the point is marked."""

    code = "finished-with-gaps"
    exit_status = 8


class Interrupted(TransporterError):
    """Stopped by the operator; the next run goes on where this one stopped."""

    code = "interrupted"
    exit_status = 130


class ReaderGone(KeyboardInterrupt):
    """Whoever read standard output has gone (`| head`): the command ends as by Ctrl-C, but there is nothing to tell."""


def error_of(code: str, what: str, remedy: str) -> TransporterError:
    """Return the error that has this ``code``; ``TransporterError`` itself where there is none."""
    # Where a package has a kind of its own under the same code, the one of this tree is meant: it comes first.
    known = {kind.code: kind for kind in reversed(all_errors())}
    return known.get(code, TransporterError)(what, remedy)


def all_errors(base: type[TransporterError] = TransporterError) -> list[type[TransporterError]]:
    """Return every class of the tree."""
    return [base, *(deep for kind in base.__subclasses__() for deep in all_errors(kind))]
