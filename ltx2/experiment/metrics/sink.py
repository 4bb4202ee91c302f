"""A sink that measures what passes through it; metrics never fail a run that has begun."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ltx2.experiment.metrics.base import UNKNOWN, Clip, Curve, Metric, Results
from ltx2.experiment.metrics.picture import Picture
from ltx2.experiment.record import to_json, write_text
from ltx2.experiment.sink import ClipSink, SoundSink

log = logging.getLogger(__name__)


class MetricSink:
    """Passes sound and frames on to `sink` and shows them to `metrics`, which are started here.

    Raises the UserError of a metric that cannot start. One that raises later is disabled with a
    warning, and its numbers are NaN. `seconds` is the time spent in metrics.
    """

    def __init__(
        self, sink: ClipSink | SoundSink, metrics: Mapping[str, Metric], clip: Clip
    ) -> None:
        self.sink = sink
        self.seconds = 0.0
        self._metrics = dict(metrics)
        self._failed: dict[str, Metric] = {}
        self._previous: np.ndarray | None = None
        for metric in self._metrics.values():
            metric.start(clip)

    @property
    def path(self) -> Path:
        return self.sink.path

    @property
    def carries_comment(self) -> bool:
        return self.sink.carries_comment

    def __enter__(self) -> Self:
        self.sink.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sink.__exit__(kind, error, trace)

    def write_sheet(self) -> Path | None:
        """As the sink's."""
        return self.sink.write_sheet()

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        """The sound (2, N)."""
        self.sink.audio(waveform, rate)
        with self._timed():
            self._each(lambda metric: metric.audio(waveform, rate))

    def frames(self, chunk: np.ndarray) -> None:
        """A chunk (f, H, W, 3) in [0, 1]."""
        self.sink.frames(chunk)
        if not self._metrics:
            return
        with self._timed():
            for rgb in chunk:
                self._show(Picture(rgb, self._previous))

    def _show(self, picture: Picture) -> None:
        self._each(lambda metric: metric.frame(picture))
        self._previous = picture.luma

    def step(
        self, stage: str, index: int, video: np.ndarray | None, audio: np.ndarray | None
    ) -> None:
        """The latents after a sampling step."""
        with self._timed():
            self._each(lambda metric: metric.step(stage, index, video, audio))

    def results(self) -> Results:
        """All numbers and curves; of two metrics with the same name the first counts."""
        found: Results = {}

        def collect(metric: Metric) -> None:
            for name, value in metric.result().items():
                found.setdefault(name, value)

        with self._timed():
            self._each(collect)
        for metric in self._failed.values():
            for name in metric.names:
                found.setdefault(name, UNKNOWN)
        return found

    def _each(self, use: Callable[[Metric], None]) -> None:
        for name, metric in list(self._metrics.items()):
            try:
                use(metric)
            except Exception as error:  # a clip is worth more than a number about it
                log.warning("metrics=%s is off: %s: %s", name, type(error).__name__, error)
                self._failed[name] = self._metrics.pop(name)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def numbers(results: Results) -> dict[str, float]:
    """The single values among `results`, for run.json; NaN becomes null there."""
    return {name: value for name, value in results.items() if not isinstance(value, Curve)}


def write_metrics(folder: Path, results: Results) -> Path:
    """metrics.jsonl in `folder`, whole or not at all: a line per number or curve."""
    path = folder / "metrics.jsonl"
    write_text(path, "".join(f"{to_json(_line(*item))}\n" for item in results.items()))
    return path


def _line(name: str, value: float | Curve) -> dict[str, Any]:
    return {"metric": name} | (value.record() if isinstance(value, Curve) else {"value": value})
