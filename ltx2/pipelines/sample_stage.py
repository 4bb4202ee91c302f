"""The sampling loop of one stage: steps, their log, their checks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ltx2.diffusion.loop import Sampler, Step, denoise
from ltx2.diffusion.state import LatentState
from ltx2.models.transformer import Transformer
from ltx2.pipelines.denoise_tiles import TiledDenoiser
from ltx2.pipelines.denoiser import Denoiser
from ltx2.pipelines.latents import STREAMS
from ltx2.pipelines.loras import StageContexts
from ltx2.pipelines.plan import StagePlan
from ltx2.pipelines.progress import Progress
from ltx2.pipelines.watching import StageWatch

if TYPE_CHECKING:
    from ltx2.pipelines.runner import Outcome

# One line per step: its own logger, so that a terminal with a progress bar can do without.
log = logging.getLogger("ltx2.steps")


class StepLog:
    """Writes a structured line per step and keeps it for the record."""

    def __init__(
        self,
        stage: StagePlan,
        backend: Any,
        outcome: Outcome,
        heard: Callable[[dict[str, Any], dict[str, np.ndarray]], None] | None = None,
    ) -> None:
        self._stage, self._backend, self._outcome = stage, backend, outcome
        self._heard = heard
        self._start = time.monotonic()

    def add(self, step: Step) -> None:
        """Record `step`; reading the statistics waits for the device. NaN or Inf fails the run."""
        values = {
            stream: self._backend.numpy(state.latent)
            for stream, state in zip(STREAMS, (step.video, step.audio), strict=True)
            if state is not None
        }
        now = time.monotonic()
        record: dict[str, Any] = {
            "stage": self._stage.name,
            "step": step.index,
            "sigma": round(step.sigma, 6),
            "sigma_next": round(step.sigma_next, 6),
            "seconds": round(now - self._start, 4),
            "memory_bytes": self._outcome.phases.memory_bytes(),
        }
        self._start = now
        for stream, value in values.items():
            self._outcome.checks.finite(
                f"{self._stage.name} step {step.index} ({stream})",
                value,
                "a half-precision overflow (try dtype.transformer=fp32), damaged weights, or files"
                " that do not fit",
            )
            record[f"{stream}_mean"] = round(float(value.mean()), 5)
            record[f"{stream}_std"] = round(float(value.std()), 5)
        self._outcome.steps.append(record)
        if self._heard is not None:
            self._heard(record, values)
        log.info("step %s", " ".join(f"{key}={value}" for key, value in record.items()))

    def restart(self) -> None:
        """What happened since the last step, such as a preview, is no part of the next one."""
        self._start = time.monotonic()


def run_steps(
    stage: StagePlan,
    states: dict[str, LatentState | None],
    transformer: Transformer,
    contexts: StageContexts,
    sampler: Sampler,
    steps: StepLog,
    progress: Progress,
    watch: StageWatch,
) -> dict[str, LatentState | None]:
    """Denoise `states` over the stage's sigmas and return the final ones by stream.

    `contexts` keeps the transformer's LoRAs in step with the sigma.
    """
    assert stage.sigmas is not None and stage.guidance is not None
    denoiser: Any = Denoiser(
        transformer,
        contexts=contexts,
        guidance=stage.guidance,
        on_call=progress.advance,
    )
    video = states["video"]
    if stage.tiles is not None and video is not None:
        denoiser = TiledDenoiser(denoiser, video, stage.tiles)
    watched: Any = watch.watched(denoiser)
    final: Step | None = None
    for final in denoise(sampler, (states["video"], states["audio"]), stage.sigmas, watched):
        steps.add(final)
        watch.after(final)
        steps.restart()
    assert final is not None, "a schedule has at least one step"
    return {"video": final.video, "audio": final.audio}
