"""Seconds of a run, predicted from earlier runs of the same model on the same kind of device.

Records say how many operations each phase took by the cost model and how long it really took.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.experiment.machine import Machine
from ltx2.experiment.streams import recorded_kind
from ltx2.pipelines.cost import PhaseCost
from ltx2.pipelines.plan import Plan

RECORD = "run.json"
# Records that are looked at, and runs that are enough.
MOST_RECORDS, MOST_RUNS = 60, 12
NEAREST = 3


@dataclass(frozen=True)
class Sample:
    """A phase of an earlier run."""

    kind: str
    operations: float
    seconds: float


@dataclass(frozen=True)
class Timings:
    """Phases of `runs` earlier runs."""

    runs: int
    samples: tuple[Sample, ...]

    def seconds(self, cost: PhaseCost) -> float | None:
        """From the phases of its kind that are nearest in size; None if there is none."""
        if cost.total <= 0:
            return 0.0
        known = [s for s in self.samples if s.kind == cost.kind]
        known.sort(key=lambda s: abs(math.log(s.operations / cost.total)))
        if not known:
            return None
        rates = [s.seconds / s.operations for s in known[:NEAREST]]
        return statistics.median(rates) * cost.total


def read_timings(outputs: Path, plan: Plan, device: Machine, dtypes: dict[str, str]) -> Timings:
    """Timings from the newest records below `outputs` that match model, device and dtype."""
    samples: list[Sample] = []
    runs = 0
    for record in _records(outputs):
        if runs == MOST_RUNS:
            break
        found = list(_samples(record)) if _matches(record, plan, device, dtypes) else []
        samples += found
        runs += bool(found)
    return Timings(runs, tuple(samples))


def _records(outputs: Path) -> Iterator[dict[str, Any]]:
    """The newest run.json files of single runs and of sweeps, at most `MOST_RECORDS`."""
    paths: list[Path] = []
    for folder in _newest([*_folders(outputs), *_folders(outputs / "sweeps")]):
        # outputs/<date>/<time>/ and outputs/sweeps/<sweep>/<cell>/ are equally deep.
        paths += [path for path in folder.glob(f"*/{RECORD}") if path.is_file()]
        if len(paths) >= MOST_RECORDS:
            break
    for path in _newest(paths)[:MOST_RECORDS]:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            yield record


def _folders(root: Path) -> list[Path]:
    return [item for item in root.glob("*") if item.is_dir() and item.name != "sweeps"]


def _newest(paths: Sequence[Path]) -> list[Path]:
    return sorted(paths, key=_changed, reverse=True)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # removed meanwhile
        return 0


def _matches(record: dict[str, Any], plan: Plan, device: Machine, dtypes: dict[str, str]) -> bool:
    made = record.get("device") or {}
    model = ((record.get("settings") or {}).get("model") or {}).get("name")
    return (
        record.get("status") == "completed"
        and model == plan.settings.model.name
        and made.get("backend") == device.backend
        and str(made.get("device")).partition(":")[0] == device.device.partition(":")[0]
        and (record.get("dtypes") or {}).get("transformer") == dtypes["transformer"]
    )


def _samples(record: dict[str, Any]) -> Iterator[Sample]:
    """The phases that were computed; those that an interrupted run had begun are left out."""
    taken = {
        stage["name"] for stage in record.get("stages") or [] if stage.get("action") != "computed"
    }
    seconds = {row["phase"]: row["seconds"] for row in record.get("phases") or []}
    for cost in record.get("costs") or []:
        phase, operations = cost["phase"], cost["operations"]
        if phase in seconds and phase not in taken and operations > 0:
            kind = recorded_kind(record, cost["kind"])
            yield Sample(kind, float(operations), float(seconds[phase]))
