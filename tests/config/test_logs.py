from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
import structlog

from transporter import logs


@pytest.fixture(autouse=True)
def _as_before():
    yield
    structlog.reset_defaults()


SECRET = "hunter2-and-more"
FIELDS = [
    {"password": SECRET},
    {"storage_key": SECRET},
    {"key_a": SECRET},
    {"keys": [SECRET]},
    {"kek": SECRET},
    {"invitation_secret": SECRET},
    {"request": {"password": SECRET}},
    {"list": [{"passphrase": SECRET}]},
    {"raw": SECRET.encode()},
    {"more": [SECRET.encode(), bytearray(SECRET.encode())]},
]


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: next(iter(fields)))
def test_no_secret_passes(style, fields):
    out = io.StringIO()
    logs.configure(style, stream=out)
    structlog.get_logger().warning("event", **fields)
    assert "event" in out.getvalue()
    assert SECRET not in out.getvalue()


def test_what_is_public_passes():
    out = io.StringIO()
    logs.configure("json", stream=out)
    structlog.get_logger().info("linked", peer="offsite", key_id="ab12", monkey=3)
    line = json.loads(out.getvalue())
    assert (line["event"], line["peer"], line["key_id"], line["monkey"]) == ("linked", "offsite", "ab12", 3)
    assert line["level"] == "info"


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_shows_no_local_variables(style):
    out = io.StringIO()
    logs.configure(style, stream=out)
    local = "".join(reversed(SECRET))
    try:
        raise ValueError("no")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError" in out.getvalue()
    assert local not in out.getvalue()


def test_a_file_gets_json_and_a_terminal_lines():
    class Screen(io.StringIO):
        def isatty(self):
            return True

    for stream, is_json in ((io.StringIO(), True), (Screen(), False)):
        logs.configure(stream=stream)
        structlog.get_logger().info("hello")
        structlog.get_logger().debug("silent")
        assert stream.getvalue().startswith("{") is is_json
        assert "silent" not in stream.getvalue()


def test_a_daemon_loads_nothing_that_draws_tracebacks():
    """Those show local variables, and cost 4 MiB. `rich` is installed: typer needs it."""
    code = "import rich, sys; del sys.modules['rich']; import transporter.daemon.serve; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
