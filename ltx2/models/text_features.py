"""Hidden states of the text encoder to features for the connectors (spec text.md section 6).

Both extractors see the tokens of one prompt without padding, so nothing has to be masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.nn.layers import Linear
from ltx2.ops import Array

EPS = 1e-6
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

    def __call__(self, states: Sequence[Array]) -> tuple[Array, Array]:
        """Hidden states, each (B, n, C) -> video and audio features (B, n, D)."""
        features = self.aggregate_embed(_flatten(states, _by_range, self.aggregate_embed.weight))
        return features, features


@dataclass
class SeparateFeatures:
    """LTX-2.3 and later: RMS normalisation per token and layer, a projection for each stream."""

    video_aggregate_embed: Linear
    audio_aggregate_embed: Linear

    @classmethod
    def declare(cls, width: int, video: int, audio: int) -> SeparateFeatures:
        return cls(Linear.declare(width, video), Linear.declare(width, audio))

    def __call__(self, states: Sequence[Array]) -> tuple[Array, Array]:
        """Hidden states, each (B, n, C) -> video (B, n, D) and audio (B, n, D') features."""
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


def _by_range(x: Array) -> Array:
    """(B, n, C) float32: 8 (x - mean) / (max - min) over all tokens and channels of a prompt."""
    count = x.shape[1] * x.shape[2]
    mean = x.sum(axis=(1, 2))[:, None, None] / (count + EPS)
    spread = ops.amax(x, (1, 2)) - ops.amin(x, (1, 2))
    return 8 * (x - mean) / (spread + EPS)


def _flatten(states: Sequence[Array], normalise: Callable[[Array], Array], ref: Array) -> Array:
    """L states (B, n, C) -> (B, n, C*L) in the dtype of `ref`, the layer index fastest."""
    layers = [ops.like(normalise(ops.f32(x)), ref) for x in states]
    return ops.stack(layers, axis=-1).reshape(*states[0].shape[:2], -1)
