"""What a tenant's source is told of chunks that a repository lost."""

from __future__ import annotations

from itertools import islice

from protocol.limits import MAX_LOST
from protocol.lost_messages import LostClaim
from transporter.repository import Repository

_SEALED_FORM = 1
_KEY_ID, _COUNTER = slice(1, 33), slice(33, 41)


def lost_claims(store: Repository, tenant: str, domain: bytes) -> list[LostClaim]:
    """Return what can be said of the sealed chunks that this tenant lost in a domain, at most `MAX_LOST` of them.

    The ends of a stored chunk may be damaged as the rest is: whoever has the key finds out.
    """
    found = (
        LostClaim(
            chunk.chunk_id,
            chunk.key_id,
            chunk.codec,
            chunk.plain_length,
            int.from_bytes(chunk.head[_COUNTER], "big"),
            chunk.tail,
        )
        for owner, chunk in store.lost_chunks(domain)
        if owner == tenant and chunk.head[0] == _SEALED_FORM and chunk.head[_KEY_ID] == chunk.key_id
    )
    return list(islice(found, MAX_LOST))
