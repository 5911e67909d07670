"""Logging: structlog to stderr, as lines for people or as JSON; secrets never pass, whoever logs them.

``configure`` is called once by the command line. Everything else takes ``get_logger`` from here.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

# Where `rich` is installed (for the help of the command line) structlog loads it, for tracebacks that must never be
# shown here: they print local variables, and those hold keys. It would cost a daemon 4 MiB.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]

import structlog  # noqa: E402

if _rich is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _rich

get_logger = structlog.get_logger
LogFormat = Literal["json", "console"]

SECRET_WORDS = ("password", "passphrase", "secret", "private", "kek", "cryptogram", "token", "seed")
"""A field whose name holds one of these is hidden; so is one with the word ``key`` in it, except the public ones."""

PUBLIC_KEYS = frozenset({"key_id", "key_ids", "public_key", "password_name"})
HIDDEN = "(hidden)"


def hide_secrets(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace values that must not be logged: by the name of the field, at any depth; raw bytes only as a length.

    This is the last line of defence, not the rule: the rule is not to log them.
    """
    for name, value in fields.items():
        fields[name] = _safe(name, value)
    return fields


def _safe(name: str, value: object) -> object:
    if _is_secret(name):
        return HIDDEN
    if isinstance(value, dict):
        return {key: _safe(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(name, inner) for inner in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    return value


def _is_secret(name: str) -> bool:
    lower = name.lower()
    if lower in PUBLIC_KEYS:
        return False
    return not {"key", "keys"}.isdisjoint(lower.split("_")) or any(word in lower for word in SECRET_WORDS)


def configure(style: LogFormat | None = None, *, stream: TextIO | None = None, debug: bool = False) -> None:
    """Set up logging. ``style`` defaults to ``console`` on a terminal, else ``json``."""
    output = stream if stream is not None else sys.stderr
    if style is None:
        style = "console" if output.isatty() else "json"
    render: Any
    if style == "json":
        render = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        # Plain tracebacks: the pretty ones print local variables, and those hold keys.
        render = structlog.dev.ConsoleRenderer(
            colors=output.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if style == "json" else []),
            hide_secrets,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug" if debug else "info"),
        logger_factory=structlog.PrintLoggerFactory(file=output),
        cache_logger_on_first_use=False,
    )
