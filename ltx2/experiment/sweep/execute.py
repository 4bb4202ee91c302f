"""Running cells through a launcher: what is finished is skipped, what fails does not stop the rest.

`Execution.run` takes any batch of cells, so that a search can run its trials like a grid.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ltx2.errors import UserError
from ltx2.experiment.sweep.plan import Cell
from ltx2.experiment.sweep.status import (
    BAD,
    DONE,
    Board,
    CellResult,
    clear,
    finished_record,
    run_seconds,
    statuses_before,
    write_summary,
)

log = logging.getLogger(__name__)


class Events(Protocol):
    """What a launcher tells about the cells it runs, from any thread."""

    def began(self, cell: Cell) -> None: ...

    def ended(self, result: CellResult) -> bool:
        """Whether the launcher is to begin more cells."""
        ...


class CellLauncher(Protocol):
    """Runs cells somewhere. On KeyboardInterrupt it ends what runs and raises it again."""

    @property
    def workers(self) -> int:
        """Cells that run at a time."""
        ...

    def run(self, cells: Sequence[Cell], folder: Path, events: Events) -> None: ...


class View(Protocol):
    """Shows a sweep while it runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def ended(self, cell: Cell, result: CellResult) -> None: ...


class Execution:
    """A sweep being run. `folder` holds its plan and its cells' folders."""

    def __init__(
        self, board: Board, launcher: CellLauncher, view: View, max_failures: int | None = None
    ) -> None:
        if max_failures is not None and max_failures < 1:
            raise UserError(f"sweep.max_failures={max_failures} is not 1 or more, or null")
        self.board, self._launcher, self._view = board, launcher, view
        self._max_failures = max_failures
        self._lock = threading.RLock()
        self.stopped = False
        self._before = statuses_before(board.folder)
        board.workers = launcher.workers

    def run(self, cells: Sequence[Cell]) -> list[CellResult]:
        """Run those of `cells` (in this order) that are not finished; all their results.

        Cells that are on the board already are not added again. Raises KeyboardInterrupt after
        the summary has been written.
        """
        known = self.board.states
        self.board.add(cell for cell in cells if cell.index not in known)
        waiting = [cell for cell in cells if not self._is_finished(cell)]
        if waiting and not self.stopped:
            self._save("running")
            try:
                with self._view:
                    self._launcher.run(waiting, self.board.folder, self)
            except KeyboardInterrupt:
                self.stopped = True
                self.board.reset("running", "interrupted")
                raise
            finally:
                self.board.reset("running", "lost")
        return [self._result(cell) for cell in cells]

    def finish(self, interrupted: bool = False) -> dict[str, Any]:
        """Write the final summary; returns it."""
        bad = any(self.board.counts()[status] for status in BAD)
        return self._save("interrupted" if interrupted else "failed" if bad else "completed")

    def began(self, cell: Cell) -> None:
        with self._lock:
            self.board.begin(cell)

    def ended(self, result: CellResult) -> bool:
        with self._lock:
            self.board.end(result)
            self._save("running")
            if result.status == "pending":  # it is going to be tried once more
                return not self.stopped
            cell = next(cell for cell in self.board.cells if cell.index == result.index)
            self._view.ended(cell, result)
            counts = self.board.counts()
            failures = sum(counts[status] for status in BAD)
            if self._max_failures is not None and failures >= self._max_failures:
                if not self.stopped and counts["pending"]:
                    log.warning(
                        "stopped after %d failed cells (sweep.max_failures); %d are left",
                        failures,
                        counts["pending"],
                    )
                self.stopped = True
            return not self.stopped

    def _is_finished(self, cell: Cell) -> bool:
        """Whether the cell need not run; an unfinished one's folder is emptied."""
        if self.board.states[cell.index].status in ("completed", "skipped"):
            return True
        folder = self.board.folder / cell.folder
        record = finished_record(folder, cell.cell)
        if record is not None:
            self.board.end(CellResult(cell.index, "skipped", run_seconds(record)))
            return True
        if self._before.get(cell.cell) in DONE:
            log.info("%s was finished, but is moved or half deleted: it runs again", cell.folder)
        clear(folder)
        return False

    def _result(self, cell: Cell) -> CellResult:
        state = self.board.states[cell.index]
        return CellResult(cell.index, state.status, state.seconds, state.error)

    def _save(self, status: str) -> dict[str, Any]:
        with self._lock:
            return write_summary(self.board, status)
