"""What a metric is told and what it answers."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from ltx2.errors import UserError
from ltx2.experiment.metrics.picture import Picture

UNKNOWN = math.nan

# Frame indices, rows and columns at which a decode tile begins, the first one left out.
Seams = tuple[list[int], list[int], list[int]]


def no_seams() -> Seams:
    """A clip that was decoded whole."""
    return [], [], []


@dataclass(frozen=True)
class Clip:
    """What is known before the first frame; `height` and `width` are 0 without pictures.

    `seams` may be asked once frames arrive. `model` is its name, "" if that is not known.
    """

    prompt: str
    fps: float
    frames: int
    height: int
    width: int
    folder: Path
    seams: Callable[[], Seams] = no_seams
    model: str = ""

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


@dataclass(frozen=True)
class Curve:
    """A value over time, steps or the like; NaN where there is none."""

    x: list[float]
    y: list[float]
    x_unit: str
    y_unit: str

    def record(self) -> dict[str, Any]:
        """As a line of metrics.jsonl has it."""
        return dict(vars(self))


Results = dict[str, float | Curve]


class Metric(Protocol):
    """`names` are the numbers in every result, whatever was measured; a result may add more.

    `watches_steps`: it cannot do without `step`, so that no stage may come from the cache.
    """

    names: ClassVar[tuple[str, ...]]
    watches_steps: bool

    def start(self, clip: Clip) -> None:
        """Before anything is computed. Raises UserError for what is missing or does not fit."""

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        """The sound (2, N) float32, once, before the first frame."""

    def frame(self, picture: Picture) -> None:
        """The next frame."""

    def step(
        self, stage: str, index: int, video: np.ndarray | None, audio: np.ndarray | None
    ) -> None:
        """The latents after a sampling step."""

    def result(self) -> Results:
        """At the end; NaN where nothing could be measured."""


class Measure:
    """A metric that looks at nothing; metrics say what they look at."""

    names: ClassVar[tuple[str, ...]] = ()
    watches_steps = False

    def start(self, clip: Clip) -> None:
        """As `Metric.start`."""

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        """As `Metric.audio`."""

    def frame(self, picture: Picture) -> None:
        """As `Metric.frame`."""

    def step(
        self, stage: str, index: int, video: np.ndarray | None, audio: np.ndarray | None
    ) -> None:
        """As `Metric.step`."""

    def result(self) -> Results:
        """As `Metric.result`."""
        return {}


def mean(values: list[float]) -> float:
    """NaN for none."""
    return float(np.mean(values)) if values else UNKNOWN


def check_positive(key: str, value: Any) -> None:
    """Raise UserError unless the setting metrics.`key` is a number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise UserError(f"metrics.{key}={value} is not a number above 0")


def check_number(key: str, value: Any) -> None:
    """Raise UserError unless the setting metrics.`key` is a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise UserError(f"metrics.{key}={value} is not a number")


def check_count(key: str, value: Any) -> None:
    """Raise UserError unless the setting metrics.`key` is a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"metrics.{key}={value} is not a whole number from 1 on")


def needed(module: str, package: str, metric: str) -> Any:
    """The imported `module`, or a UserError that names the `package` to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"metrics={metric} needs {package}; pip install 'ltx2[metrics]'") from error
