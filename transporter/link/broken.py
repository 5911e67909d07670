"""A link that broke: not an error a user meets, but a reason to dial again."""

from __future__ import annotations


class LinkBroken(Exception):
    """The connection ended or went silent; the session is over, the job is not."""


class NoAnswer(LinkBroken):
    """The connection stands, but the peer does not do its part: dialling again may help, but not for ever."""
