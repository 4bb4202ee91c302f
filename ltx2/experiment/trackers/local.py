"""The tracker that is always on: steps.jsonl while the run samples, and its row in the index."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any, TextIO

from ltx2.experiment.index import Row, begun, ended, write
from ltx2.experiment.record import to_json
from ltx2.experiment.trackers.base import RunInfo

log = logging.getLogger(__name__)

STEPS = "steps.jsonl"


class LocalTracker:
    """Appends every step to steps.jsonl at once; tells outputs/index.sqlite of start and end."""

    def __init__(self, outputs: str | Path) -> None:
        self._outputs = Path(outputs)
        self._steps: TextIO | None = None
        self._row: Row | None = None

    def start(self, run: RunInfo, config: dict[str, Any]) -> None:
        """Begin a new steps.jsonl, in place of the one of an earlier attempt."""
        self._row = begun(self._outputs, run, config)
        write(self._outputs, self._row)
        self._steps = (run.folder / STEPS).open("w", encoding="utf-8", buffering=1)

    def step(self, record: dict[str, Any]) -> None:
        """One line, readable by others as soon as this returns."""
        if self._steps is None:
            return
        try:
            self._steps.write(to_json(record) + "\n")
        except OSError as error:  # a full disk; the index is still told of the end
            steps, self._steps = self._steps, None
            with contextlib.suppress(OSError):
                steps.close()
            log.warning("%s is cut short: %s", steps.name, error.strerror or error)

    def finish(self, record: dict[str, Any]) -> None:
        """Close the file; a run without steps leaves none."""
        row, self._row = self._row, None
        steps, self._steps = self._steps, None
        if steps is not None:
            with contextlib.suppress(OSError):  # a full disk: what is left in its buffer
                steps.close()
            path = Path(steps.name)  # a run that left nothing has removed it already
            if path.is_file() and path.stat().st_size == 0:
                path.unlink()
        if row is not None:
            write(self._outputs, ended(row, record))

    def finish_sweep(self, folder: Path, summary: dict[str, Any]) -> None:
        """Nothing: plan.json and summary.json are the sweep's own."""
