"""Golden components of LoRA fusion and of float8 weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ltx2.nn.module import slots
from ltx2.parity.registry import Case, component
from ltx2.parity.transformer import run_forward
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.weights.build import read_fp8_linear
from ltx2.weights.header import read_header
from ltx2.weights.lora import apply_loras, read_factors, read_lora

PREFIX = "model.diffusion_model."
FP32, BF16 = "weight.", "weight_bf16."


@component("lora.fuse")
def lora_fuse(case: Case) -> dict[str, np.ndarray]:
    """A forward with fused LoRAs, and samples of the weights fused in float32 and bfloat16."""
    transformer = _fused(case, case.dtype)
    out = run_forward(case, transformer) | _weights(case, transformer, FP32)
    if any(name.startswith(BF16) for name in case.record["outputs"]):
        out |= _weights(case, _fused(case, "bf16"), BF16)
    return out


def _fused(case: Case, dtype: str) -> Any:
    transformer = load_transformer(read_header(case.checkpoints[0]), case.backend, dtype)
    stack = [(read_lora(case.root / s["file"]), s["strength"]) for s in case.settings["stack"]]
    apply_loras(transformer, stack, case.backend, dtype, fused=True)
    return transformer


@component("fp8.dequantise")
def fp8_dequantise(case: Case) -> dict[str, np.ndarray]:
    """A forward of a scaled float8 file whose weights were unpacked at load, and some weights."""
    transformer = load_transformer(read_header(case.checkpoints[0]), case.backend, case.dtype)
    return run_forward(case, transformer) | _weights(case, transformer, FP32)


@component("fp8.linear")
def fp8_linear(case: Case) -> dict[str, np.ndarray]:
    """A layer with float8 activations, and a LoRA fused into a float8 weight."""
    header = read_header(case.checkpoints[0])
    layer = read_fp8_linear(header, PREFIX + case.settings["linear"], case.backend, case.dtype)
    x = case.array("x")
    target = case.settings["fused_layer"]
    base = read_fp8_linear(header, PREFIX + target, case.backend, case.dtype)
    lora = read_lora(case.checkpoints[1])
    pair = next(p for p in lora.pairs if p.module == target)
    # The recording forms the delta in bfloat16.
    factors = read_factors(lora, pair, case.settings["strength"], case.backend, "bf16")
    fused = base.fused([factors])
    return {
        "activations_quantised": case.numpy(layer.quantised_input(x)),
        "linear": case.numpy(layer.fast(x)),
        "fused_dequantised": case.numpy(fused.dequantised()),
        "fused_scale": np.asarray(fused.weight_scale, np.float32),
    }


def _weights(case: Case, transformer: Any, prefix: str) -> dict[str, np.ndarray]:
    """The weights whose names stand behind `prefix` among the outputs of the case."""
    wanted: Iterable[str] = (n for n in case.record["outputs"] if n.startswith(prefix))
    held = {slot.name: slot.value for slot in slots(transformer)}
    return {name: case.numpy(held[name.removeprefix(prefix)]) for name in wanted}
