"""Opening a point in a job: by what is at hand, in the one order (docs/security.md); a person hears what it hung by.

Restore, verify and search open here, so that what one of them opens the others open too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transporter.errors import DamagedData, TransporterError
from transporter.jobs.context import JobContext
from transporter.keys.password import PasswordHash, hash_password
from transporter.keys.slot import SlotInfo
from transporter.keys.wrap import WrongKey
from transporter.points.assemble import OpenedPoint, Place
from transporter.points.ways import KeysAtHand
from transporter.repository.point_head import PointHead


def typed_password(context: JobContext, password: bytes) -> Callable[[SlotInfo], PasswordHash | None] | None:
    """Return how to stretch a password that a person just typed, once for each salt; None without one."""
    if not password:
        return None

    def stretch(info: SlotInfo) -> PasswordHash:
        how = (password, info.salt, info.params)
        if how not in context.stretched:
            context.stretched[how] = hash_password(*how)
        return context.stretched[how]

    return stretch


def open_by(
    context: JobContext,
    at_hand: KeysAtHand,
    head: bytes,
    slots: Sequence[bytes],
    place_of: Callable[[PointHead], Place],
    password: bytes = b"",
) -> OpenedPoint:
    """Open a point; a person hears of it where only a key that this home kept did it. Raises as `KeysAtHand.open`."""
    opened = at_hand.open(head, slots, place_of, typed_password(context, password))
    if opened.kept_because is not None:
        context.say(_said(opened.head.point_id.hex()[:8], opened.kept_because))
    return opened


def is_robbed(opened: OpenedPoint) -> bool:
    """Tell whether the slots of a point are at fault, and not what this home knows: no password would open it."""
    return isinstance(opened.kept_because, DamagedData | WrongKey)


def _said(point: str, because: TransporterError) -> str:
    if isinstance(because, DamagedData | WrongKey):
        return (
            f"no slot of restore point {point} opens it ({because.what}); the key that this node kept does. "
            "Without this node it would be lost: run scrub there"
        )
    return (
        f"restore point {point} opens by the key that this node kept of it, and by nothing else here ({because.what}): "
        "`transporter recover keep` gives it a slot of a password"
    )
