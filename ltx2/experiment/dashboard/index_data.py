"""What the index page shows: one row per sweep and per single run of an outputs folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltx2.experiment.dashboard.run_files import (
    changed,
    link,
    read_config,
    read_json,
    run_files,
    short,
    table,
    tables,
)
from ltx2.experiment.dashboard.sweep_data import FINISHED, SWEEPS, command

_DEPTH = 4  # date / time / multirun folder / cell
_NOT_RUNS = (SWEEPS, "cache", "latents", "previews")


def index_data(outputs: Path) -> dict[str, Any]:
    """Rows of all runs and sweeps below `outputs`, newest first."""
    rows = [_sweep(outputs, folder) for folder in sweep_folders(outputs)]
    rows += [_run(outputs, folder) for folder in run_folders(outputs)]
    rows.sort(key=lambda row: row["time"], reverse=True)
    return {"name": outputs.resolve().name, "rows": rows}


def sweep_folders(outputs: Path) -> list[Path]:
    """Folders of sweeps, which have a plan.json."""
    return sorted(plan.parent for plan in (outputs / SWEEPS).glob("*/plan.json"))


def run_folders(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Folders of single runs, which have a config.yaml or a run.json."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    names = {entry.name for entry in entries}
    if names & {"config.yaml", "run.json"}:
        yield folder
        return
    for entry in entries:
        hidden = entry.name.startswith(".") or entry.name in _NOT_RUNS
        if depth and not hidden and entry.is_dir(follow_symlinks=False):
            yield from run_folders(Path(entry.path), depth - 1)


def _run(outputs: Path, folder: Path) -> dict[str, Any]:
    record = read_json(folder / "run.json")
    known = record or {}
    settings = table(known.get("settings")) or read_config(folder / "config.yaml")
    return {
        "kind": "run",
        "name": str(settings.get("prompt") or "no prompt"),
        "folder": os.path.relpath(folder, outputs).replace(os.sep, "/"),
        "status": str(known.get("status") or "running"),
        "time": changed(folder) or 0.0,
        "seconds": short(known.get("seconds")),
        "error": str(known.get("error") or ""),
        "command": command(known.get("overrides") or known.get("command")),
        "files": run_files(outputs, folder, record),
        "cells": None,
    } | _facts(settings, known)


def _sweep(outputs: Path, folder: Path) -> dict[str, Any]:
    plan = read_json(folder / "plan.json") or {}
    summary = read_json(folder / "summary.json") or {}
    cells, counts = tables(plan.get("cells")), table(summary.get("counts"))
    first: dict[str, Any] = {}
    files: dict[str, str] = {}
    for cell in cells:
        run = folder / str(cell.get("folder") or "")
        record = read_json(run / "run.json")
        if record is not None and (found := run_files(outputs, run, record)).get("media"):
            first, files = record, found
            break
    done = sum(int(counts.get(name) or 0) for name in FINISHED)
    return {
        "kind": "sweep",
        "name": str(plan.get("name") or plan.get("sweep") or folder.name),
        "folder": os.path.relpath(folder, outputs).replace(os.sep, "/"),
        "status": str(summary.get("status") or "running"),
        "time": max((_time(folder / n) for n in ("plan.json", "summary.json")), default=0.0),
        "seconds": short(summary.get("seconds")),
        "error": "",
        "command": command(plan.get("overrides"), multirun=True),
        "files": files | {"page": link(outputs, folder, "index.html")},
        "cells": {"total": len(cells), "done": done, "failed": counts.get("failed") or 0},
        "axes": [
            [str(axis.get("key")), len(axis.get("values") or [])]
            for axis in tables(plan.get("axes"))
        ],
    } | _facts(table(first.get("settings")), first)


def _facts(settings: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    size = table(record.get("size")) or settings
    return {
        "model": _name(settings.get("model")),
        "pipeline": _name(settings.get("pipeline")),
        "seed": short(settings.get("seed")),
        "width": short(size.get("width")),
        "height": short(size.get("height")),
        "frames": short(record.get("frames") or settings.get("frames")),
        "fps": short(record.get("fps") or settings.get("fps")),
    }


def _name(value: Any) -> str:
    return str(table(value).get("name") or "")


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
