"""Gemma 3 text tower: token ids to all hidden states (spec text.md sections 3 and 5).

Only the language model is here; the vision tower is never declared, so it is never read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ltx2 import ops
from ltx2.models.gemma_config import LOCAL, GemmaConfig, RopeScale
from ltx2.nn.attention import merge_heads, split_heads
from ltx2.nn.layers import Linear
from ltx2.nn.module import Param
from ltx2.ops import Array


@dataclass
class GemmaNorm:
    """RMS norm in float32 with the factor 1 + weight; the weight stays float32."""

    weight: Array  # (C,), stored minus one
    eps: float

    @classmethod
    def declare(cls, width: int, eps: float) -> GemmaNorm:
        return cls(Param((width,), dtype="fp32"), eps)

    def __call__(self, x: Array) -> Array:
        return ops.like(ops.rms_norm(ops.f32(x), 1 + self.weight, self.eps), x)


@dataclass
class Embedding:
    """Rows of a table, times a constant."""

    weight: Array  # (vocabulary, C)
    scale: float

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
class GemmaAttention:
    """Causal attention; neighbouring query heads share a key/value head."""

    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    o_proj: Linear
    q_norm: GemmaNorm
    k_norm: GemmaNorm
    heads: int
    kv_heads: int
    scale: float

    @classmethod
    def declare(cls, config: GemmaConfig) -> GemmaAttention:
        inner, shared = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return cls(
            q_proj=Linear.declare(config.hidden, inner, bias=False),
            k_proj=Linear.declare(config.hidden, shared, bias=False),
            v_proj=Linear.declare(config.hidden, shared, bias=False),
            o_proj=Linear.declare(inner, config.hidden, bias=False),
            q_norm=GemmaNorm.declare(config.head_dim, config.eps),
            k_norm=GemmaNorm.declare(config.head_dim, config.eps),
            heads=config.heads,
            kv_heads=config.kv_heads,
            scale=config.query_scalar**-0.5,
        )

    def __call__(self, x: Array, span: Span, cache: KeyValues | None = None) -> Array:
        """(B, T, C) -> (B, T, C). With a filled `cache`, T is 1."""
        q = span.rotate(self.q_norm(split_heads(self.q_proj(x), self.heads)))
        k = span.rotate(self.k_norm(split_heads(self.k_proj(x), self.kv_heads)))
        v = split_heads(self.v_proj(x), self.kv_heads)
        if cache is not None:
            k, v = cache.extend(k, v)
        out = ops.attention(q, k, v, span.bias, span.causal, self.scale)
        return self.o_proj(merge_heads(out))


@dataclass
class GemmaLayer:
    """Attention and MLP, each normalised before and after."""

    input_layernorm: GemmaNorm
    self_attn: GemmaAttention
    post_attention_layernorm: GemmaNorm
    pre_feedforward_layernorm: GemmaNorm
    mlp: GemmaMLP
    post_feedforward_layernorm: GemmaNorm
    kind: str

    @classmethod
    def declare(cls, config: GemmaConfig, kind: str) -> GemmaLayer:
        def norm() -> GemmaNorm:
            return GemmaNorm.declare(config.hidden, config.eps)

        attention = GemmaAttention.declare(config)
        mlp = GemmaMLP.declare(config.hidden, config.intermediate)
        return cls(norm(), attention, norm(), norm(), mlp, norm(), kind)

    def __call__(self, x: Array, span: Span, cache: KeyValues | None = None) -> Array:
        y = self.self_attn(self.input_layernorm(x), span, cache)
        x = x + self.post_attention_layernorm(y)
        y = self.mlp(self.pre_feedforward_layernorm(x))
        return x + self.post_feedforward_layernorm(y)


@dataclass
class Gemma3:
    """The text tower."""

    embed_tokens: Embedding
    layers: list[GemmaLayer]
    norm: GemmaNorm
    config: GemmaConfig

    @classmethod
    def declare(cls, config: GemmaConfig) -> Gemma3:
        table = Param((config.vocabulary, config.hidden))
        return cls(
            embed_tokens=Embedding(table, math.sqrt(config.hidden)),
            layers=[GemmaLayer.declare(config, kind) for kind in config.layer_types],
            norm=GemmaNorm.declare(config.hidden, config.eps),
            config=config,
        )

    def __call__(self, ids: np.ndarray, mask: np.ndarray | None = None) -> list[Array]:
        """Token ids (B, T) -> layers + 1 hidden states (B, T, C).

        The first is the scaled embedding, the last has the final norm. `mask` (B, T) is 1 for
        tokens and 0 for padding, on either side; states at padding mean nothing but are finite.
        """
        x = self.embed_tokens(ids)
        states = [x]
        spans = self.spans(ids.shape[1], x, mask)
        for index, layer in enumerate(self.layers):
            x = layer(x, spans[layer.kind])
            ops.settle(index, x)
            states.append(x)
        states[-1] = self.norm(x)
        return states

    def spans(self, tokens: int, ref: Array, mask: np.ndarray | None = None) -> dict[str, Span]:
        """For attention among `tokens` tokens from position 0, by layer type."""
        spans = {}
        for kind in sorted(set(self.config.layer_types)):
            bias = host_bias(tokens, self.window(kind), mask)
            place = None if bias is None else ops.asarray(bias, ref)
            spans[kind] = Span(*self._tables(kind, 0, tokens, ref), place, bias is None)
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
        scale = self.config.local_rope if kind == LOCAL else self.config.global_rope
        cos, sin = host_tables(tokens, self.config.head_dim, scale, start)
        return ops.like(ops.asarray(cos, ref), ref), ops.like(ops.asarray(sin, ref), ref)


def host_tables(
    tokens: int, head_dim: int, scale: RopeScale, start: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (T, D/2) of positions start..start+T-1, float32."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequency = (scale.theta**-exponent / scale.factor).astype(np.float32)
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
