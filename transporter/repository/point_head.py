"""The head of a restore point: what it is, its keys (wrapped) and where its manifest begins. Pure data.

A msgpack map of the fields of `PointHead`, in their order, every integer in its shortest form, no field left out or
added: the only form that `decode_head` accepts. So the bytes that `encode_head` makes of a decoded head are the bytes
that arrived, and the MAC (over the head with an empty ``mac``) authenticates what was received. A new field needs a new
``version``.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from transporter.errors import DamagedData, UnsupportedFormat
from transporter.repository import limits

HEAD_VERSION: Final = 1
FSI_VERSION: Final = 2
"""The version of a head that names a file-system index; one without it stays as version 1 wrote it."""

_Id16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Id32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
_MaybeId16 = Annotated[bytes, Meta(max_length=16)]
_MaybeId32 = Annotated[bytes, Meta(max_length=32)]
# Whoever sealed a point wrote its head, and everybody who lists it shows this: no control characters, and
# no number that a row of a list has no room for.
_SHOWN: Final = r"^[^\x00-\x1f\x7f-\x9f]*\Z"
_Word = Annotated[str, Meta(max_length=32, pattern=_SHOWN)]
_Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH, pattern=_SHOWN)]
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_ManifestChunk = tuple[_Id32, Annotated[int, Meta(ge=0, le=limits.PLAIN_LENGTH)]]


class PointHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The head of a restore point.

    ``kind``: full, incremental …; ``created_ns``: ns since 1970, by the clock of the end that read the workload
    (nothing is decided by it but the date of a point that came while the repository's clock was far ahead); ``parent``
    and ``parent_hash``: the job's previous point and the hash of its object, empty for the first; ``zone``: source,
    target or none; ``domain``: of the chunk ids; ``cryptograms``: the key ring under the storage key; ``manifest``:
    (chunk id, plain length) in order; ``fsi``: likewise, the blocks of the file-system index, there in version 2 and
    only there; ``needs_hash``: BLAKE3 of the needs table; ``workload``: tree, image or stream; ``chunk_id_key``: in
    plain points alone, which have nothing to hide; ``mac``: under the metakey, empty in plain points.
    """

    version: int = HEAD_VERSION
    point_id: _Id16
    tenant: _Name
    job: _Name
    kind: _Word
    created_ns: _Number
    parent: _MaybeId16 = b""
    parent_hash: _MaybeId32 = b""
    zone: _Word
    encrypted: bool
    domain: _Id16
    cryptograms: list[bytes] = []
    manifest: list[_ManifestChunk]
    fsi: list[_ManifestChunk] | msgspec.UnsetType = msgspec.UNSET
    needs_hash: _Id32
    statistics: Annotated[dict[Annotated[str, Meta(max_length=64)], _Number], Meta(max_length=256)] = {}
    workload: _Word
    chunk_id_key: _MaybeId32 = b""
    mac: _MaybeId32 = b""

    def __repr__(self) -> str:
        """Name the point; keys and cryptograms stay out of logs."""
        return (
            f"PointHead(point_id={self.point_id.hex()}, tenant={self.tenant!r}, job={self.job!r}, kind={self.kind!r})"
        )


class _Version(msgspec.Struct):
    """What any version of a head says first."""

    version: int


def encode_head(head: PointHead) -> bytes:
    """Return the one form of a head in bytes; DamagedData if it is too long to be stored."""
    raw = msgspec.msgpack.encode(head)
    if len(raw) > limits.HEAD_LENGTH:
        raise DamagedData(
            f"the head of the restore point has {len(raw)} bytes; {limits.HEAD_LENGTH} are allowed",
            "split the job in two",
        )
    return raw


def decode_head(raw: bytes | memoryview) -> PointHead:
    """Return the head in ``raw``.

    UnsupportedFormat for a later version, DamagedData for anything but a head in its one form.
    """
    if len(raw) > limits.HEAD_LENGTH:
        raise _damaged()
    try:
        version = msgspec.msgpack.decode(raw, type=_Version).version
        if version not in (HEAD_VERSION, FSI_VERSION):
            raise UnsupportedFormat(f"the restore point has version {version}", "use a newer version of transporter")
        head = msgspec.msgpack.decode(raw, type=PointHead)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: text that is not UTF-8
        raise _damaged() from None
    if (head.version == FSI_VERSION) != (head.fsi is not msgspec.UNSET) or encode_head(head) != raw:
        raise _damaged()
    return head


def _damaged() -> DamagedData:
    return DamagedData(
        "the head of a restore point is damaged", "use another restore point; run `scrub` on the repository"
    )
