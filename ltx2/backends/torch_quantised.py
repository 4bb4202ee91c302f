"""Weights in few bits for PyTorch: the packing of MLX, so that both backends read the same files.

Codes are bytes in memory. A product unpacks the weight of its layer first: memory is what is saved.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_E4M3 = 448.0
# e2m1: a sign bit and these magnitudes.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# The smallest step between two codes, against division by zero.
SMALLEST_STEP = 1e-7


def to_fp8(x: Tensor) -> Tensor:
    if x.device.type == "mps":  # has no float8: the codes live there as bytes
        return x.cpu().to(torch.float8_e4m3fn).view(torch.uint8).to(x.device)
    return x.to(torch.float8_e4m3fn)


def from_fp8(codes: Tensor) -> Tensor:
    if codes.dtype != torch.uint8:
        return codes.float()
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return every.to(codes.device)[codes.int()]


def from_fp4(codes: Tensor) -> Tensor:
    values = torch.tensor([*E2M1, *(-v for v in E2M1)], device=codes.device)
    pairs = torch.stack([codes >> 4, codes & 15], dim=-1)
    return values[pairs.int()].reshape(codes.shape[0], -1)


def quantise(w: Tensor, mode: str, group: int) -> tuple[Tensor, Tensor, Tensor | None]:
    rows = w.float().reshape(w.shape[0], -1, group)
    if mode == "mxfp8":
        return _mxfp8(rows)
    highest = 2 ** (8 if mode == "int8" else 4) - 1
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    step = ((high - low) / highest).clamp(min=SMALLEST_STEP)
    # Counted from the edge that is farther from zero, in steps that make zero a code.
    from_low = low.abs() > high.abs()
    step, edge = torch.where(from_low, step, -step), torch.where(from_low, low, high)
    count = (edge / step).round()
    reaches = count != 0
    step = torch.where(reaches, edge / torch.where(reaches, count, 1), step).to(w.dtype)
    edge = torch.where(reaches, edge, 0).to(w.dtype)
    codes = ((rows - edge.float()) / step.float()).round().clamp(0, highest).to(torch.uint8)
    codes = codes.reshape(w.shape[0], -1)
    if mode == "int4":
        codes = codes[:, ::2] | (codes[:, 1::2] << 4)
    return codes, step[..., 0], edge[..., 0]


def _mxfp8(rows: Tensor) -> tuple[Tensor, Tensor, None]:
    """One power of two per group, stored as its exponent + 127."""
    largest = rows.abs().amax(-1, keepdim=True).clamp(min=2.0**-118)
    exponent = torch.log2(largest / LARGEST_E4M3).ceil().clamp(-127, 127)
    codes = to_fp8((rows * torch.exp2(-exponent)).clamp(-LARGEST_E4M3, LARGEST_E4M3))
    return _as_bytes(codes).reshape(len(rows), -1), (exponent[..., 0] + 127).to(torch.uint8), None


def _as_bytes(codes: Tensor) -> Tensor:
    return codes.view(torch.uint8)


def dequantise(
    codes: Tensor, scales: Tensor, biases: Tensor | None, mode: str, group: int
) -> Tensor:
    if mode == "mxfp8":
        rows = from_fp8(codes).reshape(len(codes), -1, group)
        return (rows * torch.exp2(scales.float() - 127)[..., None]).reshape(len(codes), -1)
    if mode == "int4":
        codes = torch.stack([codes & 15, codes >> 4], dim=-1)
    assert biases is not None
    rows = codes.reshape(len(codes), -1, group).float()
    return torch.addcmul(biases.float()[..., None], rows, scales.float()[..., None]).flatten(1)


def quantised_linear(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    biases: Tensor | None,
    bias: Tensor | None,
    mode: str,
    group: int,
) -> Tensor:
    return F.linear(x, dequantise(codes, scales, biases, mode, group).to(x.dtype), bias)


def has_fp8_products(kind: str, device: str) -> bool:
    """Whether the device multiplies float8 matrices: CUDA of compute capability 8.9 and later."""
    return kind == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def fp8_linear(x: Tensor, weight: Tensor, scale: float | Tensor) -> Tensor:
    if not x.is_cuda or x.shape[-1] % 16 or len(weight) % 16:
        return F.linear(from_fp8(x), from_fp8(weight)) * scale
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    whole = torch.as_tensor(scale, dtype=torch.float32, device=x.device).reshape(())
    one = torch.ones((), device=x.device)
    y = torch._scaled_mm(rows, weight.t(), whole, one, out_dtype=torch.bfloat16)
    return y.reshape(*x.shape[:-1], -1).float()
