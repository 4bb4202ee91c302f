"""What surrounds a run: its identity, its metrics, and the trackers that hear of it."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.experiment.cell import Job, cell_id
from ltx2.experiment.metrics.base import Metric
from ltx2.experiment.metrics.sink import MetricSink, numbers, write_metrics
from ltx2.experiment.session import Session
from ltx2.experiment.step_latents import StepLatents
from ltx2.experiment.trackers.base import RunInfo, run_name
from ltx2.experiment.trackers.fanout import Trackers
from ltx2.pipelines.plan import Plan
from ltx2.pipelines.settings import CacheSettings, Settings

STEPS, SHEET = "steps.jsonl", "frames.png"


@dataclass(frozen=True)
class Extras:
    """What a run has beside its settings.

    `session` keeps models for the next run, None if there is none; `cache` None keeps no results.
    """

    job: Job = field(default_factory=Job)
    session: Session | None = None
    cache: CacheSettings | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    trackers: Trackers = field(default_factory=lambda: Trackers({}))


class Diary:
    """Tells metrics and trackers what happens; knows what the record says about it."""

    def __init__(
        self, settings: Settings, plan: Plan, folder: Path, extras: Extras, sink: MetricSink
    ) -> None:
        self._plan, self._folder, self._extras, self._sink = plan, folder, extras, sink
        self._config = asdict(plan.settings)
        self._run, self._cell = secrets.token_hex(6), cell_id(settings)
        self._started = _now()
        self._metrics: dict[str, float] = {}
        self._latents = StepLatents(folder) if plan.settings.save_steps else None

    def begin(self) -> None:
        """The run starts."""
        job, settings = self._extras.job, self._plan.settings
        tags = (settings.model.name, settings.pipeline.name)
        name = run_name(self._config, dict(job.values))
        info = RunInfo(
            self._run, self._cell, job.sweep, name, self._folder, tags, job.values, self._started
        )
        self._extras.trackers.start(info, self._config)

    def step(self, record: dict[str, Any], values: dict[str, np.ndarray]) -> None:
        """A sampling step is over; `values` are the latents, empty for a reused stage."""
        self._extras.trackers.step(record)
        if values:
            streams = (values.get("video"), values.get("audio"))
            self._sink.step(record["stage"], record["step"], *streams)
            if self._latents is not None:
                self._latents.add(record, values)

    def measured(self) -> None:
        """Everything was seen: write what was measured."""
        if self._latents is not None:
            self._latents.write()
        results = self._sink.results()
        if results:
            write_metrics(self._folder, results)
            self._metrics = numbers(results)

    def record(self) -> dict[str, Any]:
        """The run's identity, metrics and files, for run.json."""
        job, path = self._extras.job, self._sink.path
        kind = "video" if self._plan.has_video else "audio"
        files = {kind: path.name, "sheet": SHEET}
        return {
            "run": self._run,
            "cell": self._cell,
            "sweep": job.sweep,
            "overrides": list(job.overrides),
            "values": dict(job.values),
            "started": self._started,
            "finished": _now(),
            "metrics": self._metrics,
            "metrics_seconds": round(self._sink.seconds, 4),
            "files": {k: name for k, name in files.items() if (self._folder / name).exists()},
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
