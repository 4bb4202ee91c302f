"""What a streamed model holds in memory, and what it reads, from the headers of its files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ltx2.pipelines.cost import WORDS, call_tokens, tower_tensors
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.quantisation import block_quantisation, text_quantisation
from ltx2.pipelines.text_choice import streamed_reads
from ltx2.weights.checkpoint import component_of
from ltx2.weights.header import Header, TensorInfo
from ltx2.weights.quantise import BLOCKS, Quantisation, held_bytes
from ltx2.weights.streaming import RAM, Streaming

ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
STORED = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
# The block in use, and the one before it, which the loop still holds when the next is loaded.
LOADED = 2


@dataclass(frozen=True)
class Passing:
    """Bytes of a model whose blocks pass through memory.

    `outside`: what is no block, as it is held; `stored`: all blocks in the file; `largest`: of one
    of them in the file; `loaded`: of one as it is held; `copied`: what of that is not its bytes in
    the file but another copy.
    """

    outside: int
    stored: int
    largest: int
    loaded: int
    copied: int

    def held(self, given: Streaming, in_process: bool) -> int:
        """What is in memory at a time; of a device's only what is on it."""
        if not in_process:
            return self.outside + LOADED * self.loaded
        read = self.stored if given.source == RAM else (given.ahead + 1) * self.largest
        return self.outside + min(read, self.stored) + LOADED * self.copied


def passing_transformer(plan: Plan, dtype: str) -> Passing:
    """The streamed transformer."""
    header = plan.headers["checkpoint"]
    names = [name for name in header.tensors if component_of(name) == "transformer"]
    return _passing(header, names, block_quantisation(plan.settings), dtype)


def passing_text(plan: Plan, dtype: str) -> Passing:
    """The streamed language model; of a mapped table of words only a few rows are read."""
    path = plan.files["text_encoder"]
    tensors = tower_tensors(path)
    names = [name for name in tensors if not _mapped_words(name, tensors, dtype)]
    header = Header(path, dict(tensors), {}, 0, 0)
    return _passing(header, names, text_quantisation(plan.settings), dtype)


def read_bytes(plan: Plan, model: str, passing: Passing) -> dict[str, int]:
    """Bytes that `model` (text_encoder or transformer) reads in each phase, by phase."""
    if model == "text_encoder":
        rewritten = streamed_reads(plan) - plan.prompts
        told = {"text": plan.prompts * passing.stored, "enhance": rewritten * passing.stored}
        return {phase: size for phase, size in told.items() if size}
    return {
        stage.name: model_calls(plan, stage) * passing.stored
        for stage in plan.stages
        if stage.sigmas is not None
    }


def model_calls(plan: Plan, stage: StagePlan) -> int:
    """How often the blocks of the transformer run in a stage: passes that are stacked share."""
    together = stacked_passes(stage, call_tokens(plan, stage).both)
    return math.ceil(stage.transformer_calls / together)


def stacked_passes(stage: StagePlan, tokens: float) -> int:
    """Guidance passes of so many tokens each that share a transformer call."""
    assert stage.sigmas is not None and stage.guidance is not None
    steps = range(len(stage.sigmas) - 1)
    most = max(stage.guidance.passes_at(i, stage.sigmas[i]) for i in steps)
    return stage.guidance.stacked(most, round(tokens))


def _mapped_words(name: str, tensors: Mapping[str, TensorInfo], dtype: str) -> bool:
    return name.endswith(WORDS) and STORED.get(tensors[name].dtype) == dtype


def _passing(header: Header, names: Iterable[str], how: Quantisation, dtype: str) -> Passing:
    item = ITEM_BYTES[dtype]
    blocks: dict[str, list[str]] = {}
    outside: list[str] = []
    for name in names:
        found = BLOCKS.search(name)
        (blocks.setdefault(found[0], []) if found else outside).append(name)
    sizes = [_stored(header, own) for own in blocks.values()]
    copies = [
        [name for name in own if how.at_load or _converted(header.tensors[name], dtype)]
        for own in blocks.values()
    ]
    return Passing(
        held_bytes(header, outside, how, item),
        sum(sizes),
        max(sizes, default=0),
        _most(header, blocks.values(), how, item),
        _most(header, copies, how, item),
    )


def _converted(info: TensorInfo, dtype: str) -> bool:
    """Whether the tensor is a float of another dtype; quantised ones stay as they are."""
    return STORED.get(info.dtype, dtype) != dtype


def _most(header: Header, blocks: Iterable[list[str]], how: Quantisation, item: int) -> int:
    return max((held_bytes(header, own, how, item) for own in blocks), default=0)


def _stored(header: Header, names: Iterable[str]) -> int:
    return sum(header.tensors[name].stop - header.tensors[name].start for name in names)
