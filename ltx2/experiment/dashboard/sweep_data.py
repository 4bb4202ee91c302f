"""What the page of a sweep shows, as plain data: plan and summary joined with the cells' files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from ltx2.errors import UserError
from ltx2.experiment.dashboard.run_files import (
    changed,
    curves,
    flat,
    numbers,
    read_json,
    read_lines,
    run_files,
    run_settings,
    short,
    step_columns,
    table,
    tables,
)

LAUNCH = ("python", "launch.py")
FINISHED = ("completed", "skipped")
SWEEPS = "sweeps"  # the folder of an outputs folder in which the sweeps are
_BY_SUMMARY = ("running", "failed", "interrupted", "lost")


def sweep_data(folder: Path) -> dict[str, Any]:
    """Everything the page of the sweep in `folder` needs; raises UserError without a plan.json."""
    plan = read_json(folder / "plan.json")
    if plan is None:
        raise UserError(f"{folder} holds no readable plan.json; give the folder of a sweep")
    summary = read_json(folder / "summary.json") or {}
    listed = {row.get("index"): row for row in tables(summary.get("cells"))}
    base = {k: v for k, v in flat(table(plan.get("base"))).items() if k}
    planned = tables(plan.get("cells"))
    cells = [_cell(folder, cell, listed.get(cell.get("index"), {})) for cell in planned]
    for cell, diff in zip(cells, _differences(base, cells), strict=True):
        cell["diff"] = diff
        del cell["settings"]
    names = sorted({name for cell in cells for name in cell["metrics"]})
    return {
        "sweep": str(plan.get("sweep") or folder.name),
        "name": str(plan.get("name") or plan.get("sweep") or folder.name),
        "created": str(plan.get("created") or ""),
        "status": str(summary.get("status") or _overall(cells)),
        "started": str(summary.get("started") or plan.get("created") or ""),
        "finished": str(summary.get("finished") or ""),
        "seconds": short(summary.get("seconds")),
        "command": command(plan.get("overrides") or [], multirun=True),
        "axes": _axes(plan, cells),
        "metrics": {name: _metric_info(name) for name in names},
        "home": "../../index.html" if folder.resolve().parent.name == SWEEPS else "",
        "cells": cells,
    }


def command(overrides: Any, multirun: bool = False) -> str:
    """A line for the shell that starts what `overrides` say."""
    words = [str(word) for word in overrides] if isinstance(overrides, list) else []
    return shlex.join([*LAUNCH, *(["-m"] if multirun else []), *words])


def _cell(sweep: Path, planned: dict[str, Any], listed: dict[str, Any]) -> dict[str, Any]:
    folder = sweep / str(planned.get("folder") or "")
    record = read_json(folder / "run.json")
    known = record or {}
    settings = run_settings(folder, record)
    size = table(known.get("size"))
    lines = known.get("steps") or read_lines(folder / "steps.jsonl")
    status = _status(folder, record, listed)
    return {
        "index": short(planned.get("index")),
        "cell": str(planned.get("cell") or ""),
        "folder": str(planned.get("folder") or ""),
        "values": _values(planned),
        "status": status,
        "error": _text(known.get("error") or listed.get("error")) if status != "completed" else "",
        "seconds": short(known.get("seconds") or listed.get("seconds")),
        "peak_bytes": short(known.get("peak_rss_bytes")),
        "started": str(known.get("started") or ""),
        "changed": changed(folder) if status in ("running", "interrupted", "lost") else None,
        "prompt": str(settings.get("prompt") or ""),
        "seed": short(known.get("seed")),
        "width": short(size.get("width")) or short(settings.get("width")),
        "height": short(size.get("height")) or short(settings.get("height")),
        "frames": short(known.get("frames")) or short(settings.get("frames")),
        "fps": short(known.get("fps")) or short(settings.get("fps")),
        "command": command(known.get("overrides") or planned.get("overrides")),
        "files": run_files(sweep, folder, record),
        "metrics": numbers(known.get("metrics")),
        "stages": [
            {
                "name": _text(stage.get("name")),
                "action": _text(stage.get("action")),
                "seconds": short(stage.get("seconds")),
            }
            for stage in tables(known.get("stages"))
        ],
        "steps": step_columns(lines),
        "curves": curves(folder),
        "warnings": [_text(item) for item in known.get("warnings") or []],
        "settings": settings,
    }


def _status(folder: Path, record: dict[str, Any] | None, listed: dict[str, Any]) -> str:
    """The summary knows what goes on now, the files know what was finished."""
    said = str(listed.get("status") or "")
    if said in _BY_SUMMARY:
        return said
    if record is not None:
        return str(record.get("status") or "completed")
    if said in FINISHED:
        return "lost"  # it was finished, and its folder is gone
    return "running" if (folder / "config.yaml").is_file() else "pending"


def _overall(cells: list[dict[str, Any]]) -> str:
    states = {cell["status"] for cell in cells}
    for state in ("running", "pending"):
        if state in states:
            return "running"
    return "failed" if states - {"completed"} else "completed"


def _values(planned: dict[str, Any]) -> dict[str, str]:
    values = table(planned.get("values"))
    return {str(key): _unquoted(_text(value)) for key, value in values.items()}


def _axes(plan: dict[str, Any], cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Axes in the order of the plan, values in the order typed; then what only cells mention."""
    axes: dict[str, dict[str, None]] = {}
    for axis in tables(plan.get("axes")):
        values = axis.get("values")
        typed = values if isinstance(values, list) else []
        axes[str(axis.get("key"))] = dict.fromkeys(_unquoted(_text(value)) for value in typed)
    for cell in cells:
        for key, value in cell["values"].items():
            axes.setdefault(key, {})[value] = None
    return [{"key": key, "values": list(values)} for key, values in axes.items()]


def _differences(base: dict[str, Any], cells: list[dict[str, Any]]) -> list[list[list[str]]]:
    """Per cell [key, value, value of the base] of what is not the same in all cells.

    A plan's base holds what all cells share, so a swept key has no value there: ''. It is from
    before the presets were filled in: what they gave to all cells alike is no difference. A cell
    that has not run is known by its swept values.
    """
    known = [cell["settings"] for cell in cells if cell["settings"]]
    swept = {key for cell in cells for key in cell["values"]}
    keys = {key for each in known for key in each}
    varying = {key for key in keys if any(each.get(key) != known[0].get(key) for each in known)}
    differences = []
    for cell in cells:
        leaves = cell["settings"] or cell["values"]
        differences.append(
            [
                [key, _text(leaves[key]), _text(base.get(key))]
                for key in sorted(varying | swept)
                if key in leaves
            ]
        )
    return differences


def _metric_info(name: str) -> dict[str, Any]:
    try:
        from ltx2.experiment.metrics.info import metric_info
    except ImportError:
        return {}
    info = metric_info(name)
    return {} if info is None else {"unit": info.unit, "better": info.better, "text": info.text}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _unquoted(text: str) -> str:
    """A value of Hydra's grammar as a person reads it: without the quotes around it."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace("\\" + text[0], text[0])
    return text
