"""The terminal's view of a run: one bar over all phases with steps, seconds per step and ETA."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, Self

from ltx2.pipelines.cost import PhaseCost

log = logging.getLogger(__name__)


class RunBar:
    """Follows the phases of one run. On a terminal a bar, elsewhere a log line per phase."""

    def __init__(self, costs: list[PhaseCost]) -> None:
        self._costs = {cost.phase: cost for cost in costs}
        self._order = [cost.phase for cost in costs]
        self._total = sum(cost.total for cost in costs) or 1.0
        self._done = 0.0
        self._phase: PhaseCost | None = None
        self._units = 0
        self._began = self._started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if sys.stderr.isatty():
            self._bar = _terminal_bar()
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0, count="", pace="", left="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, phase: str, units: int) -> None:
        """A phase starts; `units` of work are expected in it."""
        self._phase = self._costs.get(phase, PhaseCost(phase, units, 0.0))
        self._units, self._began = 0, time.monotonic()
        self._show("")
        if self._bar is None:
            left = self.seconds_left()
            log.info("%s%s", phase, "" if left is None else f" (about {_clock(left)} left)")

    def advance(self, units: int = 1, note: str = "") -> None:
        """Some units of the current phase are done."""
        if self._phase is not None:
            self._units = min(self._units + units, self._phase.units)
            self._show(note)

    def aside(self, seconds: float) -> None:
        """Seconds per unit leave out what no unit took."""
        self._began += seconds

    def end(self) -> None:
        """The current phase is done, whatever its units said."""
        if self._phase is not None:
            self._done += self._phase.total
            self._phase = None
            self._show("")

    def seconds_left(self) -> float | None:
        """Estimate from the share of the whole run's cost that is done; None at first."""
        done = self._share()
        if done <= 0.002:
            return None
        return (time.monotonic() - self._started) * (1 - done) / done

    def _share(self) -> float:
        running = self._units * self._phase.per_unit if self._phase is not None else 0.0
        return min(1.0, (self._done + running) / self._total)

    def _show(self, note: str) -> None:
        if self._bar is None:
            return
        phase, left = self._phase, self.seconds_left()
        pace = ""
        if phase is not None and self._units:
            pace = f"{(time.monotonic() - self._began) / self._units:.2f} s/step"
        self._bar.update(
            self._task,
            completed=self._share(),
            description=phase.phase if phase is not None else "",
            count=note or ("" if phase is None else f"{self._units}/{phase.units}"),
            pace=pace,
            left="" if left is None else f"ETA {_clock(left)}",
        )


def _terminal_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description:>16}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[pace]}"),
        TextColumn("{task.fields[left]}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
