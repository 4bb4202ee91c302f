"""Hydra's callback that tells which folder a sweep is about to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from ltx2.app.folders import begin_sweep


class SweepFolder(Callback):
    """Hydra makes the folder before it composes the jobs; this is called just before that."""

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        begin_sweep(Path(config.hydra.sweep.dir), Path(config.paths.outputs))
