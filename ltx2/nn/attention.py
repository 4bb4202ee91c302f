"""Multi-head attention and feed-forward as the transformer and the text connectors use them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltx2 import ops
from ltx2.nn.layers import Linear, RMSNorm, linear_gelu
from ltx2.nn.module import named
from ltx2.nn.rope import Rope
from ltx2.ops import Array


@dataclass(frozen=True)
class Switch:
    """Which samples of a batch keep what others are made without; `open` if any does."""

    weight: Array  # (B, 1, 1), 1 where kept, else 0
    open: bool

    @classmethod
    def of(cls, keep: np.ndarray, ref: Array) -> Switch:
        """From (B,) of 1 and 0, on the device and in the dtype of `ref`."""
        weight = ops.asarray(keep.reshape(-1, 1, 1).astype(np.float32), ref)
        return cls(ops.like(weight, ref), bool(keep.any()))


def split_heads(x: Array, heads: int) -> Array:
    """(B, T, N*D) -> (B, N, T, D)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def norm_rotate(x: Array, norm: RMSNorm, rope: Rope | None) -> Array:
    """norm(x), rotated if there is a rotary embedding; x (B, T, N*D)."""
    if rope is None:
        return norm(x)
    return ops.norm_rotate(x, norm.weight, norm.eps, rope.cos, rope.sin, rope.split)


def merge_heads(x: Array) -> Array:
    """(B, N, T, D) -> (B, T, N*D)."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


@dataclass(kw_only=True)
class Attention:
    """Attention with RMS-normalised queries and keys, rotary embedding and optional head gates.

    Source: spec transformer.md section 10. The norms run over all heads together.
    """

    to_q: Linear
    to_k: Linear
    to_v: Linear
    to_out: Linear = named("to_out.0")
    q_norm: RMSNorm
    k_norm: RMSNorm
    to_gate_logits: Linear | None
    heads: int

    @classmethod
    def declare(
        cls, width: int, context: int, inner: int, heads: int, gated: bool = False
    ) -> Attention:
        return cls(
            to_q=Linear.declare(width, inner),
            to_k=Linear.declare(context, inner),
            to_v=Linear.declare(context, inner),
            to_out=Linear.declare(inner, width),
            q_norm=RMSNorm.declare(inner),
            k_norm=RMSNorm.declare(inner),
            to_gate_logits=Linear.declare(width, heads) if gated else None,
            heads=heads,
        )

    def __call__(
        self,
        x: Array,
        context: Array | None = None,
        rope: Rope | None = None,
        context_rope: Rope | None = None,
        bias: Array | None = None,
        keep: Switch | None = None,
    ) -> Array:
        """x (B, T, C), context (B, S, C') -> (B, T, C).

        `context_rope` rotates the keys (default: `rope`). `bias` (B, 1, T, S) is additive.
        Samples that `keep` leaves out pass their values through without attention (STG).
        """
        source = x if context is None else context
        v = self.to_v(source)
        if keep is not None and not keep.open:
            out = v
        else:
            ropes = rope, rope if context_rope is None else context_rope
            out = self._attend(x, source, v, ropes, bias)
            if keep is not None:
                out = out * keep.weight + v * (1 - keep.weight)
        if self.to_gate_logits is not None:
            out = self._gate(out, self.to_gate_logits(x))
        return self.to_out(out)

    def _attend(
        self,
        x: Array,
        source: Array,
        v: Array,
        ropes: tuple[Rope | None, Rope | None],
        bias: Array | None,
    ) -> Array:
        q = norm_rotate(self.to_q(x), self.q_norm, ropes[0])
        k = norm_rotate(self.to_k(source), self.k_norm, ropes[1])
        q, k, v = (split_heads(a, self.heads) for a in (q, k, v))
        return merge_heads(ops.attention(q, k, v, bias))

    def _gate(self, out: Array, logits: Array) -> Array:
        # Zero logits (B, T, N) leave attention unchanged.
        gates = 2 * ops.sigmoid(logits)
        heads = out.reshape(*out.shape[:2], self.heads, -1) * gates[..., None]
        return heads.reshape(out.shape)


@dataclass
class FeedForward:
    """net.2(gelu(net.0.proj(x)))."""

    proj_in: Linear = named("net.0.proj")
    proj_out: Linear = named("net.2")

    @classmethod
    def declare(cls, width: int, bias: bool = True, ratio: int = 4) -> FeedForward:
        inner = ratio * width
        return cls(Linear.declare(width, inner, bias), Linear.declare(inner, width, bias))

    def __call__(self, x: Array) -> Array:
        return self.proj_out(linear_gelu(self.proj_in, x))
