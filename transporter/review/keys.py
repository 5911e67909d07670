"""Of keys: is there a second way, are they fresh, and is their trail whole?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipeline.trust_zone import Zone
from transporter.keys.password import DEFAULT_PARAMETERS
from transporter.review.finding import Finding, Severity
from transporter.review.installation import Installation

KEYSET_DAYS: Final = 400
"""A year, and a month to get round to it."""

PASSWORD_DAYS: Final = 3 * 365
"""People who knew it have left by then."""

PIN_DAYS: Final = 3 * 365
"""As long: a key that lay on a machine for so long has been in its backups."""


def review_keys(home: Installation) -> Iterator[Finding]:
    """Yield what is found."""
    yield from _second_way(home)
    yield from _passwords(home)
    yield from _keysets(home)
    yield from _peers(home)
    if home.trail_problem:
        yield Finding(
            "audit-trail-broken",
            Severity.SERIOUS,
            "audit trail",
            home.trail_problem,
            "find out who did it, then: transporter audit begin-anew",
        )


def _used(home: Installation) -> set[str]:
    """Return the passwords that something here is sealed with."""
    jobs = {job.password for job in home.config.jobs.values() if Zone(job.encrypt) is Zone.SOURCE}
    copies = {copy.password for copy in home.config.copies.values() if copy.sealed_here}
    at_rest = {repository.encrypt_at_rest for repository in home.config.repositories.values()}
    return (jobs | copies | at_rest | set(home.sealing)) - {""}


def _second_way(home: Installation) -> Iterator[Finding]:
    if any(keyset.active for keyset in home.keysets):
        return
    by_service = {password.name for password in home.passwords if password.kms}
    for name in sorted(_used(home) - by_service):
        yield Finding(
            "no-second-way",
            Severity.SERIOUS,
            f"password {name}",
            "when it is forgotten and this machine is lost, everything sealed with it is lost",
            "set up an escrow (handbook, 'A second key'), or hang the written password in a safe",
        )


def _passwords(home: Installation) -> Iterator[Finding]:
    for password in home.passwords:
        subject = f"password {password.name}"
        age = home.days_since(max(password.created_ns, password.changed_ns))
        if age >= PASSWORD_DAYS:
            yield Finding(
                "password-old",
                Severity.NOTE,
                subject,
                f"it is {age // 365} years old",
                f"transporter password change {password.name}",
            )
        price = password.params
        if price.memory_kib * price.iterations < DEFAULT_PARAMETERS.memory_kib * DEFAULT_PARAMETERS.iterations:
            yield Finding(
                "password-cheap",
                Severity.WARNING,
                subject,
                "guessing it costs less than it should",
                f"transporter password rotate {password.name}",
            )
    for name in home.unfinished:
        yield Finding(
            "password-change-unfinished",
            Severity.SERIOUS,
            f"password {name}",
            "the old password still opens restore points",
            f"transporter password change {name} --resume",
        )


def _keysets(home: Installation) -> Iterator[Finding]:
    for keyset in home.keysets:
        age = home.days_since(keyset.public.created_ns)
        if keyset.active and age >= KEYSET_DAYS:
            yield Finding(
                "keyset-old",
                Severity.WARNING,
                f"keyset {keyset.public.name}",
                f"it is {age} days old, and every new restore point is wrapped for it",
                "make a new one at the escrow, import it here, retire this one",
            )
        if keyset.active and (older := home.not_applied.get(keyset.public.name)):
            yield Finding(
                "keyset-not-applied",
                Severity.WARNING,
                f"keyset {keyset.public.name}",
                f"{older} restore points are older than it, and it may not open them",
                "transporter keyset apply",
            )


def _peers(home: Installation) -> Iterator[Finding]:
    for peer in home.peers:
        if peer.added_ns and home.days_since(peer.added_ns) >= PIN_DAYS:
            yield Finding(
                "pin-old",
                Severity.NOTE,
                f"peer {peer.name}",
                f"its key has been pinned for {home.days_since(peer.added_ns) // 365} years",
                "make that node anew with a new key, then `peer replace`",
            )
