"""Predicted against measured: peak memory of every phase, and the time that a plan takes.

Each case is a run of its own in a fresh process; `measured` is what its run.json says. The medium
model has random weights (0.3 G parameters) and is written first. Times are predicted from the run
of another size that comes before it in the list.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from paired.report import show
from random_model import write_medium

from ltx2.app.compose import compose
from ltx2.experiment.machine import Machine, machine
from ltx2.experiment.report import Row, decoded_in, plan_rows, report
from ltx2.experiment.run import component_dtypes
from ltx2.experiment.timings import read_timings
from ltx2.pipelines.memory import planned_places
from ltx2.pipelines.planning import make_plan

ROOT = Path(__file__).parents[1]
SIZE = "height={0} width={0} frames={1}"
FEW = ["scheduler.steps=2", "schedules.stage2=[0.9,0.0]"]
# Name, whether it is the medium model, overrides.
CASES: tuple[tuple[str, bool, list[str]], ...] = (
    ("pocket", False, []),
    ("pocket fp32", False, ["dtype=fp32"]),
    ("pocket 256 px", False, SIZE.format(256, 33).split()),
    ("pocket mlx", False, ["backend=mlx"]),
    ("medium bf16", True, [*FEW, "dtype=bf16", *SIZE.format(256, 33).split()]),
    ("medium bf16 384 px", True, [*FEW, "dtype=bf16", *SIZE.format(384, 33).split()]),
    ("medium fp32", True, [*FEW, "dtype=fp32", *SIZE.format(256, 33).split()]),
    (
        "medium bf16 streamed",
        True,
        [*FEW, "memory=stream", "dtype=bf16", *SIZE.format(256, 33).split()],
    ),
    (
        "medium fp32 streamed",
        True,
        [*FEW, "memory=stream", "dtype=fp32", *SIZE.format(256, 33).split()],
    ),
)
# Random weights make no picture that a check would pass; nothing is kept for a next run.
COMMON = ["cache=off", "checks=off", "keep_loaded=false"]


def run(overrides: list[str], outputs: Path) -> dict[str, Any]:
    """Generate in a process of its own; the record."""
    before = set(outputs.rglob("run.json"))
    command = [sys.executable, str(ROOT / "launch.py"), *COMMON, *overrides]
    command.append(f"paths.outputs={outputs}")
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    (path,) = set(outputs.rglob("run.json")) - before
    return json.loads(path.read_text())


def measured_bytes(phase: dict[str, Any], device: Machine) -> int:
    """Of the process for torch on a CPU, of the device's arrays elsewhere."""
    in_process = device.backend == "torch" and device.kind == "cpu"
    return phase["peak_rss_bytes"] if in_process else phase["peak_device_bytes"]


def rows_of(name: str, predicted: list[Row], record: dict[str, Any], device: Machine) -> list[Any]:
    found = {phase["phase"]: phase for phase in record["phases"]}
    rows = []
    for row in predicted:
        phase = found.get(row.cost.phase)
        if phase is None or row.memory is None:
            continue
        peak = measured_bytes(phase, device)
        rows.append(_row(name, row.cost.phase, row.memory.peak, peak)
                    | {"predicted s": "" if row.seconds is None else round(row.seconds, 2),
                       "measured s": phase["seconds"]})  # fmt: skip
    highest = max(int(row["predicted MB"]) for row in rows), max(row["measured MB"] for row in rows)
    seconds = sum(row["measured s"] for row in rows)
    told = [row["predicted s"] for row in rows if row["predicted s"] != ""]
    total = {"predicted s": round(sum(told), 2) if told else "", "measured s": round(seconds, 2)}
    return [*rows, _row(name, "whole run", highest[0] * 1e6, highest[1] * 1e6) | total]


def _row(name: str, phase: str, predicted: float, measured: float) -> dict[str, Any]:
    return {
        "case": name,
        "phase": phase,
        "predicted MB": round(predicted / 1e6),
        "measured MB": round(measured / 1e6),
        "error": f"{predicted / measured - 1:+.0%}",
    }


def compared(name: str, overrides: list[str], outputs: Path) -> tuple[list[Any], dict[str, Any]]:
    settings = compose([*COMMON, *overrides, f"paths.outputs={outputs}"])
    backend = "mlx" if settings.backend._target_.endswith("MlxBackend") else "torch"
    start = time.perf_counter()
    plan, device = make_plan(settings), machine(backend, settings.backend.device)
    dtypes = component_dtypes(plan.settings, device)
    report(plan, dtypes, device, outputs=outputs)
    seconds = time.perf_counter() - start
    timings, tiling = read_timings(outputs, plan, device, dtypes), decoded_in(plan, dtypes, device)
    places = planned_places(plan, dtypes, device.free_bytes)
    predicted = plan_rows(plan, dtypes, device, {}, timings, tiling, places)
    rows = rows_of(name, predicted, run(overrides, outputs), device)
    return rows, {"case": name, "plan s": round(seconds, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="words that a case's name contains")
    parser.add_argument("--json", help="write the record to this file")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rows: list[Any] = []
    times: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        medium: list[str] | None = None
        for name, is_medium, overrides in CASES:
            if options.only and not any(word in name for word in options.only):
                continue
            if is_medium and medium is None:
                medium = write_medium(Path(folder) / "medium")
            # Another model, though it carries the pocket's name: other timings.
            outputs = Path(folder) / ("of medium" if is_medium else "of pocket")
            given = (medium or []) if is_medium else []
            found, took = compared(name, [*given, *overrides], outputs)
            rows, times = rows + found, [*times, took]
    show("peak memory and time of the phases", rows, options.json)
    show("seconds to plan", times, None)


if __name__ == "__main__":
    main()
