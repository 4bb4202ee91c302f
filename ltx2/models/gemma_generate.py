"""Text from Gemma 3, one token after another (spec text.md section 10).

Runs the text encoder's own modules; the output head is the embedding table. Tokens are drawn on the
host, so that a seed gives one text on every backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.gemma3 import Gemma3
from ltx2.models.gemma_tower import KeyValues


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: `temperature` 0 takes the likeliest, None keeps all candidates.

    `top_k` keeps the likeliest tokens, `top_p` the fewest that have this probability together.
    """

    temperature: float = 0.7
    top_k: int | None = None
    top_p: float | None = None

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(V,) float64, 0 for tokens that were cut off; needs a temperature above 0."""
        scaled = logits.astype(np.float64) / self.temperature
        if self.top_k is not None and self.top_k < len(scaled):
            lowest = np.partition(scaled, -self.top_k)[-self.top_k]
            scaled[scaled < lowest] = -np.inf
        p = np.exp(scaled - scaled.max())
        p /= p.sum()
        if self.top_p is not None and self.top_p < 1:
            order = np.argsort(-p, kind="stable")
            likelier = np.cumsum(p[order]) - p[order]
            p[order[likelier >= self.top_p]] = 0
            p /= p.sum()
        return p

    def draw(self, logits: np.ndarray, uniform: float) -> int:
        """A token for a draw from [0, 1). Candidates stand in the order of their ids."""
        if self.temperature == 0:
            return int(np.argmax(logits))
        p = self.probabilities(logits)
        candidates = np.flatnonzero(p)
        index = np.searchsorted(np.cumsum(p[candidates]), uniform, side="right")
        return int(candidates[min(int(index), len(candidates) - 1)])


@dataclass
class GemmaMemory:
    """What the layers keep of the `tokens` tokens read so far."""

    layers: list[KeyValues]
    tokens: int = 0

    @classmethod
    def empty(cls, model: Gemma3) -> GemmaMemory:
        return cls([KeyValues(model.window(kind)) for kind in model.config.layer_types])


def next_logits(model: Gemma3, ids: np.ndarray, memory: GemmaMemory) -> np.ndarray:
    """Ids (n,) that follow those in `memory` -> logits (V,) float32 of the token after them.

    The first call reads any number of tokens, later ones a single token each.
    """
    assert memory.tokens == 0 or len(ids) == 1
    x = model.embed_tokens(ids[None])
    spans = model.spans_at(memory.tokens, x) if memory.tokens else model.spans(len(ids), x)
    for index, (layer, kept) in enumerate(zip(model.layers, memory.layers, strict=True)):
        x = layer(x, spans[layer.kind], kept)
        model.settle(index, x)
    memory.tokens += len(ids)
    last = model.norm(x[:, -1:])
    return ops.to_numpy(ops.linear(last, model.embed_tokens.weight))[0, 0]


def sample_tokens(model: Gemma3, ids: np.ndarray, sampling: Sampling, seed: int) -> Iterator[int]:
    """Endless continuation of the ids (n,). Raises UserError when the model overflows."""
    generator = np.random.default_rng(seed % 2**64)
    memory = GemmaMemory.empty(model)
    while True:
        logits = next_logits(model, ids, memory)
        if not np.isfinite(logits).all():
            raise UserError("the text encoder's logits are not finite; run it in bf16 or fp32")
        token = sampling.draw(logits, generator.random())
        yield token
        ids = np.array([token], np.int32)


@dataclass
class LoopDetector:
    """Notices text that goes in circles: `size` tokens in a row that occur for the third time.

    Prose repeats names and phrases, but hardly ever twelve tokens twice over.
    """

    size: int = 12
    times: int = 3
    _ids: list[int] = field(default_factory=list)
    _seen: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def add(self, token: int) -> int | None:
        """None, or the number of tokens before the repetition began."""
        self._ids.append(token)
        start = len(self._ids) - self.size
        if start < 0:
            return None
        starts = self._seen.setdefault(tuple(self._ids[start:]), [])
        starts.append(start)
        return starts[1] if len(starts) == self.times else None


@dataclass(frozen=True)
class Generated:
    """Tokens without the one that stopped them and without repetitions, and why they ended."""

    ids: tuple[int, ...]
    ended: Literal["stop", "cap", "loop"]


def collect(tokens: Iterable[int], stops: Set[int], cap: int) -> Generated:
    """Take `tokens` until one of `stops`, at most `cap`, or until they go in circles."""
    ids: list[int] = []
    detector = LoopDetector()
    for token in tokens:
        if token in stops:
            return Generated(tuple(ids), "stop")
        ids.append(token)
        unique = detector.add(token)
        if unique is not None:
            return Generated(tuple(ids[:unique]), "loop")
        if len(ids) == cap:
            break
    return Generated(tuple(ids), "cap")
