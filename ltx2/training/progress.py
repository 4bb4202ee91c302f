"""How far a long preparation is: a bar on a terminal, elsewhere a log line now and then."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

log = logging.getLogger(__name__)

# Seconds between log lines.
PAUSE = 20.0


class Progress:
    """Counts units of one kind of work with the time that is left."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._first, self._done = what, total, done, done
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = ("[progress.description]{task.description}", BarColumn())
            self._bar = Progress(
                *columns, MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def advance(self, units: int = 1, note: str = "") -> None:
        """Some more are done."""
        self._done += units
        now = time.monotonic()
        text = f"{note} {self._left(now)}".strip()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=text)
        elif now - self._told >= PAUSE:
            self._told = now
            log.info("%s: %d of %d %s", self._what, self._done, self._total, text)

    def end(self) -> None:
        """The work is over."""
        if self._bar is not None:
            self._bar.stop()

    def _left(self, now: float) -> str:
        done = self._done - self._first
        if done <= 0:
            return ""
        seconds = (now - self._began) / done * (self._total - self._done)
        return f"({clock(seconds)} left)"


def clock(seconds: float) -> str:
    """Such as 42 s, 12 min or 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
