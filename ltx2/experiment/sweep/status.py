"""What became of the cells of a sweep: read from their folders, and written to summary.json."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from ltx2.experiment.record import to_json, write_text
from ltx2.experiment.sweep.plan import Cell

SUMMARY = "summary.json"
RECORD = "run.json"
CLIPS = ("video*", "audio*")
# Statuses of a cell; `skipped` was finished by an earlier call, `lost` left no record.
STATUSES = ("completed", "skipped", "failed", "interrupted", "lost", "pending", "running")
DONE = ("completed", "skipped")
BAD = ("failed", "lost")


@dataclass(frozen=True)
class CellResult:
    """How a cell ended; `error` is one line."""

    index: int
    status: str
    seconds: float | None = None
    error: str | None = None


@dataclass
class CellState:
    """A cell's status while the sweep runs; `began` is of the monotonic clock."""

    status: str = "pending"
    seconds: float | None = None
    error: str | None = None
    began: float = 0.0
    here: bool = False  # ran in this call, so that its seconds say how fast this machine is


class Board:
    """The state of every cell of a sweep that runs."""

    def __init__(self, sweep: str, folder: Path) -> None:
        self.sweep, self.folder = sweep, folder
        self.cells: list[Cell] = []
        self.states: dict[int, CellState] = {}
        self.workers = 1
        self.started = now()
        self._clock = time.monotonic()

    def add(self, cells: Iterable[Cell]) -> None:
        """More cells, all pending."""
        for cell in cells:
            self.cells.append(cell)
            self.states[cell.index] = CellState()

    def begin(self, cell: Cell) -> None:
        self.states[cell.index] = CellState("running", began=time.monotonic(), here=True)

    def end(self, result: CellResult) -> None:
        here = result.status != "skipped"
        self.states[result.index] = CellState(
            result.status, result.seconds, result.error, here=here
        )

    def reset(self, status: str, becomes: str) -> None:
        """Cells of one status get another: what was running when a sweep was stopped."""
        for state in self.states.values():
            if state.status == status:
                state.status = becomes
                state.seconds = time.monotonic() - state.began

    def counts(self) -> dict[str, int]:
        found = Counter(state.status for state in self.states.values())
        return {status: found[status] for status in STATUSES}

    def with_status(self, *statuses: str) -> list[Cell]:
        return [cell for cell in self.cells if self.states[cell.index].status in statuses]

    def seconds_left(self) -> float | None:
        """Estimated from finished cells of similar planned cost; None before there is one."""
        finished = [cell for cell in self.with_status("completed") if self.states[cell.index].here]
        rates = [(cell.cost, self.states[cell.index].seconds or 0.0) for cell in finished]
        if not rates:
            return None
        total = 0.0
        for cell in self.with_status("pending", "running"):
            state = self.states[cell.index]
            ran = time.monotonic() - state.began if state.status == "running" else 0.0
            total += max(0.0, expected_seconds(cell.cost, rates) - ran)
        return total / max(self.workers, len(self.with_status("running")))

    def record(self, status: str) -> dict[str, Any]:
        """What summary.json holds; status: running, completed, failed or interrupted."""
        return {
            "sweep": self.sweep,
            "status": status,
            "started": self.started,
            "finished": None if status == "running" else now(),
            "seconds": round(time.monotonic() - self._clock, 3),
            "counts": self.counts(),
            "cells": [self._row(cell) for cell in self.cells],
        }

    def _row(self, cell: Cell) -> dict[str, Any]:
        state = self.states[cell.index]
        return {
            "index": cell.index,
            "cell": cell.cell,
            "folder": cell.folder,
            "status": state.status,
            "seconds": None if state.seconds is None else round(state.seconds, 3),
            "error": state.error,
            "values": cell.values,
        }


def expected_seconds(cost: float, finished: Sequence[tuple[float, float]]) -> float:
    """Seconds of a cell of planned `cost` from (cost, seconds) of others.

    The middle one of the three most alike in cost, the later ones first: the first run of all
    loads files, and others may find results in the cache.
    """
    if cost <= 0:
        return sum(seconds for _, seconds in finished) / len(finished)
    latest = [(c if c > 0 else cost, seconds) for c, seconds in reversed(finished)]
    alike = sorted(latest, key=lambda pair: max(pair[0] / cost, cost / pair[0]))[:3]
    return median(seconds * cost / other for other, seconds in alike)


def now() -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_summary(board: Board, status: str) -> dict[str, Any]:
    """summary.json of the sweep; returns what it holds."""
    record = board.record(status)
    write_text(board.folder / SUMMARY, to_json(record, indent=1) + "\n")
    return record


def statuses_before(folder: Path) -> dict[str, str]:
    """Status by cell hash from the summary of an earlier call; empty without one."""
    try:
        rows = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["cells"]
        return {str(row["cell"]): str(row["status"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json in `folder`; None when it is absent or cannot be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def finished_record(folder: Path, cell: str) -> dict[str, Any] | None:
    """The record of a completed run of this very cell whose files are all there, else None."""
    record = read_record(folder)
    if record is None or record.get("status") != "completed":
        return None
    if record.get("cell") != cell or not _files_present(folder, record):
        return None
    return record


def _files_present(folder: Path, record: dict[str, Any]) -> bool:
    named = record.get("files")
    if isinstance(named, dict):
        return all((folder / str(name)).exists() for name in named.values() if name)
    return any(path for pattern in CLIPS for path in folder.glob(pattern))


def result_in(folder: Path, cell: Cell) -> CellResult:
    """How a cell that ran elsewhere ended, from its record; `lost` without one."""
    record = read_record(folder)
    if record is None:
        return CellResult(cell.index, "lost", error="its process ended without a record")
    status, error = record.get("status"), record.get("error")
    if status not in ("completed", "failed", "interrupted"):
        return CellResult(cell.index, "lost", error="its record has no status")
    told = None if error is None else str(error)
    return CellResult(cell.index, status, run_seconds(record), told)


def run_seconds(record: dict[str, Any]) -> float | None:
    """Seconds from start to end of a run, or those of its phases."""
    try:
        begin, end = (datetime.fromisoformat(record[key]) for key in ("started", "finished"))
        return (end - begin).total_seconds()
    except (KeyError, TypeError, ValueError):
        return record.get("seconds")


def write_failure(folder: Path, cell: Cell, sweep: str, error: str, seconds: float) -> None:
    """A record of a cell that failed before it had one of its own."""
    if (folder / RECORD).exists():
        return
    record: dict[str, Any] = {"status": "failed", "error": error, "seconds": round(seconds, 3)}
    record |= {"sweep": sweep, "cell": cell.cell, "overrides": list(cell.overrides)}
    write_text(folder / RECORD, to_json(record | {"finished": now()}, indent=1) + "\n")


def clear(folder: Path) -> None:
    """Empty the folder of a cell that is to run again; its log is kept."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".log":
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
