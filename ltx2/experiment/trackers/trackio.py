"""Trackio: the same curves, metrics and media in its local database, for `trackio show`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ltx2.experiment.trackers.base import (
    Option,
    RunInfo,
    flat,
    need,
    shown,
)
from ltx2.experiment.trackers.results import (
    curves,
    media,
    metric_values,
    step_values,
    sweep_cells,
    sweep_table,
)

log = logging.getLogger(__name__)


@dataclass
class TrackioTracker(Option):
    """logger=trackio. Everything stays in TRACKIO_DIR unless `space_id` names a Space.

    One project holds all runs; those of a sweep share its group.
    """

    NAME: ClassVar[str] = "trackio"

    project: str = "ltx2"
    group: str | None = None
    space_id: str | None = None
    log_video: bool = True
    log_sheet: bool = True
    _run: Any = field(default=None, init=False, repr=False)
    _folder: Path = field(default=Path(), init=False, repr=False)

    def __post_init__(self) -> None:
        self.check()
        need(self.NAME)

    def start(self, run: RunInfo, config: dict[str, Any]) -> None:
        """Open a run; runs of the same name are kept apart by their id."""
        self._folder = run.folder
        facts = {"cell": run.cell, "run": run.run, "tags": list(run.tags)}
        self._run = self._open(run.name, self.group or run.sweep, flat(shown(config)) | facts)

    def step(self, record: dict[str, Any]) -> None:
        """A point of the step curves."""
        self._run.log({f"{record['stage']}/step": record["step"]} | step_values(record))

    def finish(self, record: dict[str, Any]) -> None:
        """Log metrics, curves and media, and close the run."""
        import trackio

        run, self._run = self._run, None
        if run is None:
            return
        try:
            final: dict[str, Any] = {**metric_values(record), "status": record["status"]}
            for line in curves(self._folder):
                final[line["metric"]] = _table(["x", "y"], zip(line["x"], line["y"], strict=True))
            paths = media(self._folder, record)
            if self.log_video and paths.get("video", Path()).suffix in (".mp4", ".webm", ".gif"):
                final["video"] = trackio.Video(str(paths["video"]))
            if "audio" in paths:
                final["audio"] = trackio.Audio(str(paths["audio"]))
            if self.log_sheet and "sheet" in paths:
                final["frames"] = trackio.Image(str(paths["sheet"]))
            run.log(final)
        finally:
            run.finish()

    def finish_sweep(self, folder: Path, summary: dict[str, Any]) -> None:
        """A run with the table of the cells' values, status and metrics."""
        columns, rows = sweep_table(sweep_cells(folder, summary))
        run = self._open(summary["sweep"], self.group or summary["sweep"], {})
        try:
            run.log({"results": _table(columns, rows)})
        finally:
            run.finish()

    def _open(self, name: str, group: str | None, config: dict[str, Any]) -> Any:
        import trackio
        import trackio.run
        import trackio.utils

        for module in (trackio, trackio.run, trackio.utils):  # it talks on stdout
            vars(module)["print"] = _said
        return trackio.init(
            project=self.project,
            name=name,
            group=group,
            space_id=self.space_id,
            config=config,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )


def _table(columns: list[str], rows: Any) -> Any:
    import pandas
    import trackio

    return trackio.Table(dataframe=pandas.DataFrame([list(row) for row in rows], columns=columns))


def _said(*words: Any, **_: Any) -> None:
    log.debug("%s", " ".join(str(word) for word in words))
