"""What the text towers of Gemma 3 and Gemma 4 share: token ids to all hidden states.

Only language models are here; vision and audio towers are never declared, so never read. Spec:
text.md sections 3 to 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.models.gemma_config import LOCAL, RopeScale, TextConfig
from ltx2.nn.layers import Linear
from ltx2.nn.module import Param
from ltx2.ops import Array


@dataclass
class Embedding:
    """Rows of a table, times a constant."""

    weight: Array  # (vocabulary, C)
    scale: float

    @classmethod
    def declare(cls, config: TextConfig) -> Embedding:
        return cls(Param((config.vocabulary, config.hidden)), math.sqrt(config.hidden))

    def __call__(self, ids: np.ndarray) -> Array:
        """ids (B, T) -> (B, T, C)."""
        # The constant is rounded to the dtype of the table first: 62.0 for the 12B in bf16.
        scale = ops.asarray(np.array([self.scale], np.float32), self.weight)
        return ops.take(self.weight, ids, axis=0) * ops.like(scale, self.weight)


@dataclass
class GemmaMLP:
    """down_proj(gelu(gate_proj(x)) * up_proj(x))."""

    gate_proj: Linear
    up_proj: Linear
    down_proj: Linear

    @classmethod
    def declare(cls, width: int, inner: int) -> GemmaMLP:
        return cls(
            Linear.declare(width, inner, bias=False),
            Linear.declare(width, inner, bias=False),
            Linear.declare(inner, width, bias=False),
        )

    def __call__(self, x: Array) -> Array:
        return self.down_proj(ops.gelu(self.gate_proj(x)) * self.up_proj(x))


@dataclass(frozen=True)
class Span:
    """What attention of one layer type needs: rotary tables (T, D/2) and which keys are seen.

    `bias` (B or 1, 1, T, T) is additive; without it attention is plainly causal, or sees every key.
    """

    cos: Array
    sin: Array
    bias: Array | None
    causal: bool

    def rotate(self, x: Array) -> Array:
        """x (B, N, T, D): the first half of D turns against the second."""
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        return ops.concat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], axis=-1)


@dataclass
class KeyValues:
    """Keys and values (B, N', S, D) of the tokens that one layer has seen, for generation."""

    window: int | None  # tokens a query sees, itself included; None for all
    k: Array | None = None
    v: Array | None = None

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Those kept and the new ones; keeps what the window of the next token can see."""
        if self.k is not None and self.v is not None:
            k, v = ops.concat([self.k, k], axis=2), ops.concat([self.v, v], axis=2)
        first = 0 if self.window is None else max(0, k.shape[2] - (self.window - 1))
        self.k, self.v = k[:, :, first:], v[:, :, first:]
        return k, v


@dataclass
class GemmaTower:
    """Embedding, layers and final norm; a family's own class declares them."""

    embed_tokens: Embedding
    layers: list[Any]
    norm: Any
    config: TextConfig
    streamed: bool = False  # the layers' weights are there only while a layer runs

    def __call__(
        self, ids: np.ndarray, mask: np.ndarray | None = None, start: int = 0
    ) -> list[Array]:
        """Token ids (B, T) -> layers + 1 hidden states (B, T, C).

        The first is the scaled embedding, the last has the final norm. `mask` (B, T) is 1 for
        tokens and 0 for padding, on either side; states at padding mean nothing but are finite.
        `start` is the position of the first token: only differences matter, but for rounding.
        """
        x = self.embed_tokens(ids)
        states = [x]
        spans = self.spans(ids.shape[1], x, mask, start)
        for index, layer in enumerate(self.layers):
            x = layer(x, spans[layer.kind])
            self.settle(index, x)
            states.append(x)
        states[-1] = self.norm(x)
        return states

    def settle(self, index: int, x: Array) -> None:
        """What a lazy backend may, or with streamed weights must, compute after a layer."""
        ops.evaluate(x) if self.streamed else ops.settle(index, x)

    def spans(
        self, tokens: int, ref: Array, mask: np.ndarray | None = None, start: int = 0
    ) -> dict[str, Span]:
        """For attention among `tokens` tokens from position `start`, by layer type."""
        spans = {}
        for kind in sorted(set(self.config.layer_types)):
            bias = host_bias(tokens, self.window(kind), mask)
            place = None if bias is None else ops.asarray(bias, ref)
            spans[kind] = Span(*self._tables(kind, start, tokens, ref), place, bias is None)
        return spans

    def spans_at(self, position: int, ref: Array) -> dict[str, Span]:
        """For the one token at `position`, which sees all that the layers' `KeyValues` hold."""
        return {
            kind: Span(*self._tables(kind, position, 1, ref), None, False)
            for kind in sorted(set(self.config.layer_types))
        }

    def window(self, kind: str) -> int | None:
        """Tokens that a query of this layer type sees; None for all before it."""
        return self.config.window if kind == LOCAL else None

    def _tables(self, kind: str, start: int, tokens: int, ref: Array) -> tuple[Array, Array]:
        cos, sin = host_tables(tokens, self.config.width(kind), self.config.rope(kind), start)
        return ops.like(ops.asarray(cos, ref), ref), ops.like(ops.asarray(sin, ref), ref)


def host_tables(
    tokens: int, head_dim: int, scale: RopeScale, start: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (T, D/2) of positions start..start+T-1, float32; 1 and 0 where nothing turns."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequency = (scale.theta**-exponent / scale.factor).astype(np.float32)
    frequency[int(scale.share * head_dim // 2) :] = 0
    position = np.arange(start, start + tokens, dtype=np.float32)
    angle = (position[:, None] * frequency).astype(np.float64)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def host_bias(tokens: int, window: int | None, mask: np.ndarray | None) -> np.ndarray | None:
    """0 where a query sees a key, -inf elsewhere, (B or 1, 1, T, T); None for plain causal.

    A token sees itself and the `window` - 1 tokens before it. Padding sees itself as well: a row
    without any key would be NaN.
    """
    padded = mask is not None and not np.all(mask)
    if not padded and (window is None or tokens <= window):
        return None
    distance = np.arange(tokens)[:, None] - np.arange(tokens)
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    seen = seen[None]
    if padded:
        seen = (seen & np.asarray(mask, bool)[:, None]) | (distance == 0)
    return np.where(seen, 0.0, -np.inf).astype(np.float32)[:, None]
