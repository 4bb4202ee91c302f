"""Whether a model is loaded whole or streamed block by block, chosen when it is about to load."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.pipelines.plan import Plan
from ltx2.pipelines.quantisation import block_quantisation
from ltx2.pipelines.settings import MemorySettings, Settings
from ltx2.weights.checkpoint import component_of
from ltx2.weights.quantise import held_bytes
from ltx2.weights.streaming import DISK, RAM, Streaming

log = logging.getLogger(__name__)

MODES = ("auto", "resident", "stream")
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Of the free memory; the rest is for what the estimate does not see.
USABLE = 0.9
# Activations of a block that exist together, as multiples of its input, and passes of guidance.
ROWS_AT_ONCE, PASSES = 16, 3


@dataclass(frozen=True)
class Placement:
    """How a model is loaded, and why. `streaming` None: whole."""

    model: str
    streaming: Streaming | None
    reason: str
    weight_bytes: int
    free_bytes: int

    def record(self) -> dict[str, Any]:
        """What run.json keeps."""
        mode = "resident" if self.streaming is None else f"streamed from {self.streaming.source}"
        figures = {"weight_bytes": self.weight_bytes, "free_bytes": self.free_bytes}
        return {"model": self.model, "mode": mode, "reason": self.reason} | figures


def check_memory(settings: Settings) -> None:
    """Raise UserError for values that mean nothing together."""
    given = settings.memory
    for key in ("transformer", "text_encoder"):
        value = getattr(given, key)
        if value not in MODES:
            hint = nearest(value, MODES)
            raise UserError(f"memory.{key}={value} is unknown{hint}; use {', '.join(MODES)}")
    if given.source not in (DISK, RAM):
        raise UserError(f"memory.source={given.source} is unknown; use disk or ram")
    Streaming(given.source, given.ahead)
    fused = next((name for name, lora in settings.lora.items() if lora.fused), None)
    if given.transformer == "stream" and fused is not None:
        raise UserError(
            f"lora.{fused}.fused=true changes weights in memory, which memory.transformer=stream"
            f" does not keep; set lora.{fused}.fused=false"
        )


def place(
    given: MemorySettings, model: str, weight_bytes: int, working_bytes: int, free_bytes: int
) -> Placement:
    """How to load `model` of `weight_bytes`, which needs `working_bytes` more when it runs."""
    mode = getattr(given, model)
    streaming: Streaming | None = Streaming(given.source, given.ahead)
    need = f"{weight_bytes / 1e9:.1f} GB of weights and {working_bytes / 1e9:.1f} GB to run"
    if mode != "auto":
        reason = f"memory.{model}={mode}"
        streaming = streaming if mode == "stream" else None
    elif weight_bytes + working_bytes <= USABLE * free_bytes:
        streaming, reason = None, f"{need} fit into {free_bytes / 1e9:.1f} GB"
    else:
        reason = f"{need} do not fit into {free_bytes / 1e9:.1f} GB"
    return Placement(model, streaming, reason, weight_bytes, free_bytes)


def transformer_bytes(plan: Plan, dtype: str) -> tuple[int, int]:
    """Bytes of the transformer's weights, and of what a call of it needs beside them."""
    item, header = ITEM_BYTES[dtype], plan.headers["checkpoint"]
    names = [name for name in header.tensors if component_of(name) == "transformer"]
    weights = held_bytes(header, names, block_quantisation(plan.settings), item)
    tokens = max(stage.tokens_per_call for stage in plan.stages if stage.sigmas is not None)
    config = plan.transformer
    rows = tokens * config.video.width + plan.audio_length * config.audio.width
    return weights, round(rows * item * ROWS_AT_ONCE * PASSES)


def tell(placement: Placement) -> None:
    """Say what was chosen, where it is not the usual."""
    if placement.streaming is not None:
        log.info("%s is streamed: %s", placement.model, placement.reason)
