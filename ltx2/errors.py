"""Mistakes a user can make; the application prints them as one line and exits non-zero."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A wrong input: the message says what is wrong, its value, and what to do instead."""


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that was asked for and is not there."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name closest to `name`, else an empty string."""
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
