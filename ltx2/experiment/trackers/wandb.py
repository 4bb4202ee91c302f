"""Weights & Biases: a run per run, grouped by sweep, and a run with the table of a sweep's results.

Without a key or a network the run is written to outputs/wandb/offline-run-*, for `wandb sync`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from ltx2.errors import UserError, nearest
from ltx2.experiment.trackers.base import (
    Option,
    RunInfo,
    need,
    outputs_of,
    shown,
)
from ltx2.experiment.trackers.network import has_login, unreachable
from ltx2.experiment.trackers.results import (
    curves,
    media,
    metric_values,
    step_values,
    sweep_cells,
    sweep_table,
)

log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline")
PLAYABLE = (".mp4", ".webm", ".gif")
_no_answer: dict[str, str] = {}  # servers that were tried in vain; a sweep tries once


@dataclass
class WandbTracker(Option):
    """logger=wandb. mode: auto is online with a key, else offline; so is online without a network.

    `init_timeout` and `finish_timeout` are the seconds a server has to answer and to take what is
    left at the end; then the files stay here for `wandb sync`.
    """

    NAME: ClassVar[str] = "wandb"

    project: str = "ltx2"
    entity: str | None = None
    mode: str = "auto"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    log_video: bool = True
    log_audio: bool = True
    log_sheet: bool = True
    base_url: str | None = None
    init_timeout: float = 8.0
    finish_timeout: float = 60.0
    _run: Any = field(default=None, init=False, repr=False)
    _folder: Path = field(default=Path(), init=False, repr=False)
    _outputs: Path = field(default=Path("outputs"), init=False, repr=False)
    _stages: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self.check()
        if self.mode not in MODES:
            hint = nearest(self.mode, MODES)
            raise UserError(
                f"logger.wandb.mode={self.mode} is unknown{hint}; use {', '.join(MODES)}"
            )
        need(self.NAME)

    def start(self, run: RunInfo, config: dict[str, Any]) -> None:
        """Open the W&B run."""
        self._folder, self._outputs, self._stages = run.folder, outputs_of(config), set()
        private = shown(config) is not config
        self._run = self._open(
            private,
            id=run.run,
            name=run.name,
            group=self.group or run.sweep,
            job_type=config.get("task", "generate"),
            tags=[*run.tags, *self.tags],
            config=shown(config) | {"cell": run.cell},
        )

    def step(self, record: dict[str, Any]) -> None:
        """A point of the step curves, on the step axis of its stage."""
        stage = record["stage"]
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/step", hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": record["step"]} | step_values(record))

    def finish(self, record: dict[str, Any]) -> None:
        """Log media, curves and metrics, and close the run."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            shown_media = self._media(media(self._folder, record))
            shown_media |= {line["metric"]: _plot(line) for line in curves(self._folder)}
            if shown_media:
                run.log(shown_media)
            run.summary.update({**metric_values(record), "status": record["status"]})
        finally:
            self._close(run, 0 if record["status"] == "completed" else 1)

    def finish_sweep(self, folder: Path, summary: dict[str, Any]) -> None:
        """A run of job_type sweep with a table: values, status, metrics and video of each cell."""
        import wandb

        self._outputs = folder.parents[1]
        cells = sweep_cells(folder, summary)
        columns, rows = sweep_table(cells)
        names: list[str | int] = [*columns, "video", "error"]
        table = wandb.Table(columns=names)
        for cell, row in zip(cells, rows, strict=True):
            clip = self._media(media(cell.folder, cell.record)).get("video")
            table.add_data(*row, clip, cell.error)
        run = self._open(
            private=True,
            id=summary["sweep"],
            name=summary["sweep"],
            group=self.group or summary["sweep"],
            job_type="sweep",
            tags=self.tags,
        )
        try:
            run.log({"results": table})
            run.summary.update({"status": summary["status"], **summary.get("counts", {})})
        finally:
            self._close(run, 0 if summary["status"] == "completed" else 1)

    def _open(self, private: bool, **about: Any) -> Any:
        import wandb

        before = os.environ.get("WANDB_SERVICE")
        try:
            quiet = wandb.Settings(silent=True, console="off")
            known = wandb.setup(quiet).settings
            mode = self._mode(known)
            if mode == "offline":  # the library's own telemetry is off then, too
                wandb.setup(wandb.Settings(mode="offline"))
            settings = self._settings(private)
            about |= {"project": self.project, "entity": self.entity, "notes": self.notes}
            about |= {"reinit": "create_new", "settings": settings}
            if "WANDB_DIR" not in os.environ:
                self._outputs.mkdir(parents=True, exist_ok=True)
                about["dir"] = str(self._outputs)
            try:
                return wandb.init(mode=mode, **about)  # type: ignore[arg-type]
            except (wandb.Error, OSError) as error:
                if mode == "offline":
                    raise
                self._go_offline(self.base_url or known.base_url, str(error).splitlines()[0])
                about["id"] += "-offline"  # the failed one may still be taken
                return wandb.init(mode="offline", **about)
        finally:  # its processes find it by other means; ours should not inherit it
            if before is None:
                os.environ.pop("WANDB_SERVICE", None)

    def _settings(self, private: bool) -> Any:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_save_requirements=False,
            x_disable_meta=private,  # it holds the command with its prompt
            x_disable_machine_info=private,
            init_timeout=self.init_timeout,
            finish_timeout=self.finish_timeout,
            finish_timeout_raises=True,
        )
        if self.base_url is not None:
            settings.base_url = self.base_url
        return settings

    def _mode(self, settings: Any) -> str:
        """online or offline (or what WANDB_MODE says), with a warning if no server answers."""
        url = self.base_url or settings.base_url
        mode = self.mode
        if mode == "auto":
            key = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
            found = key or settings.api_key or has_login(urlsplit(url).hostname or "")
            mode = os.environ.get("WANDB_MODE") or ("online" if found else "offline")
        if mode == "online" and url not in _no_answer and (reason := unreachable(url)):
            self._go_offline(url, reason)
        return "offline" if mode == "online" and url in _no_answer else mode

    def _go_offline(self, url: str, reason: str) -> None:
        _no_answer[url] = reason
        log.warning("wandb: %s; logging offline to %s/wandb", reason, self._outputs)

    def _close(self, run: Any, exit_code: int) -> None:
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError as error:
            folder = Path(run.settings.sync_dir)
            raise TimeoutError(f"not everything was sent; wandb sync {folder}") from error

    def _media(self, paths: dict[str, Path]) -> dict[str, Any]:
        """W&B objects of the files that were asked for; they are copied, not encoded again."""
        import wandb

        found: dict[str, Any] = {}
        if self.log_video and "video" in paths and paths["video"].suffix in PLAYABLE:
            ending = paths["video"].suffix.removeprefix(".")
            found["video"] = wandb.Video(str(paths["video"]), format=ending)  # type: ignore[arg-type]
        if self.log_audio and "audio" in paths:
            found["audio"] = wandb.Audio(str(paths["audio"]))
        if self.log_sheet and "sheet" in paths:
            found["frames"] = wandb.Image(str(paths["sheet"]))
        return found


def _plot(line: dict[str, Any]) -> Any:
    import wandb

    x, y = line.get("x_unit", "x"), line.get("y_unit", "y")
    y = f"{y} " if y == x else y  # columns need names of their own
    points = [list(point) for point in zip(line["x"], line["y"], strict=True)]
    table = wandb.Table(columns=[x, y], data=points, allow_mixed_types=True)
    return wandb.plot.line(table, x, y, title=line["metric"])
