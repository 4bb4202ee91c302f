"""Figures of a training: metrics.jsonl, the log, the project's trackers, and a bar."""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ltx2.experiment.trackers.base import RunInfo, Tracker
from ltx2.experiment.trackers.fanout import Trackers
from ltx2.training.progress import Progress

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


class Reporter:
    """Takes the figures of every logged step; `finish` is called in all cases."""

    def __init__(
        self,
        folder: Path,
        name: str,
        config: dict[str, Any],
        trackers: Mapping[str, Tracker],
        steps: int,
        done: int = 0,
    ) -> None:
        self._folder, self._name, self._last = folder, name, done
        self._figures: dict[str, float] = {}
        self._trackers = Trackers(dict(trackers))
        self._progress = Progress(name, steps, done)
        _drop_after(folder / METRICS, done)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        run = uuid.uuid4().hex[:12]
        self._trackers.start(RunInfo(run, run, None, name, folder, (), {}, now), config)

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        """A line of metrics.jsonl, and a point of every curve."""
        self._figures |= {key: value for key, value in figures.items() if math.isfinite(value)}
        line = json.dumps({"step": step} | {key: _short(value) for key, value in figures.items()})
        with (self._folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._trackers.step({"stage": self._name, "step": step} | figures)
        told = {key: value for key, value in figures.items() if key.startswith("eval/")}
        if told:
            log.info("%s step %d: %s", self._name, step, _listed(told))
        note = _listed({"loss": figures["loss"]}) if "loss" in figures else ""
        self._progress.advance(step - self._last, note)
        self._last = step

    def finish(self, status: str) -> None:
        """The training is over, or was ended."""
        self._progress.end()
        self._trackers.finish({"status": status, "metrics": self._figures, "files": {}})


def last_figures(folder: Path) -> dict[str, float]:
    """The newest value of every figure in metrics.jsonl."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found: dict[str, float] = {}
    for line in lines:
        found |= {k: v for k, v in json.loads(line).items() if v is not None}
    return found


def _drop_after(path: Path, step: int) -> None:
    """Lines of steps that an interrupted run did and that are done again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):  # cut off in the middle
            continue
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{key.removeprefix('eval/')} {value:.4g}" for key, value in figures.items())
