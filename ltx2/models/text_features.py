"""Hidden states of the text encoder to features for the connectors (spec text.md section 6).

Both extractors see the tokens of one prompt without padding, so nothing has to be masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.nn.layers import Linear
from ltx2.ops import Array

EPS = 1e-6
# Beyond any hidden state, yet finite.
HUGE = 1e30
SEPARATE = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
}


@dataclass
class SharedFeatures:
    """LTX-2: range normalisation per prompt and layer, one projection for both streams."""

    aggregate_embed: Linear

    @classmethod
    def declare(cls, width: int, video: int, audio: int) -> SharedFeatures:
        if video != audio:
            raise UserError(
                f"the connectors are {video} (video) and {audio} (audio) wide, but this model has"
                " one text projection for both"
            )
        return cls(Linear.declare(width, video, bias=False))

    def __call__(
        self, states: Sequence[Array], lengths: np.ndarray | None = None
    ) -> tuple[Array, Array]:
        """Hidden states, each (B, n, C) -> video and audio features (B, n, D).

        `lengths` (B,): tokens of each prompt, which come first; features after them are arbitrary.
        """
        seen = None
        if lengths is not None:
            seen = np.arange(states[0].shape[1]) < lengths[:, None]
        flat = _flatten(states, lambda x: _by_range(x, seen), self.aggregate_embed.weight)
        features = self.aggregate_embed(flat)
        return features, features


@dataclass
class SeparateFeatures:
    """LTX-2.3 and later: RMS normalisation per token and layer, a projection for each stream."""

    video_aggregate_embed: Linear
    audio_aggregate_embed: Linear

    @classmethod
    def declare(cls, width: int, video: int, audio: int) -> SeparateFeatures:
        return cls(Linear.declare(width, video), Linear.declare(width, audio))

    def __call__(
        self, states: Sequence[Array], lengths: np.ndarray | None = None
    ) -> tuple[Array, Array]:
        """Hidden states, each (B, n, C) -> video (B, n, D) and audio (B, n, D') features.

        Tokens are normalised one by one, so `lengths` changes nothing.
        """
        return (
            _project(states, self.video_aggregate_embed),
            _project(states, self.audio_aggregate_embed),
        )


Features = SharedFeatures | SeparateFeatures


def features_class(section: Mapping[str, Any]) -> type[SharedFeatures] | type[SeparateFeatures]:
    """The extractor that the `transformer` section of the metadata selects.

    Raises UserError for a mixture of the keys.
    """
    given = {key: section[key] for key in SEPARATE if key in section}
    if not given:
        return SharedFeatures
    if given == SEPARATE:
        return SeparateFeatures
    listing = ", ".join(f"{key}={section.get(key, 'absent')}" for key in SEPARATE)
    raise UserError(
        f"unknown text feature extractor: {listing}; all four must be absent (LTX-2), or true,"
        " false, false, false (LTX-2.3 and later)"
    )


def _project(states: Sequence[Array], linear: Linear) -> Array:
    scale = math.sqrt(linear.weight.shape[0] / states[0].shape[-1])
    return linear(_flatten(states, lambda x: ops.rms_norm(x, None, EPS) * scale, linear.weight))


def _by_range(x: Array, seen: np.ndarray | None) -> Array:
    """(B, n, C) float32: 8 (x - mean) / (max - min) over all tokens and channels of a prompt.

    Where `seen` (B, n) is given, over the tokens that it marks.
    """
    if seen is None:
        count = x.shape[1] * x.shape[2]
        mean = x.sum(axis=(1, 2))[:, None, None] / (count + EPS)
        return 8 * (x - mean) / (ops.amax(x, (1, 2)) - ops.amin(x, (1, 2)) + EPS)
    counts = (seen.sum(1) * x.shape[2] + EPS).astype(np.float32)[:, None, None]
    mask = ops.asarray(seen[..., None], x)
    mean = ops.where(mask, x, 0.0).sum(axis=(1, 2))[:, None, None] / ops.asarray(counts, x)
    high = ops.amax(ops.where(mask, x, -HUGE), (1, 2))
    low = ops.amin(ops.where(mask, x, HUGE), (1, 2))
    return 8 * (x - mean) / (high - low + EPS)


def _flatten(states: Sequence[Array], normalise: Callable[[Array], Array], ref: Array) -> Array:
    """L states (B, n, C) -> (B, n, C*L) in the dtype of `ref`, the layer index fastest."""
    layers = [ops.like(normalise(ops.f32(x)), ref) for x in states]
    return ops.stack(layers, axis=-1).reshape(*states[0].shape[:2], -1)
