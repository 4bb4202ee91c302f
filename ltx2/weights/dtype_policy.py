"""Which dtype each component is built in: the one place that decides it.

`auto` reads it from a table by device. The table is the same for all generations, whose released
weights are all bfloat16. The vocoder is float32 everywhere: rounding to bfloat16 damages its
spectrum.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from ltx2.errors import UserError, nearest

log = logging.getLogger(__name__)

COMPONENTS = (
    "transformer", "text_encoder", "connectors", "video_vae", "audio_vae", "vocoder", "upsampler",
)  # fmt: skip
DTYPES = ("auto", "fp32", "bf16", "fp16")
# What `auto` means, in the order of COMPONENTS, by device and whether bfloat16 is fast there.
#
# cuda: all that computes in bfloat16 does; before compute capability 8.0 it is emulated.
# mps: convolutions of half precision give black or NaN frames; before macOS 14 no bfloat16.
# metal (MLX): bfloat16, since every op has a kernel for it.
# cpu: bfloat16 instructions speed large components up 2 to 2.5 times, the rest is too small.
AUTO: dict[tuple[str, bool], tuple[str, ...]] = {
    ("cuda", True): ("bf16", "bf16", "bf16", "bf16", "bf16", "fp32", "bf16"),
    ("cuda", False): ("fp16", "fp32", "fp32", "fp32", "fp32", "fp32", "fp32"),
    ("mps", True): ("bf16", "bf16", "bf16", "fp32", "fp32", "fp32", "fp32"),
    ("mps", False): ("fp16", "fp32", "fp32", "fp32", "fp32", "fp32", "fp32"),
    ("metal", True): ("bf16", "bf16", "bf16", "bf16", "bf16", "fp32", "bf16"),
    ("cpu", True): ("bf16", "bf16", "bf16", "bf16", "fp32", "fp32", "fp32"),
    ("cpu", False): ("fp32",) * len(COMPONENTS),
}
CONVOLUTIONAL = ("video_vae", "audio_vae", "upsampler")


class Device(Protocol):
    """What the policy asks of a backend object."""

    @property
    def kind(self) -> str: ...
    @property
    def fast_bf16(self) -> bool: ...


def dtype_policy(
    backend: Device, dtype: str = "auto", overrides: Mapping[str, str] | None = None
) -> dict[str, str]:
    """fp32, bf16 or fp16 for every component.

    `dtype` asks for all components, `overrides` for single ones. Components that cannot follow
    `dtype` (the vocoder; under fp16 the text encoder, and on MPS what convolves) keep their own;
    an override that cannot be followed raises UserError, as does a dtype the device lacks.
    """
    overrides = dict(overrides or {})
    for name in overrides:
        if name not in COMPONENTS:
            known = ", ".join(COMPONENTS)
            raise UserError(f"dtype of '{name}': components are {known}{nearest(name, COMPONENTS)}")
    _check(backend, "dtype", dtype)
    return {
        name: _override(backend, name, overrides[name])
        if overrides.get(name, "auto") != "auto"
        else _follow(backend, name, dtype)
        for name in COMPONENTS
    }


def _check(backend: Device, what: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise UserError(f"{what}={dtype} is not one of {', '.join(DTYPES)}{nearest(dtype, DTYPES)}")
    if dtype == "fp16" and backend.kind == "cpu":
        raise UserError(f"{what}=fp16 does not work on a CPU; use fp32 or bf16")
    if dtype == "bf16" and backend.kind == "mps" and not backend.fast_bf16:
        raise UserError(f"{what}=bf16 needs macOS 14 or later on MPS; use fp32 or fp16")


def _override(backend: Device, name: str, dtype: str) -> str:
    _check(backend, f"dtype.{name}", dtype)
    if name == "vocoder" and dtype != "fp32":
        raise UserError(f"dtype.vocoder={dtype} would damage the sound; the vocoder runs in fp32")
    if name == "text_encoder" and dtype == "fp16":
        raise UserError(
            "dtype.text_encoder=fp16 overflows (Gemma's activations pass 65504); use bf16 or fp32"
        )
    if name in CONVOLUTIONAL and dtype == "fp16" and backend.kind == "mps":
        raise UserError(f"dtype.{name}=fp16 gives black or NaN frames on MPS; use fp32")
    return dtype


def _follow(backend: Device, name: str, dtype: str) -> str:
    auto = AUTO[backend.kind, backend.fast_bf16][COMPONENTS.index(name)]
    if dtype == "auto" or name == "vocoder":
        return auto
    if dtype == "fp16" and name == "text_encoder":
        log.info("the text encoder runs in %s: Gemma's activations overflow fp16", auto)
        return auto
    if dtype == "fp16" and name in CONVOLUTIONAL and backend.kind == "mps":
        log.info("the %s runs in %s: its convolutions fail in fp16 on MPS", name, auto)
        return auto
    return dtype
