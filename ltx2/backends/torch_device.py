"""Which devices PyTorch finds here, and what they can do."""

from __future__ import annotations

import torch

from ltx2.errors import UserError


def resolve_device(device: str) -> str:
    """auto as the best device here. Raises UserError for a device that is not here."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), "cpu"]
    elif torch.backends.mps.is_available():
        available = ["mps", "cpu"]
    if device == "auto":
        return available[0]
    if device not in available:
        raise UserError(
            f"backend.device={device} is not available here; use one of auto, "
            + ", ".join(available)
        )
    return device


def cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX: elsewhere the CPU emulates bfloat16 and is slower than float32."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return "AVX512" in capabilities and bool((probe and probe()) or (amx and amx()))
