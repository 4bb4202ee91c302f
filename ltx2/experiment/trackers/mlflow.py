"""MLflow: parameters, metrics and files in an SQLite store below outputs, or on a server."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ltx2.experiment.trackers.base import (
    Option,
    RunInfo,
    flat,
    need,
    outputs_of,
    shown,
)
from ltx2.experiment.trackers.network import unreachable
from ltx2.experiment.trackers.results import (
    media,
    metric_values,
    step_values,
    sweep_cells,
    sweep_table,
)

PARAM_LENGTH = 6000
_BATCH = 100  # parameters a request may hold
_TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"
_SESSION = "_MLFLOW_TELEMETRY_SESSION_ID"
_STATUS = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


@dataclass
class MlflowTracker(Option):
    """logger=mlflow. `tracking_uri` null: MLFLOW_TRACKING_URI, or outputs/mlflow/mlflow.db."""

    NAME: ClassVar[str] = "mlflow"

    experiment: str = "ltx2"
    tracking_uri: str | None = None
    log_video: bool = True
    log_audio: bool = True
    log_sheet: bool = True
    _client: Any = field(default=None, init=False, repr=False)
    _id: str | None = field(default=None, init=False, repr=False)
    _folder: Path = field(default=Path(), init=False, repr=False)

    def __post_init__(self) -> None:
        self.check()
        need(self.NAME)

    def start(self, run: RunInfo, config: dict[str, Any]) -> None:
        """Create the run with its parameters."""
        self._folder = run.folder
        tags = {"cell": run.cell, "run": run.run, "tags": ",".join(run.tags)}
        self._begin(
            outputs_of(config), run.name, tags | ({"sweep": run.sweep} if run.sweep else {})
        )
        self._params(flat(shown(config)))

    def step(self, record: dict[str, Any]) -> None:
        """A point of the step curves, at the step of its stage."""
        self._metrics(step_values(record), record["step"])

    def finish(self, record: dict[str, Any]) -> None:
        """Log metrics and files, and end the run."""
        if self._id is None:
            return
        try:
            self._metrics(metric_values(record), 0)
            wanted = {"video": self.log_video, "audio": self.log_audio, "sheet": self.log_sheet}
            for kind, path in media(self._folder, record).items():
                if wanted.get(kind, False):
                    self._client.log_artifact(self._id, str(path))
            if (self._folder / "metrics.jsonl").is_file():
                self._client.log_artifact(self._id, str(self._folder / "metrics.jsonl"))
        finally:
            self._end(_STATUS.get(record["status"], "FAILED"))

    def finish_sweep(self, folder: Path, summary: dict[str, Any]) -> None:
        """A run with the table of the cells as results.json."""
        columns, rows = sweep_table(sweep_cells(folder, summary))
        table = {"columns": columns, "data": rows}
        self._begin(folder.parents[1], summary["sweep"], {"sweep": summary["sweep"]})
        try:
            self._client.log_text(self._id, json.dumps(table), "results.json")
            counts = {k: float(v) for k, v in summary.get("counts", {}).items()}
            self._metrics(counts, 0)
        finally:
            self._end(_STATUS.get(summary["status"], "FAILED"))

    def _begin(self, outputs: Path, name: str, tags: dict[str, str]) -> None:
        place = (outputs / "mlflow").resolve()
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            place.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{place / 'mlflow.db'}"
        if uri.startswith("http") and (reason := unreachable(uri)):
            raise ConnectionError(reason)
        with _own_environment():
            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of its tables
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(self.experiment)
            if found is not None:
                number = found.experiment_id
            else:
                files = (place / "files").as_uri() if uri.startswith("sqlite") else None
                number = self._client.create_experiment(self.experiment, files)
            self._id = self._client.create_run(number, run_name=name, tags=tags).info.run_id

    def _params(self, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in values.items()]
        for first in range(0, len(params), _BATCH):
            self._client.log_batch(self._id, params=params[first : first + _BATCH])

    def _metrics(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def _end(self, status: str) -> None:
        number, self._id = self._id, None
        self._client.set_terminated(number, status)


@contextmanager
def _own_environment() -> Iterator[None]:
    """MLflow reads the environment when imported, and leaves a variable behind: neither stays."""
    before = {key: os.environ.get(key) for key in (_TELEMETRY, _SESSION)}
    os.environ.setdefault(_TELEMETRY, "true")
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
