"""What a running sweep shows: a live table on a terminal, elsewhere a line per cell."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ltx2.experiment.sweep.plan import Cell
from ltx2.experiment.sweep.status import BAD, DONE, Board, CellResult

log = logging.getLogger(__name__)

ROWS = 16
STEPS = "steps.jsonl"
_TAIL = 4096
_STYLES = {
    "completed": "green", "skipped": "dim", "running": "bold cyan", "failed": "bold red",
    "lost": "bold red", "interrupted": "yellow", "pending": "dim",
}  # fmt: skip
_QUIET = "ltx2.experiment.sweep"


class _OnlySweep(logging.Filter):
    """Lets through what a sweep says and what must be seen; the cells' own logs have the rest."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.startswith(_QUIET)


class QuietConsole:
    """Handlers of the terminal show only the sweep's own lines while inside."""

    def __init__(self) -> None:
        self._filter = _OnlySweep()
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> None:
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                self._handlers.append((handler, handler.stream))
                handler.addFilter(self._filter)

    def redirect(self, stream: Any) -> None:
        """Let the handlers write to `stream`, which puts their lines above a live table."""
        for handler, _ in self._handlers:
            handler.setStream(stream)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handler, stream in self._handlers:
            handler.removeFilter(self._filter)
            handler.setStream(stream)
        self._handlers.clear()


class LogLines:
    """One line per cell: `[3/24] seed=1 ... completed in 3.2 s, about 1:20 left`."""

    def __init__(self, board: Board) -> None:
        self._board, self._console = board, QuietConsole()

    def __enter__(self) -> Self:
        self._console.__enter__()
        skipped = self._board.counts()["skipped"]
        if skipped:
            log.info("%d of %d cells are finished already", skipped, len(self._board.cells))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._console.__exit__(kind, error, trace)

    def ended(self, cell: Cell, result: CellResult) -> None:
        log.info("%s", ended_line(self._board, cell, result))


def ended_line(board: Board, cell: Cell, result: CellResult) -> str:
    """What is said when a cell has ended."""
    counts = board.counts()
    total = len(board.cells)
    done = total - counts["pending"] - counts["running"]
    line = f"[{done}/{total}] {cell.text} ... {result.status}"
    if result.seconds is not None:
        line += f" in {result.seconds:.1f} s"
    if result.error:
        line += f": {result.error}"
    left = board.seconds_left() if counts["pending"] else None
    return line if left is None else f"{line}, about {clock(left)} left"


class LiveTable:
    """A table of the cells around those that run, with the time left for the whole sweep."""

    def __init__(self, board: Board, console: Any = None) -> None:
        self._board, self._console = board, QuietConsole()
        self._terminal = console
        self._live: Any = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        self._console.__enter__()
        console = self._terminal or Console(stderr=True)
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=4)
        self._live.start()
        self._console.redirect(sys.stderr)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        self._console.__exit__(kind, error, trace)

    def ended(self, cell: Cell, result: CellResult) -> None:
        self._live.refresh()

    def table(self) -> Any:
        """The table of this moment, below a line that says how far the sweep is."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        board = self._board
        shown = window(board.cells, board)
        keys = list(dict.fromkeys(key for cell in shown for key in cell.values))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("cell", *keys, "status", "time"):
            table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=40)
        for cell in shown:
            state = board.states[cell.index]
            told = state.status
            if told == "running":
                told = f"running {progress(board.folder / cell.folder, cell)}".rstrip()
            time = "" if state.seconds is None else f"{state.seconds:.1f} s"
            # Text: a prompt may have brackets, which rich would read as markup.
            row = [str(cell.index), *(cell.values.get(key, "") for key in keys), told, time]
            table.add_row(*map(Text, row), style=_STYLES[state.status])
        hidden = len(board.cells) - len(shown)
        more = [Text(f"and {hidden} more cells", style="dim")] if hidden else []
        return Group(Text(headline(board), style="bold"), table, *more)


def headline(board: Board) -> str:
    """How far the sweep is."""
    counts = board.counts()
    done = sum(counts[status] for status in DONE)
    text = f"{board.sweep}: {done} of {len(board.cells)} done"
    bad = sum(counts[status] for status in BAD)
    if bad:
        text += f", {bad} failed"
    left = board.seconds_left()
    return text if not left else f"{text}, about {clock(left)} left"


def window(cells: Sequence[Cell], board: Board, rows: int = ROWS) -> list[Cell]:
    """At most `rows` cells: those that run, then the next ones and the last that ended."""
    running = board.with_status("running")
    waiting = board.with_status("pending")
    others = {cell.index for cell in (*running, *waiting)}
    ended = [cell for cell in reversed(board.cells) if cell.index not in others]
    half = max(0, rows - len(running)) // 2
    first = [*running, *waiting[:half], *ended, *waiting[half:]][:rows]
    chosen = {cell.index for cell in first}
    return [cell for cell in cells if cell.index in chosen]


def progress(folder: Path, cell: Cell) -> str:
    """`base 3/8` from the last line of a running cell's steps; empty before the first step."""
    try:
        with (folder / STEPS).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            lines = [line for line in file.read().split(b"\n") if line.strip()]
        record = json.loads(lines[-1])
        stage, step = str(record["stage"]), int(record["step"]) + 1
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return ""
    return f"{stage} {step}/{cell.steps[stage]}" if stage in cell.steps else f"{stage} {step}"


def failure_table(board: Board) -> list[str]:
    """Lines naming every cell that failed or was lost, with its error."""
    bad = board.with_status(*BAD)
    if not bad:
        return []
    lines = [f"{len(bad)} of {len(board.cells)} cells failed:"]
    for cell in bad:
        lines.append(f"  {cell.folder}: {board.states[cell.index].error or 'no reason is known'}")
    return lines


def clock(seconds: float) -> str:
    """`1:20`, or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
