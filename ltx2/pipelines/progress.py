"""Progress of a run over all its phases, with an estimate of the time left.

The runner reports phases and their units (transformer calls, frames); the app draws them.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What the runner reports to."""

    def begin(self, phase: str, units: int) -> None:
        """A phase starts; `units` of work are expected in it."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Some units of the current phase are done; `note` is shown beside the bar."""

    def aside(self, seconds: float) -> None:
        """So much time of the current phase went into no unit, such as into a preview."""

    def end(self) -> None:
        """The current phase is done."""


class Quiet:
    """Reports nowhere."""

    def begin(self, phase: str, units: int) -> None: ...
    def advance(self, units: int = 1, note: str = "") -> None: ...
    def aside(self, seconds: float) -> None: ...
    def end(self) -> None: ...
