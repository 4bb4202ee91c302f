"""Going on with an interrupted stage: estimates that were computed already are replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ltx2.diffusion.loop import Denoised
from ltx2.diffusion.state import LatentState
from ltx2.pipelines.store import Journal

log = logging.getLogger(__name__)

PARTS = ("video", "audio", "uncond_video", "uncond_audio")
Call = Callable[[LatentState | None, LatentState | None, float, int], Denoised]


class Replayed:
    """Counts the denoiser calls of a stage, through all windows, and journals their results."""

    def __init__(self, journal: Journal, backend: Any) -> None:
        self.journal, self._backend = journal, backend
        self._calls = 0
        self._replaying = True

    def watched(self, denoiser: Call) -> Call:
        """`denoiser`, which is not called as long as the journal knows its result."""

        def call(
            video: LatentState | None, audio: LatentState | None, sigma: float, step: int
        ) -> Denoised:
            index, self._calls = self._calls, self._calls + 1
            kept = self.journal.replay(index) if self._replaying else None
            if kept is not None and self._fits(kept, video, audio):
                if index == 0:
                    log.info("going on with an interrupted stage")
                parts = {name: kept.get(name) for name in PARTS}
                return Denoised(
                    **{n: None if x is None else self._backend.array(x) for n, x in parts.items()}
                )
            self._replaying = False
            result = denoiser(video, audio, sigma, step)
            values = {name: getattr(result, name) for name in PARTS}
            hosts = {n: self._backend.numpy(x) for n, x in values.items() if x is not None}
            # Half precision would come back as float32: such a stage is not continued.
            if all(_is_single(x) for x in values.values() if x is not None):
                self.journal.add(index, hosts)
            return result

        return call

    @staticmethod
    def _fits(
        kept: dict[str, np.ndarray], video: LatentState | None, audio: LatentState | None
    ) -> bool:
        states = {"video": video, "audio": audio}
        return all(
            (state is None) == (name not in kept)
            and (state is None or kept[name].shape == tuple(state.latent.shape))
            for name, state in states.items()
        )


def _is_single(value: Any) -> bool:
    return str(value.dtype).endswith("float32")


@contextmanager
def ending(replayed: Replayed | None) -> Iterator[None]:
    """Keeps the journal of a stage that is interrupted; else it is not needed any more."""
    try:
        yield
    except KeyboardInterrupt:
        if replayed is not None:
            replayed.journal.flush()
        raise
    except BaseException:
        if replayed is not None:
            replayed.journal.remove()
        raise
    if replayed is not None:
        replayed.journal.remove()
