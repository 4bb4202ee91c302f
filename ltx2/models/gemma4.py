"""Gemma 4 text tower of LTX-2.5 (spec text.md section 4).

Unlike Gemma 3: plain norm weights, unscaled scores, normalised values, layers of two head sizes
and a factor on every layer's output. It encodes only; this fine-tune does not generate text.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltx2 import ops
from ltx2.models.gemma4_config import Gemma4Config
from ltx2.models.gemma_config import LOCAL
from ltx2.models.gemma_tower import Embedding, GemmaMLP, GemmaTower, Span
from ltx2.nn.attention import merge_heads, split_heads
from ltx2.nn.layers import Linear
from ltx2.nn.module import Param
from ltx2.ops import Array


@dataclass
class Gemma4Norm:
    """RMS norm in float32; the weight stays float32."""

    weight: Array  # (C,)
    eps: float

    @classmethod
    def declare(cls, width: int, eps: float) -> Gemma4Norm:
        return cls(Param((width,), dtype="fp32"), eps)

    def __call__(self, x: Array) -> Array:
        return ops.like(ops.rms_norm(ops.f32(x), self.weight, self.eps), x)


@dataclass
class Gemma4Attention:
    """Causal attention; without `v_proj` the values are the keys before norm and rotation."""

    q_proj: Linear
    k_proj: Linear
    v_proj: Linear | None
    o_proj: Linear
    q_norm: Gemma4Norm
    k_norm: Gemma4Norm
    heads: int
    kv_heads: int
    eps: float

    @classmethod
    def declare(cls, config: Gemma4Config, kind: str) -> Gemma4Attention:
        width, kv_heads = config.width(kind), config.kv_heads(kind)
        inner, shared = config.heads * width, kv_heads * width
        own_values = kind == LOCAL or not config.values_are_keys
        return cls(
            q_proj=Linear.declare(config.hidden, inner, bias=False),
            k_proj=Linear.declare(config.hidden, shared, bias=False),
            v_proj=Linear.declare(config.hidden, shared, bias=False) if own_values else None,
            o_proj=Linear.declare(inner, config.hidden, bias=False),
            q_norm=Gemma4Norm.declare(width, config.eps),
            k_norm=Gemma4Norm.declare(width, config.eps),
            heads=config.heads,
            kv_heads=kv_heads,
            eps=config.eps,
        )

    def __call__(self, x: Array, span: Span) -> Array:
        """(B, T, C) -> (B, T, C)."""
        q = split_heads(self.q_proj(x), self.heads)
        k = split_heads(self.k_proj(x), self.kv_heads)
        v = k if self.v_proj is None else split_heads(self.v_proj(x), self.kv_heads)
        v = ops.like(ops.rms_norm(ops.f32(v), None, self.eps), v)
        q, k = span.rotate(self.q_norm(q)), span.rotate(self.k_norm(k))
        return self.o_proj(merge_heads(ops.attention(q, k, v, span.bias, span.causal, 1.0)))


@dataclass
class Gemma4Layer:
    """Attention and MLP, each normalised before and after; then the whole stream is scaled."""

    input_layernorm: Gemma4Norm
    self_attn: Gemma4Attention
    post_attention_layernorm: Gemma4Norm
    pre_feedforward_layernorm: Gemma4Norm
    mlp: GemmaMLP
    post_feedforward_layernorm: Gemma4Norm
    layer_scalar: Array  # (1,)
    kind: str

    @classmethod
    def declare(cls, config: Gemma4Config, kind: str) -> Gemma4Layer:
        def norm() -> Gemma4Norm:
            return Gemma4Norm.declare(config.hidden, config.eps)

        attention = Gemma4Attention.declare(config, kind)
        mlp = GemmaMLP.declare(config.hidden, config.intermediate)
        return cls(norm(), attention, norm(), norm(), mlp, norm(), Param((1,)), kind)

    def __call__(self, x: Array, span: Span) -> Array:
        y = self.self_attn(self.input_layernorm(x), span)
        x = x + self.post_attention_layernorm(y)
        y = self.mlp(self.pre_feedforward_layernorm(x))
        return (x + self.post_feedforward_layernorm(y)) * self.layer_scalar


@dataclass
class Gemma4(GemmaTower):
    """The text tower."""

    @classmethod
    def declare(cls, config: Gemma4Config) -> Gemma4:
        return cls(
            embed_tokens=Embedding.declare(config),
            layers=[Gemma4Layer.declare(config, kind) for kind in config.layer_types],
            norm=Gemma4Norm.declare(config.hidden, config.eps),
            config=config,
        )
