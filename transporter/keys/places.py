"""Where each cryptogram of the key database belongs: it opens in no other row, and under no other name."""

from __future__ import annotations

from transporter.keys.derive import bind
from transporter.keys.password import KdfParameters


def password_place(name: str, salt: bytes, price: KdfParameters) -> bytes:
    """Of a password's hash, under the master key."""
    return bind(b"password", name.encode(), salt, *_numbers(price))


def change_place(name: str, salt: bytes, price: KdfParameters) -> bytes:
    """Of the hash of an old password, while its slots are being replaced, under the master key."""
    return bind(b"old password", name.encode(), salt, *_numbers(price))


def storage_key_place(point_id: bytes) -> bytes:
    """Of a point's storage key, under a user key."""
    return bind(b"storage key", point_id)


def run_place(job: str, run_id: bytes) -> bytes:
    """Of the keys of a run, under a user key."""
    return bind(b"run", job.encode(), run_id)


def domain_place(job: str) -> bytes:
    """Of the chunk-id key of a job's domain, under a user key."""
    return bind(b"domain", job.encode())


def plain_domain_place(job: str) -> bytes:
    """Of the chunk-id key of a job that nobody seals, under the master key."""
    return bind(b"plain domain", job.encode())


def recovery_place(request: bytes) -> bytes:
    """Of the one-time private key of a recovery that was asked for, under the master key."""
    return bind(b"recovery", request)


def recovered_place(point_id: bytes) -> bytes:
    """Of a storage key that came by a recovery, under the master key."""
    return bind(b"recovered storage key", point_id)


def operator_place(name: str, identity: bytes, added_ns: int) -> bytes:
    """Of an operator's public key, under the master key: nobody else registers one."""
    return bind(b"operator", name.encode(), identity, added_ns.to_bytes(8, "big"))


def policy_place() -> bytes:
    """Of what needs two operators, under the master key."""
    return bind(b"four eyes policy")


def job_zone_place(job: str) -> bytes:
    """Of the zone that a job last ran in, under the master key."""
    return bind(b"job zone", job.encode())


def _numbers(price: KdfParameters) -> tuple[bytes, ...]:
    return tuple(number.to_bytes(4, "big") for number in (price.memory_kib, price.iterations, price.lanes))
