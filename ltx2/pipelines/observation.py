"""Shows every intermediate value of a run under the names of the recorded end-to-end cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ltx2.diffusion.loop import Denoised
from ltx2.diffusion.state import LatentState, generated_keyframes
from ltx2.pipelines.denoiser import Denoiser
from ltx2.pipelines.latents import STREAMS, Latents
from ltx2.pipelines.plan import StagePlan

Observe = Callable[[str, np.ndarray], Any]  # name such as `stage0.video.positions`, value


class Observer:
    """Counts sampling stages and denoiser calls and names what it passes on to `observe`."""

    def __init__(self, observe: Observe, backend: Any) -> None:
        self._observe, self._backend = observe, backend
        self._stage = 0

    def states(self, stage: StagePlan, states: dict[str, LatentState | None]) -> None:
        """The noised states a sampling stage begins with."""
        self._show("sigmas", np.asarray(stage.sigmas, np.float32))
        for stream, state in states.items():
            if state is None:
                continue
            self._show(f"{stream}.denoise_mask", state.mask)
            self._show(f"{stream}.clean", state.clean)
            self._show(f"{stream}.positions", state.positions)
            for key in ("keyframes_mask", "attention_mask"):
                if getattr(state, key) is not None:
                    self._show(f"{stream}.{key}", getattr(state, key))

    def watched(self, denoiser: Denoiser) -> Callable[..., Denoised]:
        """`denoiser` with inputs and results shown; the first call also shows each pass."""
        calls = 0

        def call(
            video: LatentState | None, audio: LatentState | None, sigma: float, step: int
        ) -> Denoised:
            nonlocal calls
            label = f"eval{calls:02d}"
            if calls == 0:
                denoiser.observe = lambda s, name, x: self._show(f"{s}.{label}.{name}", x)
            result = denoiser(video, audio, sigma, step)
            denoiser.observe = None
            calls += 1
            for stream, state in zip(STREAMS, (video, audio), strict=True):
                if state is not None:
                    self._show(f"{stream}.{label}.x", state.latent)
                    self._show(f"{stream}.{label}.denoised", getattr(result, stream))
            return result

        return call

    def keyframes(self, states: dict[str, LatentState | None]) -> None:
        """The frames that finished states generated beside the clip, if any."""
        video = states["video"]
        if video is not None and video.slots is not None:
            self._show("video.generated_keyframes", generated_keyframes(video))

    def latents(self, latents: Latents) -> None:
        """The result of a sampling stage; ends the stage."""
        for stream in STREAMS:
            value = getattr(latents, stream)
            if value is not None:
                self._show(f"{stream}.latent", value)
        self._stage += 1

    def upsampled(self, video: Any) -> None:
        """The video latent after an upscaling stage."""
        self._observe("upsampled", self._backend.numpy(video))

    def _show(self, name: str, value: Any) -> None:
        host = value if isinstance(value, np.ndarray) else self._backend.numpy(value)
        self._observe(f"stage{self._stage}.{name}", host)
