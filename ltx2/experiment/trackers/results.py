"""The numbers and files of a finished run or sweep, as trackers want them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.experiment.trackers.base import is_private, shareable

SECONDS = "seconds"


def step_values(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a step besides its own, named `stage/number`."""
    numbers = {key: value for key, value in record.items() if key not in ("stage", "step")}
    return {
        f"{record['stage']}/{key}": value
        for key, value in numbers.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def metric_values(record: dict[str, Any]) -> dict[str, float]:
    """The finite metrics of a run, with its seconds."""
    metrics = {key: value for key, value in record.get("metrics", {}).items() if value is not None}
    seconds = record.get(SECONDS)
    return metrics if seconds is None else metrics | {SECONDS: seconds}


def curves(folder: Path) -> list[dict[str, Any]]:
    """The curves among the lines of metrics.jsonl; none if there is no such file."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return [line for line in lines if "x" in line]


def media(folder: Path, record: dict[str, Any]) -> dict[str, Path]:
    """video, audio and sheet of a run: those that are files."""
    paths = {kind: folder / name for kind, name in record.get("files", {}).items() if name}
    return {kind: path for kind, path in paths.items() if path.is_file()}


@dataclass(frozen=True)
class Cell:
    """A finished cell of a sweep as the table of results shows it."""

    folder: Path
    status: str
    seconds: float | None
    error: str | None
    values: dict[str, Any]
    record: dict[str, Any]


def sweep_cells(folder: Path, summary: dict[str, Any]) -> list[Cell]:
    """The cells of a sweep with the record of each that has one."""
    cells = []
    for cell in summary["cells"]:
        place = folder / cell["folder"]
        file = place / "run.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        private = is_private(record.get("settings", {}))
        values = shareable(cell["values"]) if private else cell["values"]
        error = None if private else cell.get("error")
        cells.append(Cell(place, cell["status"], cell.get("seconds"), error, values, record))
    return cells


def sweep_table(cells: list[Cell]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the results: number, values, status, seconds and metrics of each cell.

    A value that only some cells have is None in the others; a column holds one type besides.
    """
    axes = list(dict.fromkeys(key for cell in cells for key in cell.values))
    typed = [_alike([cell.values.get(axis) for cell in cells]) for axis in axes]
    metrics = [metric_values(cell.record) for cell in cells]
    names = [name for name in dict.fromkeys(name for m in metrics for name in m) if name != SECONDS]
    rows = [
        [number, *(column[number] for column in typed), cell.status, cell.seconds]
        + [metrics[number].get(name) for name in names]
        for number, cell in enumerate(cells)
    ]
    return ["cell", *axes, "status", SECONDS, *names], rows


def _alike(column: list[Any]) -> list[Any]:
    """Numbers, also those written as texts, if all are; else texts."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return [None if value is None else kind(str(value)) for value in column]
    return [None if value is None else str(value) for value in column]
