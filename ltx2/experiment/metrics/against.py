"""Everything that can be compared with one reference, whose frames are read once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ltx2.errors import UserError
from ltx2.experiment.metrics.base import Clip, Measure, Results
from ltx2.experiment.metrics.distances import LatentDistance, SpectrogramDistance
from ltx2.experiment.metrics.picture import Picture
from ltx2.experiment.metrics.reference import Reference, find_reference
from ltx2.experiment.metrics.similarity import (
    SMALLEST_MS_SSIM,
    Compared,
    MsSsim,
    Psnr,
    Ssim,
    pair_of,
)

log = logging.getLogger(__name__)


@dataclass
class Against(Measure):
    """PSNR, SSIM, MS-SSIM, spectrogram and latent distance: of these, what the reference at `path`
    and this run both have.
    """

    path: str | None = None
    names: ClassVar = (*Psnr.names, *Ssim.names)

    def start(self, clip: Clip) -> None:
        found = find_reference(self.path, "metrics.reference.path")
        self._pairs: list[Compared] = []
        self._sound: SpectrogramDistance | None = None
        self._latents: LatentDistance | None = None
        if clip.height and found.video is not None:
            self._open_pictures(found, clip)
        if found.sound is not None:
            self._sound = SpectrogramDistance()
            self._sound.open(found, clip)
        if found.latents is not None and any(found.latents.glob("*.steps.safetensors")):
            self._latents = LatentDistance()
            self._latents.open(found, clip)
            self.watches_steps = True
        if not self._parts:
            raise UserError(f"{found.key}={found.path} has nothing that this run makes, too")
        log.info("compared with %s: %s", found.path, ", ".join(p.names[0] for p in self._parts))

    def _open_pictures(self, found: Reference, clip: Clip) -> None:
        self._pictures: Iterator[np.ndarray] = found.pictures(clip)
        self._pairs = [Psnr(), Ssim()]
        if min(clip.height, clip.width) >= SMALLEST_MS_SSIM:
            self._pairs.append(MsSsim())
        for measure in self._pairs:
            measure.prepare(clip)

    @property
    def _parts(self) -> list[Measure]:
        rest = [part for part in (self._sound, self._latents) if part is not None]
        return [*self._pairs, *rest]

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        if self._sound is not None:
            self._sound.audio(waveform, rate)

    def frame(self, picture: Picture) -> None:
        if self._pairs:
            pair = pair_of(picture, self._pictures)
            for measure in self._pairs:
                measure.compare(pair)

    def step(
        self, stage: str, index: int, video: np.ndarray | None, audio: np.ndarray | None
    ) -> None:
        if self._latents is not None:
            self._latents.step(stage, index, video, audio)

    def result(self) -> Results:
        return {name: value for part in self._parts for name, value in part.result().items()}
