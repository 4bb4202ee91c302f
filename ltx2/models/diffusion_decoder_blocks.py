"""Building blocks of the diffusion video decoder (spec video_vae.md section 3.4).

Activations are (B, F, H, W, C). A block works on slabs of frames: a slab and the frames that its
windows reach, so that queries, keys and hidden units of a long clip are never held at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from einops import rearrange

from ltx2 import ops
from ltx2.models.diffusion_decoder_config import Sizes, StageConfig, UpsampleConfig
from ltx2.nn.layers import Linear, RMSNorm
from ltx2.nn.module import Param, named
from ltx2.nn.timestep import FEATURES, sinusoid
from ltx2.ops import Array

# Elements of the activation of one slab, and of the hidden units of one piece of it.
SLAB_ELEMENTS = 2**27
ROPE_BASE = 10000.0
RATIO, ROUND_HIDDEN = 4, 16
# Chunks of the modulation; the gates are not used.
ROWS = 7
SCALE_MSA, SHIFT_MSA, SCALE_MLP, SHIFT_MLP = 0, 1, 3, 4

Modulation = Sequence[Array]  # ROWS arrays (B, 1, 1, 1, C)


def first_key(index: int, length: int, size: int) -> int:
    """Where the window of position `index` begins; windows are shifted inward at the borders."""
    return min(max(index - size // 2, 0), length - size)


def axis_widths(head_dim: int) -> Sizes:
    """Channels of a head that turn with time, height and width: 64 -> (16, 24, 24)."""
    time = 2 * (head_dim // 4 // 2)
    time -= 2 * ((head_dim - time) // 2 % 2)
    side = (head_dim - time) // 2
    return time, side, side


def angles(positions: np.ndarray, width: int) -> np.ndarray:
    """(n,) positions -> (n, width / 2) float32; frequencies in float64 first."""
    inverse = np.power(ROPE_BASE, -2 * np.arange(width // 2, dtype=np.float64) / width)
    return positions.astype(np.float32)[:, None] * inverse.astype(np.float32)


def rotate_grid(x: Array, first: tuple[int, int, int]) -> Array:
    """Rotary embedding of x (B, F, H, W, N, D) whose corner has position `first`.

    Neighbouring channels are a pair; time, height and width turn one part of a head each.
    """
    parts, begin = [], 0
    for axis, width in enumerate(axis_widths(x.shape[-1])):
        positions = np.arange(x.shape[axis + 1]) + first[axis]
        shape = [1, 1, 1, 1, 1, width // 2]
        shape[axis + 1] = len(positions)
        table = angles(positions, width).reshape(shape)
        cos, sin = (ops.asarray(f(table), x) for f in (np.cos, np.sin))
        pairs = ops.f32(x[..., begin : begin + width]).reshape(*x.shape[:-1], width // 2, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        turned = ops.stack([a * cos - b * sin, a * sin + b * cos], -1)
        parts.append(ops.like(turned.reshape(*x.shape[:-1], width), x))
        begin += width
    return ops.concat(parts, -1)


@dataclass
class NeighbourhoodAttention:
    """Every position attends to the `kernel` window around it."""

    qkv: Linear
    q_norm: RMSNorm
    k_norm: RMSNorm
    proj: Linear
    kernel: Sizes
    head_dim: int

    @classmethod
    def declare(cls, width: int, kernel: Sizes, head_dim: int) -> NeighbourhoodAttention:
        return cls(
            qkv=Linear.declare(width, 3 * width),
            q_norm=RMSNorm.declare(head_dim),
            k_norm=RMSNorm.declare(head_dim),
            proj=Linear.declare(width, width),
            kernel=kernel,
            head_dim=head_dim,
        )

    def __call__(self, x: Array, first: tuple[int, int, int], own: slice) -> Array:
        """x (B, F, H, W, C) from position `first` on -> the frames `own` of its result."""
        width = x.shape[-1]
        q, k, v = (
            rearrange(part, "b f h w (n d) -> b f h w n d", d=self.head_dim)
            for part in self._projected(x, width)
        )
        q = self.q_norm(q[:, own]) * self.head_dim**-0.5
        q = rotate_grid(q, (first[0] + own.start, *first[1:]))
        k = rotate_grid(self.k_norm(k), first)
        y = ops.neighbourhood_attention(q, k, v, self.kernel, own.start)
        return self.proj(rearrange(y, "b f h w n d -> b f h w (n d)"))

    def _projected(self, x: Array, width: int) -> list[Array]:
        qkv = self.qkv(x)
        return [qkv[..., i * width : (i + 1) * width] for i in range(3)]


@dataclass
class SwiGLU:
    """w_down(silu(w_gate x) * w_up x)."""

    w_gate: Linear
    w_up: Linear
    w_down: Linear

    @classmethod
    def declare(cls, width: int) -> SwiGLU:
        hidden = -(-RATIO * width // ROUND_HIDDEN) * ROUND_HIDDEN
        return cls(
            w_gate=Linear.declare(width, hidden, bias=False),
            w_up=Linear.declare(width, hidden, bias=False),
            w_down=Linear.declare(hidden, width, bias=False),
        )

    def __call__(self, x: Array) -> Array:
        return self.w_down(ops.silu(self.w_gate(x)) * self.w_up(x))


def _gate(width: int) -> Param:
    """A factor that files may have multiplied into the weights already."""
    return Param((width,), default=lambda: np.ones(width, np.float32), dtype="fp32")


def _scale(layer: Linear, gate: Array, stored: Array) -> None:
    """Put diag(gate) times the layer in its place; the product is rounded as the file is."""

    def product(x: Array, factor: Array) -> Array:
        return ops.like(ops.like(ops.f32(x) * factor, stored), x)

    layer.weight = product(layer.weight, gate[:, None])
    if layer.bias is not None:
        layer.bias = product(layer.bias, gate)


@dataclass
class NeighbourhoodBlock:
    """x + attn(norm1(x)), then x + mlp(norm2(x)); the diffusion stage modulates both norms.

    With `replicate` the picture is continued by its border columns for the attention, instead of
    shifting the windows of the outermost columns inward.
    """

    norm1: RMSNorm
    attn: NeighbourhoodAttention
    norm2: RMSNorm
    mlp: SwiGLU
    gate_msa: Array | None
    gate_mlp: Array | None
    scale_shift_table: Array | None = None  # (ROWS, C)
    context_proj: Linear | None = None
    gate_ctx: Array | None = None
    replicate: bool = field(default=False, kw_only=True)

    @classmethod
    def declare(
        cls, stage: StageConfig, head_dim: int, context_width: int | None = None
    ) -> NeighbourhoodBlock:
        width = stage.width
        block = cls(
            RMSNorm.declare(width),
            NeighbourhoodAttention.declare(width, stage.kernel, head_dim),
            RMSNorm.declare(width),
            SwiGLU.declare(width),
            _gate(width),
            _gate(width),
        )
        if context_width is not None:
            block.scale_shift_table = Param((ROWS, width))
            block.context_proj = Linear.declare(context_width, width)
            block.gate_ctx = _gate(width)
        return block

    def fold_gates(self, stored: Array) -> None:
        """Multiply the gates into the weights before them; `stored` has the dtype of the file."""
        _scale(self.attn.proj, self.gate_msa, stored)
        _scale(self.mlp.w_down, self.gate_mlp, stored)
        if self.context_proj is not None:
            _scale(self.context_proj, self.gate_ctx, stored)
        self.gate_msa = self.gate_mlp = self.gate_ctx = None

    def __call__(
        self, x: Array, rows: Modulation | None = None, context: Array | None = None
    ) -> Array:
        """x (B, F, H, W, C), context (B, F, H, W, C') -> (B, F, H, W, C)."""
        if self.scale_shift_table is not None:
            assert rows is not None
            table = self.scale_shift_table
            rows = [row + table[i] for i, row in enumerate(rows)]
        frames, size = x.shape[1], self.attn.kernel[0]
        done = []
        for low, high in slabs(x):
            last = first_key(high - 1, frames, size)
            seen = slice(max(0, first_key(low, frames, size)), last + size)
            part = x[:, seen]
            if self.context_proj is not None and context is not None:
                part = part + self.context_proj(context[:, seen])
            own = slice(low - seen.start, high - seen.start)
            done.append(self._slab(part, seen.start, own, rows))
            ops.evaluate(done[-1])
        return done[0] if len(done) == 1 else ops.concat(done, 1)

    def _slab(self, x: Array, first: int, own: slice, rows: Modulation | None) -> Array:
        y = x[:, own] + self._attended(x, first, own, rows)
        out = [p + self._fed(p, rows) for p in _pieces(y, RATIO * y.shape[-1])]
        return out[0] if len(out) == 1 else ops.concat(out, 1)

    def _attended(self, x: Array, first: int, own: slice, rows: Modulation | None) -> Array:
        halo = self.attn.kernel[2] // 2 if self.replicate else 0
        if halo:
            x = ops.pad(x, [(0, 0)] * 3 + [(halo, halo), (0, 0)], "edge")
        h = _modulated(self.norm1(x), rows, SCALE_MSA, SHIFT_MSA)
        y = self.attn(h, (first, 0, -halo), own)
        return y[:, :, :, halo : y.shape[3] - halo] if halo else y

    def _fed(self, x: Array, rows: Modulation | None) -> Array:
        return self.mlp(_modulated(self.norm2(x), rows, SCALE_MLP, SHIFT_MLP))


def _modulated(x: Array, rows: Modulation | None, scale: int, shift: int) -> Array:
    return x if rows is None else ops.multiply_add(x, rows[scale] + 1, rows[shift])


def slabs(x: Array) -> list[tuple[int, int]]:
    """Ranges of frames of x (B, F, H, W, C) that hold about SLAB_ELEMENTS each."""
    frames = x.shape[1]
    return _ranges(frames, int(np.prod(x.shape)) // frames)


def _ranges(frames: int, elements: int) -> list[tuple[int, int]]:
    step = max(1, SLAB_ELEMENTS // elements)
    return [(low, min(low + step, frames)) for low in range(0, frames, step)]


def _pieces(x: Array, width: int) -> list[Array]:
    """x (B, F, H, W, C) cut along time, so that a layer of `width` units fits into a slab."""
    elements = width * x.shape[0] * x.shape[2] * x.shape[3]
    return [x[:, low:high] for low, high in _ranges(x.shape[1], elements)]


def by_frames(layer: Callable[[Array], Array], x: Array, width: int) -> Array:
    """layer(x) for a pointwise `layer` whose widest activation has `width` channels."""
    done = []
    for piece in _pieces(x, width):
        done.append(layer(piece))
        ops.evaluate(done[-1])
    return done[0] if len(done) == 1 else ops.concat(done, 1)


@dataclass
class Upsample:
    """A linear layer whose channels become positions; the first frame's copy is dropped."""

    proj: Linear
    stride: Sizes

    @classmethod
    def declare(cls, config: UpsampleConfig, width: int, out: int) -> Upsample:
        return cls(Linear.declare(width, out * int(np.prod(config.stride))), config.stride)

    def __call__(self, x: Array, from_start: bool = True) -> Array:
        """(B, F, H, W, C); without `from_start` the clip's true first frame is not in `x`."""
        time, height, width = self.stride

        def expanded(piece: Array) -> Array:
            pattern = "b f h w (c p q r) -> b (f p) (h q) (w r) c"
            return rearrange(self.proj(piece), pattern, p=time, q=height, r=width)

        x = by_frames(expanded, x, self.proj.weight.shape[0])
        return x[:, 1:] if time == 2 and from_start else x


@dataclass
class StepMLP:
    """mlp.2(silu(mlp.0(features)))."""

    linear_1: Linear = named("mlp.0")
    linear_2: Linear = named("mlp.2")

    @classmethod
    def declare(cls, width: int) -> StepMLP:
        return cls(Linear.declare(FEATURES, width), Linear.declare(width, width))

    def __call__(self, timestep: float) -> Array:
        """A scaled timestep -> (1, C)."""
        weight = self.linear_1.weight
        features = ops.asarray(sinusoid(np.asarray([timestep], np.float32)), weight)
        return self.linear_2(ops.silu(self.linear_1(ops.like(features, weight))))


@dataclass
class SharedModulation:
    """What all diffusion blocks add to their own tables."""

    proj: Linear

    @classmethod
    def declare(cls, embedding: int, width: int) -> SharedModulation:
        return cls(Linear.declare(embedding, ROWS * width))

    def __call__(self, embedding: Array) -> list[Array]:
        """(1, C') -> ROWS arrays (1, 1, 1, 1, C)."""
        chunks = self.proj(ops.silu(embedding)).reshape(1, ROWS, 1, 1, 1, -1)
        return [chunks[:, row] for row in range(ROWS)]
