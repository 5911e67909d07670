"""Trust zone → the order of stages at each end. No stage asks whether it should encrypt; it is there or it is not."""

from __future__ import annotations

from enum import StrEnum


class Zone(StrEnum):
    """Which end may see plaintext and hold backup keys."""

    SOURCE = "source"
    TARGET = "target"
    NONE = "none"


class Stage(StrEnum):
    """Names of the stages; the same names stand in the statistics."""

    READ = "read"
    CHUNK = "chunk"
    KNOWN = "known"
    COMPRESS = "compress"
    ENCRYPT = "encrypt"
    SEND = "send"
    RECEIVE = "receive"
    DECRYPT = "decrypt"
    DECOMPRESS = "decompress"
    WRITE = "write"


def backup_source(zone: Zone) -> tuple[Stage, ...]:
    """Stages at the end that reads the workload."""
    head = (Stage.READ, Stage.CHUNK, Stage.KNOWN, Stage.COMPRESS)
    return (*head, Stage.ENCRYPT, Stage.SEND) if zone is Zone.SOURCE else (*head, Stage.SEND)


def backup_target(zone: Zone, *, encrypt_at_rest: bool) -> tuple[Stage, ...]:
    """Stages at the end that owns the repository."""
    if zone is Zone.TARGET or (zone is Zone.NONE and encrypt_at_rest):
        return (Stage.RECEIVE, Stage.ENCRYPT, Stage.WRITE)
    return (Stage.RECEIVE, Stage.WRITE)


def recovery_target(zone: Zone, *, encrypt_at_rest: bool) -> tuple[Stage, ...]:
    """Stages at the repository's end of a recovery: the backup run backwards."""
    if zone is Zone.TARGET or (zone is Zone.NONE and encrypt_at_rest):
        return (Stage.READ, Stage.DECRYPT, Stage.SEND)
    return (Stage.READ, Stage.SEND)


def recovery_source(zone: Zone) -> tuple[Stage, ...]:
    """Stages at the end that writes the restored data."""
    tail = (Stage.DECOMPRESS, Stage.WRITE)
    return (Stage.RECEIVE, Stage.DECRYPT, *tail) if zone is Zone.SOURCE else (Stage.RECEIVE, *tail)
