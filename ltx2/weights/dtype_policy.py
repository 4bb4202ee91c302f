"""Which dtype each component is built in: the one place that decides it.

`auto` follows the device: bfloat16 on accelerators; on a CPU bfloat16 for the large components
where the CPU computes it fast, float32 for everything else. The vocoder is float32 everywhere:
rounding to bfloat16 damages its spectrum.
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
# What bfloat16 instructions of a CPU speed up 2 to 2.5 times; the rest is too small to matter.
LARGE = ("transformer", "text_encoder", "connectors", "video_vae")


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
    `dtype` (the vocoder; the text encoder under fp16) keep their own; an override that cannot be
    followed raises UserError, as does fp16 on a CPU.
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


def _override(backend: Device, name: str, dtype: str) -> str:
    _check(backend, f"dtype.{name}", dtype)
    if name == "vocoder" and dtype != "fp32":
        raise UserError(f"dtype.vocoder={dtype} would damage the sound; the vocoder runs in fp32")
    if name == "text_encoder" and dtype == "fp16":
        raise UserError(
            "dtype.text_encoder=fp16 overflows (Gemma's activations pass 65504); use bf16 or fp32"
        )
    return dtype


def _follow(backend: Device, name: str, dtype: str) -> str:
    if name == "vocoder":
        return "fp32"
    if dtype == "auto":
        slow = backend.kind == "cpu" and not (backend.fast_bf16 and name in LARGE)
        return "fp32" if slow else "bf16"
    if dtype == "fp16" and name == "text_encoder":
        log.info("the text encoder runs in bf16: Gemma's activations overflow fp16")
        return "bf16"
    return dtype
