"""LPIPS, a learnt distance of pictures (Zhang et al. 2018), with AlexNet in NumPy.

The published implementation needs torchvision. Ours needs one safetensors file with the tensors of
torchvision's AlexNet (`features.0.weight` ...) and of LPIPS 0.1 (`lin0.model.1.weight` ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ltx2.errors import UserError
from ltx2.experiment.metrics.base import Clip, Results, check_count, mean
from ltx2.experiment.metrics.similarity import Compared, Pair


@dataclass(frozen=True)
class Layer:
    """A convolution of AlexNet; `pooled` ones see maxima of 3 x 3 pixels, every second."""

    name: str
    shape: tuple[int, int, int, int]  # out, in, height, width
    stride: int
    padding: int
    pooled: bool


LAYERS = (
    Layer("features.0", (64, 3, 11, 11), 4, 2, False),
    Layer("features.3", (192, 64, 5, 5), 1, 2, True),
    Layer("features.6", (384, 192, 3, 3), 1, 1, True),
    Layer("features.8", (256, 384, 3, 3), 1, 1, False),
    Layer("features.10", (256, 256, 3, 3), 1, 1, False),
)
# Mean and deviation of ImageNet, for values in [-1, 1].
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
EPSILON = 1e-10
SMALLEST = 31  # AlexNet leaves nothing of smaller pictures.


@dataclass
class Lpips(Compared):
    """The distance, mean over every `every`-th frame; 0 for the same pictures.

    `path` is the weights file, `reference` a run folder or a media file.
    """

    path: str | None = None
    every: int = 4
    names: ClassVar = ("lpips",)

    def __post_init__(self) -> None:
        check_count("lpips.every", self.every)

    def prepare(self, clip: Clip) -> None:
        if min(clip.height, clip.width) < SMALLEST:
            raise UserError(
                f"metrics=lpips needs frames of at least {SMALLEST} pixels a side, this run makes"
                f" {clip.width}x{clip.height}; leave it out"
            )
        self._weights = read_weights(self.path)
        self._values: list[float] = []
        self._seen = 0

    def compare(self, pair: Pair) -> None:
        if self._seen % self.every == 0:
            self._values.append(distance(self._weights, pair.ours, pair.theirs))
        self._seen += 1

    def result(self) -> Results:
        return {"lpips": mean(self._values)}


def _expected() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, layer in enumerate(LAYERS):
        shapes[f"{layer.name}.weight"] = layer.shape
        shapes[f"{layer.name}.bias"] = layer.shape[:1]
        shapes[f"lin{index}.model.1.weight"] = (1, layer.shape[0], 1, 1)
    return shapes


def read_weights(path: str | None) -> dict[str, np.ndarray]:
    """Float32 tensors by name. Raises UserError for what is missing."""
    if not path:
        raise UserError(
            "metrics.lpips.path is not set; it needs local weights: a safetensors file with those"
            " of AlexNet and of LPIPS (docs/metrics.md says how to make it)"
        )
    from safetensors import SafetensorError, safe_open

    file = Path(path).expanduser()
    expected = _expected()
    try:
        with safe_open(file, framework="numpy") as tensors:
            present = set(tensors.keys())
            missing = [name for name in expected if name not in present]
            if missing:
                raise UserError(
                    f"metrics.lpips.path={path} lacks {len(missing)} tensors, first"
                    f" '{missing[0]}'; docs/metrics.md says how to make the file"
                )
            found = {name: tensors.get_tensor(name).astype(np.float32) for name in expected}
    except (OSError, SafetensorError) as error:
        raise UserError(f"metrics.lpips.path={path} cannot be read: {error}") from error
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise UserError(
                f"metrics.lpips.path={path}: {name} is {found[name].shape}, not {shape}"
            )
    return found


def distance(weights: dict[str, np.ndarray], ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of two pictures (H, W, 3) uint8."""
    total = 0.0
    pairs = zip(features(weights, ours), features(weights, theirs), strict=True)
    for index, (one, other) in enumerate(pairs):
        difference = np.square(_unit(one) - _unit(other)).mean(axis=(0, 1))
        total += float(difference @ weights[f"lin{index}.model.1.weight"].reshape(-1))
    return total


def features(weights: dict[str, np.ndarray], picture: np.ndarray) -> list[np.ndarray]:
    """(H, W, 3) uint8 -> what every convolution finds, (h, w, C) after ReLU."""
    values = (picture.astype(np.float32) / np.float32(127.5) - 1 - SHIFT) / SCALE
    found = []
    for layer in LAYERS:
        if layer.pooled:
            values = _patches(values, 3, 2).max(axis=(3, 4))
        values = _convolved(values, weights, layer)
        found.append(values)
    return found


def _convolved(values: np.ndarray, weights: dict[str, np.ndarray], layer: Layer) -> np.ndarray:
    edge = (layer.padding, layer.padding)
    patches = _patches(np.pad(values, (edge, edge, (0, 0))), layer.shape[2], layer.stride)
    rows, columns = patches.shape[:2]
    kernel = weights[f"{layer.name}.weight"].reshape(layer.shape[0], -1)
    found = patches.reshape(rows * columns, -1) @ kernel.T + weights[f"{layer.name}.bias"]
    return np.maximum(found, 0).reshape(rows, columns, -1)


def _patches(values: np.ndarray, size: int, stride: int) -> np.ndarray:
    """(H, W, C) -> (h, w, C, size, size), a view."""
    windows = np.lib.stride_tricks.sliding_window_view(values, (size, size), axis=(0, 1))
    return windows[::stride, ::stride]


def _unit(values: np.ndarray) -> np.ndarray:
    return values / (np.sqrt(np.square(values).sum(axis=2, keepdims=True)) + np.float32(EPSILON))
