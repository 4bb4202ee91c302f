"""A look at a clip while it is sampled: a strip of frames decoded from the current estimate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.diffusion.noise import TorchNoise
from ltx2.errors import UserError
from ltx2.media.contact import contact_sheet
from ltx2.media.hdr import shown
from ltx2.media.images import write_png
from ltx2.models.diffusion_decoder import DiffusionDecoder
from ltx2.models.tiling import decode_frames
from ltx2.models.video_vae import VideoDecoder
from ltx2.ops import Array
from ltx2.pipelines.components.video import load_video_decoder
from ltx2.pipelines.cost import component_parameters
from ltx2.pipelines.decoding import set_border
from ltx2.pipelines.hdr import is_hdr
from ltx2.pipelines.plan import Plan, StagePlan

log = logging.getLogger(__name__)

FOLDER = "previews"
MOST_FRAMES, TILE_PX = 8, 256


def check_preview(plan: Plan, stages: tuple[StagePlan, ...]) -> None:
    """Raise UserError for a period that is not one, or after which no preview would come."""
    every = plan.settings.preview.every
    if every < 0:
        raise UserError(f"preview.every={every} is negative; use 0 (none) or for example 5")
    if every == 0:
        return
    shown = [s for s in stages if s.sigmas is not None and "video" in s.settings.streams]
    if not shown:
        name = plan.settings.pipeline.name
        raise UserError(
            f"preview.every={every} has no effect: pipeline={name} samples no pictures; use 0"
        )
    most = max(len(stage.sigmas or ()) - 1 for stage in shown)
    if every > most:
        raise UserError(
            f"preview.every={every} is more than the {most} steps of the longest stage;"
            f" use 1 to {most}"
        )


class Previewer:
    """Writes strips into `folder`/previews with the run's decoder, loaded once and kept.

    Latent frames are decoded one by one as clips of one frame: a strip costs as much as its few
    frames, whatever the clip's length. A preview that fails is the last one, and a warning.
    """

    def __init__(self, plan: Plan, backend: Any, dtype: str, folder: Path) -> None:
        self._plan, self._backend, self._dtype = plan, backend, dtype
        self._folder = folder / FOLDER
        self._decoder: VideoDecoder | DiffusionDecoder | None = None
        self._failed = False
        self.record: dict[str, Any] = {"count": 0, "decoder_bytes": self._decoder_bytes()}

    def due(self, steps_done: int) -> bool:
        """Whether a preview follows step number `steps_done` (from 1)."""
        every = self._plan.settings.preview.every
        return every > 0 and steps_done % every == 0 and not self._failed

    def write(self, stage: str, steps_done: int, video: Array) -> None:
        """Save the strip of latents (1, F, H, W, C) as `<stage>-<steps_done>.png`."""
        path = self._folder / f"{stage}-{steps_done:03d}.png"
        try:
            self._folder.mkdir(exist_ok=True)
            write_png(path, self._strip(video))
        except Exception as error:  # a look at the clip must not cost the clip
            self._failed = True
            self.free()
            self.record["failed"] = f"{type(error).__name__}: {error}"
            log.warning("no more previews: %s", self.record["failed"])
        else:
            self.record["count"] += 1
            log.info("preview %s", path.name)

    def free(self) -> None:
        """Let the decoder go; the next preview would load it again."""
        self._decoder = None

    def _strip(self, video: Array) -> np.ndarray:
        if self._decoder is None:
            header = self._plan.header_of("video_vae")
            self._decoder = load_video_decoder(header, self._backend, self._dtype)
            set_border(self._decoder, self._plan.settings.decoder)
        count = min(MOST_FRAMES, video.shape[1])
        picks = np.linspace(0, video.shape[1] - 1, count).round().astype(int)
        # Decoders that inject noise take it from elsewhere: the run's own draws stay the run's.
        noise = TorchNoise(self._plan.settings.seed).normal
        frames = [
            next(decode_frames(self._decoder, video[:, pick : pick + 1], None, noise))[0]
            for pick in picks.tolist()
        ]
        if is_hdr(self._plan.settings):
            frames = [shown(frame) for frame in frames]
        width = min(TILE_PX, frames[0].shape[1])
        return contact_sheet(np.stack(frames), count=count, columns=count, tile_width=width)

    def _decoder_bytes(self) -> int:
        parameters = component_parameters(self._plan.header_of("video_vae"))
        return parameters.get("video VAE decoder", 0) * (4 if self._dtype == "fp32" else 2)
