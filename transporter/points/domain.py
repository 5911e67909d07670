"""Dedup domains: within which jobs equal chunks have one id. Never across tenants.

Another tenant could learn what somebody stores by asking whether it is there.
"""

from __future__ import annotations

import hashlib

DOMAIN_LENGTH = 16


def domain_of(tenant: str, job: str) -> bytes:
    """Return the dedup domain of a job, 16 bytes: one for each tenant and job."""
    text = b"".join(len(part).to_bytes(4, "big") + part for part in (tenant.encode(), job.encode()))
    return hashlib.blake2b(text, digest_size=DOMAIN_LENGTH, person=b"transporter/dom1").digest()


def shared_domain_of(tenant: str) -> bytes:
    """Return the domain of all jobs of a tenant that ask for network acceleration."""
    return hashlib.blake2b(tenant.encode(), digest_size=DOMAIN_LENGTH, person=b"transporter/acc1").digest()


def domain_for(tenant: str, job: str, *, acceleration: bool) -> bytes:
    """Return the domain of a run of ``job``."""
    return shared_domain_of(tenant) if acceleration else domain_of(tenant, job)


def key_label(tenant: str, job: str, *, acceleration: bool) -> str:
    """Return what the provider's key database calls the domain. No name of a tenant begins with a slash."""
    return f"/accelerated/{tenant}" if acceleration else f"{tenant}/{job}"
