"""What may need the approval of two operators: the operations by name, and the kinds that a home asks it for.

An approval is bound to one operation and its subject, word for word; the kind follows from the operation, and stands
nowhere else: two places could contradict each other. An operation of two kinds needs one approval where either is on.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from transporter.errors import UsageError

KINDS: Final = {
    "password": "add, change, rotate, remove or recover a password, or lock one, or all of them, another way",
    "keyset": "create, import, rotate, retire or remove a keyset, or give out its private half",
    "encryption": "let a job run in a weaker zone than it ran in before",
    "force": "every --force and --give-up that loses something",
    "recovery": "answer a request for recovery, or let a node make them (escrow)",
}
"""What `four-eyes require` takes. Operators and the policy itself are always asked for, once anything is."""

OPERATORS: Final = "operators"

OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    "password.add": ("password",),  # NAME
    "password.change": ("password",),  # NAME; `rotate` is one, too: nobody sees from outside which it was
    "password.remove": ("password",),  # NAME
    "password.remove-in-use": ("password", "force"),  # NAME
    "password.recover": ("password",),  # NAME
    "password.kms": ("password",),  # NAME SERVICE, or NAME none
    "password.give-up": ("force",),  # NAME
    "master-key.set": ("password",),  # WHERE
    "keyset.create": ("keyset",),  # NAME
    "keyset.import": ("keyset",),  # FINGERPRINT
    "keyset.rotate": ("keyset",),  # NAME of the newest one in use, or none
    "keyset.retire": ("keyset",),  # NAME
    "keyset.remove": ("keyset",),  # NAME
    "keyset.remove-private": ("keyset", "force"),  # NAME
    "keyset.export-private": ("keyset",),  # NAME
    "config.export-keysets": ("keyset",),  # NAME of the node: all private halves that it has, in a bundle
    "peer.replace-force": ("force",),  # OLD NEW
    "point.remove-force": ("force",),  # POINT
    "repository.accept-clock": ("force",),  # NAME
    "job.weaken": ("encryption",),  # JOB ZONE
    "recovery.answer": ("recovery",),  # hash of the request, point, tenant
    "escrow.register": ("recovery",),  # NAME, digits of its fingerprint, the nodes that it stands for
    "operator.add": (OPERATORS,),  # NAME FINGERPRINT
    "operator.remove": (OPERATORS,),  # NAME FINGERPRINT
    "four-eyes.require": (OPERATORS,),  # KIND…
    "four-eyes.stop": (OPERATORS,),  # KIND…
}

MAX_WORDS: Final = 8
"""Words of a subject: `four-eyes require` may name every kind."""

MAX_WORD: Final = 255
"""Characters of a word: the longest is a tenant's name."""


@dataclass(frozen=True, slots=True)
class Deed:
    """One operation on one subject."""

    operation: str
    subject: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that it is of."""
        return OPERATIONS[self.operation]

    def __str__(self) -> str:
        return f"{self.operation} {shlex.join(self.subject)}"


def deed(operation: str, *subject: str) -> Deed:
    """Return what an operator typed, checked. Raises UsageError."""
    if operation not in OPERATIONS:
        raise UsageError(f"{operation!r} is no operation that is approved", f"they are: {', '.join(OPERATIONS)}")
    if not sound_subject(subject):
        raise UsageError(
            f"the subject of an approval has 1 to {MAX_WORDS} words of at most {MAX_WORD} characters that can be shown",
            "give it as the command that was refused says",
        )
    return Deed(operation, subject)


def sound_subject(subject: tuple[str, ...] | list[str]) -> bool:
    """Tell whether a subject can be shown to whoever decides, on a terminal, and read without doubt."""
    return 1 <= len(subject) <= MAX_WORDS and all(1 <= len(word) <= MAX_WORD and word.isprintable() for word in subject)


def deed_of_policy(operation: str, kinds: list[str] | tuple[str, ...]) -> Deed:
    """Return the deed of `four-eyes require | stop`: the kinds in one order. Raises UsageError for an unknown one."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UsageError(
            f"{unknown[0]!r} is no kind of operation" if unknown else "no kind of operation is named",
            f"they are: {', '.join(KINDS)}",
        )
    return deed(operation, *sorted(set(kinds)))
