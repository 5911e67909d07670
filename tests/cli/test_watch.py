from __future__ import annotations

import io
import sys

import pytest

from transporter import events
from transporter.cli.asking import read_password
from transporter.cli.terminal import Terminal
from transporter.cli.watch import LINE_INTERVAL, ProgressLines, measure, watching
from transporter.errors import UsageError

PROGRESS = [
    events.Progress(job="j", bytes_read=5 * 10**8, bytes_total=10**9, files=7),
    events.RestoreProgress(job="j", bytes_written=5 * 10**8, bytes_total=10**9, files=7),
    events.VerifyProgress(job="j", bytes_verified=5 * 10**8, bytes_total=10**9),
    events.ScrubProgress(repository="r", bytes_checked=5 * 10**8, bytes_total=10**9),
]


@pytest.mark.parametrize("event", PROGRESS, ids=lambda event: type(event).__name__)
def test_every_kind_of_progress_is_measured(event):
    assert isinstance(event, events.PROGRESS_EVENTS)
    assert measure(event)[:2] == (5 * 10**8, 10**9)


def test_lines_come_now_and_then(capsys):
    moments = iter([0.0, 1.0, LINE_INTERVAL - 1, LINE_INTERVAL, LINE_INTERVAL + 1])
    show = ProgressLines(Terminal(), clock=lambda: next(moments))
    for _ in range(4):
        show(PROGRESS[0])
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "500 MB of 1.00 GB, 50.0 MB/s, 7 files, 0 B sent\n"


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with watching(Terminal()) as bus:
        bus.publish(events.JobStarted(job="docs", operation="backup"))
        for event in PROGRESS:
            bus.publish(event)
        bus.publish(events.LinkLost(peer="offsite", reason="reset"))
        bus.publish(events.JobFinished(job="docs", operation="backup", point="ab"))
    assert "0.5/1.0 GB" in screen.getvalue()
    assert "link lost" in screen.getvalue()
    assert "is committed" in sys.stdout.getvalue()


def test_a_screen_that_cannot_show_a_sign_shows_an_escape(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Terminal().result("Büro")
    assert raw.getvalue() == b"B\\xfcro\n"


def test_without_a_terminal_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    with pytest.raises(UsageError, match="no terminal"):
        read_password(file=None, env="", ask="password", twice=True)


def test_two_passwords_must_agree(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Screen())
    answers = iter(["one", "two", "same", "same", ""])
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    with pytest.raises(UsageError, match="differ"):
        read_password(file=None, env="", ask="password", twice=True)
    assert read_password(file=None, env="", ask="password", twice=True) == b"same"
    with pytest.raises(UsageError, match="empty"):
        read_password(file=None, env="", ask="password", twice=False)
