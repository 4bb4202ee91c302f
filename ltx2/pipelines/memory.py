"""Whether a model is loaded whole or streamed block by block, chosen when it is about to load."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.pipelines.components.gemma import read_gemma
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.quantisation import block_quantisation, text_quantisation
from ltx2.pipelines.settings import MemorySettings, Settings
from ltx2.weights.checkpoint import component_of
from ltx2.weights.header import Header
from ltx2.weights.quantise import BLOCKS, Quantisation, held_bytes
from ltx2.weights.streaming import DISK, RAM, Streaming

log = logging.getLogger(__name__)

MODES = ("auto", "resident", "stream")
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Of the free memory; the rest is for what the estimate does not see.
USABLE = 0.9
# Activations of a block that exist together, as multiples of its input.
ROWS_AT_ONCE = 16
# Two by two tiles that overlap: the share of the tokens in one of them.
TILED = 0.5
QUANT = {"transformer": "quant.blocks", "text_encoder": "quant.text"}


@dataclass(frozen=True)
class Need:
    """Bytes of a model: its weights, the largest of its blocks (0: none), a call beside them.

    `cheaper`: the same as quant.*=int8 would hold it; `smaller`: what a call would take under
    other settings, by the name of the setting.
    """

    weights: int
    working: int
    block: int = 0
    blocks: int = 0
    cheaper: int | None = None
    smaller: tuple[tuple[str, int], ...] = ()

    def streamed(self, ahead: int) -> int:
        """The weights that are in memory when blocks pass: `ahead` + 2 blocks and the rest."""
        held = min(ahead + 2, self.blocks) if self.blocks else 0
        return self.weights - (self.blocks - held) * self.block


@dataclass(frozen=True)
class Placement:
    """How a model is loaded, and why. `streaming` None: whole."""

    model: str
    streaming: Streaming | None
    reason: str
    weight_bytes: int
    free_bytes: int
    shortage: str | None = None

    def record(self) -> dict[str, Any]:
        """What run.json keeps."""
        mode = "resident" if self.streaming is None else f"streamed from {self.streaming.source}"
        figures = {"weight_bytes": self.weight_bytes, "free_bytes": self.free_bytes}
        record = {"model": self.model, "mode": mode, "reason": self.reason} | figures
        return record if self.shortage is None else record | {"shortage": self.shortage}


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


def check_compiled(given: MemorySettings, backend: Any, streaming: Streaming | None = None) -> None:
    """Raise UserError where blocks would be compiled that are streamed, by wish or by choice.

    Compiled programs and graphs stand on weights that stay where they are.
    """
    mode = getattr(backend, "compile", "off")
    if mode == "off" or (given.transformer != "stream" and streaming is None):
        return
    asked = f"backend.compile={mode} needs the transformer's weights in memory"
    if given.transformer == "stream":
        raise UserError(
            f"{asked}, not memory.transformer=stream; use memory.transformer=resident or"
            " backend.compile=off"
        )
    raise UserError(
        f"{asked}, into which they do not fit; use quant.blocks=int8, which takes less, or"
        " backend.compile=off"
    )


def choose(
    plan: Plan, model: str, need: Need, free_bytes: int, statistics: dict[str, Any]
) -> Streaming | None:
    """How to load `model` (transformer or text_encoder); said, and recorded in `statistics`."""
    placement = place(plan.settings.memory, model, need, free_bytes)
    how = "loaded whole" if placement.streaming is None else "streamed"
    log.info("the %s is %s: %s", model.replace("_", " "), how, placement.reason)
    if placement.shortage is not None:
        log.warning("%s", placement.shortage)
    mode = getattr(plan.settings.quant, QUANT[model].partition(".")[2])
    record = placement.record() | ({} if mode == "none" else {"quant": mode})
    statistics.setdefault("memory", []).append(record)
    return placement.streaming


def fits(needed: int, free_bytes: int) -> bool:
    """Whether so much goes into the free memory with something to spare."""
    return needed <= USABLE * free_bytes


def place(given: MemorySettings, model: str, need: Need, free_bytes: int) -> Placement:
    """How to load `model`, where `free_bytes` are free."""
    mode = getattr(given, model)
    streaming: Streaming | None = Streaming(given.source, given.ahead)
    told = f"{need.weights / 1e9:.1f} GB of weights and {need.working / 1e9:.1f} GB to run"
    whole = fits(need.weights + need.working, free_bytes)
    if mode == "resident" or (mode == "auto" and whole):
        streaming = None
    reason = f"memory.{model}={mode}"
    if mode == "auto":
        reason = f"{told} {'fit' if whole else 'do not fit'} into {free_bytes / 1e9:.1f} GB"
    short = _shortage(given, model, need, free_bytes, streaming)
    return Placement(model, streaming, reason, need.weights, free_bytes, short)


def _shortage(
    given: MemorySettings, model: str, need: Need, free: int, streaming: Streaming | None
) -> str | None:
    """One line for a model that will not fit as it is to be loaded: how much, and what helps."""
    weights = need.weights if streaming is None else need.streamed(given.ahead)
    lacking = weights + need.working - free
    if lacking <= 0:
        return None
    fitting = [name for name, size in _ways(given, model, need, weights) if size <= free]
    helps = ", ".join(fitting) if fitting else "a smaller height, width or number of frames"
    return (
        f"the {model.replace('_', ' ')} may run out of memory: it needs about"
        f" {(weights + need.working) / 1e9:.1f} GB, {lacking / 1e9:.1f} GB more than is free;"
        f" what helps: {helps}"
    )


def _ways(given: MemorySettings, model: str, need: Need, weights: int) -> Iterator[tuple[str, int]]:
    """Settings that take less memory, and the bytes each takes."""
    if weights == need.weights:
        if need.blocks:
            yield f"memory.{model}=stream", need.streamed(given.ahead) + need.working
        if need.cheaper is not None:
            yield f"{QUANT[model]}=int8", need.cheaper + need.working
    elif given.ahead:
        yield "memory.ahead=0", need.streamed(0) + need.working
    for name, working in need.smaller:
        yield name, weights + working


def planned_places(
    plan: Plan, dtypes: dict[str, str], free_bytes: int | None
) -> dict[str, Placement]:
    """How a run would load the models that can be streamed, by model; nothing is said.

    Without what is unknown: the choice of memory.*=auto where the free memory is.
    """
    given = plan.settings.memory
    needs: dict[str, Callable[[], Need]] = {
        "text_encoder": lambda: text_need(plan, dtypes["text_encoder"], plan.prompts),
        "transformer": lambda: transformer_need(plan, dtypes["transformer"]),
    }
    if not any(stage.sigmas is not None for stage in plan.stages):
        return {}
    return {
        model: place(given, model, need(), free_bytes or 0)
        for model, need in needs.items()
        if free_bytes is not None or getattr(given, model) != "auto"
    }


def transformer_need(plan: Plan, dtype: str) -> Need:
    """What the transformer and a call of it take."""
    item, header = ITEM_BYTES[dtype], plan.headers["checkpoint"]
    names = [name for name in header.tensors if component_of(name) == "transformer"]
    sampled = [stage for stage in plan.stages if stage.sigmas is not None]
    working = max(_call_bytes(plan, stage, item) for stage in sampled)
    alone = max(_call_bytes(plan, stage, item, passes=1) for stage in sampled)
    smaller = []
    if alone < working:
        smaller.append(("guidance.max_batch=1", alone))
    if all(stage.tiles is None for stage in sampled):
        smaller.append(("denoise_tiles=spatial", round(TILED * working)))
    need = _weights([(header, names)], block_quantisation(plan.settings), item)
    return replace(need, working=working, smaller=tuple(smaller))


def text_need(plan: Plan, dtype: str, prompts: int) -> Need:
    """What the text encoder takes, and the hidden states of `prompts` prompts of full length."""
    item, files = ITEM_BYTES[dtype], read_gemma(plan.files["text_encoder"])
    parts = [
        (shard, [name for name in shard.tensors if component_of(name) == "language model"])
        for shard in files.shards
    ]
    config = files.config
    state = files.sequence * config.hidden * item
    states = prompts * (len(config.layer_types) + 1)
    need = _weights(parts, text_quantisation(plan.settings), item)
    return replace(need, working=(states + ROWS_AT_ONCE) * state)


def _call_bytes(plan: Plan, stage: StagePlan, item: int, passes: int | None = None) -> int:
    """Activations of a transformer call with its guidance passes stacked, as the plan will."""
    config, guidance = plan.transformer, stage.guidance
    assert stage.sigmas is not None
    tokens = stage.tokens_per_call
    if passes is None:
        steps = range(len(stage.sigmas) - 1)
        most = max(guidance.passes_at(i, stage.sigmas[i]) for i in steps) if guidance else 1
        passes = guidance.stacked(most, round(tokens + plan.audio_length)) if guidance else 1
    rows = tokens * config.video.width + plan.audio_length * config.audio.width
    return round(rows * item * ROWS_AT_ONCE * passes)


def _weights(parts: Iterable[tuple[Header, list[str]]], how: Quantisation, item: int) -> Need:
    """The weights of the named tensors, and how they are divided into blocks."""
    total, cheaper, sizes = 0, 0, Counter[str]()
    for header, names in parts:
        total += held_bytes(header, names, how, item)
        cheaper += held_bytes(header, names, Quantisation("int8"), item)
        by_block: dict[str, list[str]] = {}
        for name in names:
            if found := BLOCKS.search(name):
                by_block.setdefault(found[0], []).append(name)
        for block, own in by_block.items():
            sizes[block] += held_bytes(header, own, how, item)
    largest = max(sizes.values(), default=0)
    return Need(total, 0, largest, len(sizes), cheaper if cheaper < total else None)
