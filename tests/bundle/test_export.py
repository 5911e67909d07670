"""What an export refuses: it never replaces a file, leaves no half one, and none that no import would take."""

from __future__ import annotations

import os

import pytest
from bundle_world import imported, nothing_left

from transporter.bundle import export, snapshot
from transporter.bundle.manifest import LIMITS
from transporter.bundle.stream import HEADER_LENGTH
from transporter.errors import (
    ConfigError,
    DamagedData,
    DiskFull,
    JobFailed,
    UsageError,
)


def test_a_bundle_never_replaces_a_file(node, tmp_path):
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(UsageError, match="already"):
        node.export(tmp_path / "b")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match="already"):
        node.export(tmp_path / "link")
    assert (tmp_path / "b").read_bytes() == b"mine"


def test_a_file_that_appears_meanwhile_is_not_replaced(node, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_read_back", lambda *_: (tmp_path / "b").write_bytes(b"mine"))
    with pytest.raises(UsageError, match="already"):
        node.export(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"mine"
    assert nothing_left(tmp_path, "b", "site")


def test_a_file_system_without_second_names(node, tmp_path, elsewhere, monkeypatch):
    def refuse(*_args, **_how):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    node.export(tmp_path / "b")
    monkeypatch.undo()
    assert nothing_left(tmp_path, "b", "site", "elsewhere")
    imported(tmp_path / "b", elsewhere / "A")


@pytest.mark.parametrize("error", [OSError(28, "No space left"), OSError(5, "Input/output error")])
def test_a_disk_that_fails_leaves_no_file(node, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(export, "_read_back", fail)
    with pytest.raises(DiskFull if error.errno == 28 else JobFailed):
        node.export(tmp_path / "b")
    assert nothing_left(tmp_path, "site")


def test_what_was_written_is_read_back_before_it_gets_its_name(node, tmp_path, monkeypatch):
    really = export._read_back

    def rot(file, password):
        file.flush()
        file.seek(HEADER_LENGTH + 5)
        file.write(b"\0\0\0\0")
        really(file, password)

    monkeypatch.setattr(export, "_read_back", rot)
    with pytest.raises(DamagedData):
        node.export(tmp_path / "b")
    assert nothing_left(tmp_path, "site")


def test_a_home_whose_bundle_nobody_could_import_is_told_now(node, tmp_path):
    log = node.home.path / "audit.log"
    text = log.read_bytes()
    with node.keys() as keys:
        keys.record("one.more")
    log.write_bytes(text.replace(b"office", b"0ffice", 1) + log.read_bytes()[len(text) :])
    with pytest.raises(DamagedData, match="audit trail"):
        node.export(tmp_path / "b")
    assert nothing_left(tmp_path, "site")


def test_a_configuration_that_is_not_sound_is_not_exported(node, tmp_path):
    with node.home.config_path.open("a") as file:
        file.write("\n[nonsense]\n")
    with pytest.raises(ConfigError):
        node.export(tmp_path / "b")
    assert nothing_left(tmp_path, "site")


def test_what_is_too_large_is_said(node, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot.names, "MAX_DATABASE", 4096)
    with pytest.raises(JobFailed, match="larger"):
        node.export(tmp_path / "b")
    monkeypatch.undo()
    monkeypatch.setitem(LIMITS, "audit.log", 10)
    with pytest.raises(JobFailed, match="larger"):
        node.export(tmp_path / "b")
    assert nothing_left(tmp_path, "site")


def test_an_export_is_entered_before_anything_is_read(node, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "take_snapshot", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(BaseException, match="read"):
        node.export(tmp_path / "b")
    with node.keys() as keys:
        *_, last = keys.audit.entries()
    assert last["event"] == "config.export"
    assert len(last["bundle"]) == 64
