"""Guidance of a stage: the preset's values, what a model allows, and how many passes it costs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ltx2.diffusion.guidance import Guidance, passes
from ltx2.errors import UserError
from ltx2.pipelines.settings import GuidanceSettings, StageSettings, StreamGuidance

NO_GUIDANCE = Guidance(cfg=1.0, stg=0.0, stg_blocks=(), rescale=0.0, modality=1.0, skip_step=0)


@dataclass(frozen=True)
class GuidancePair:
    """Guidance of the two streams, and how many passes may share one transformer call (0: all)."""

    video: Guidance
    audio: Guidance
    max_batch: int = 0

    @classmethod
    def of(cls, settings: GuidanceSettings, stage: StageSettings, layers: int) -> GuidancePair:
        """The guidance of `stage`; STG blocks must exist in a transformer of `layers` blocks."""
        if stage.guidance == "none":
            return cls(NO_GUIDANCE, NO_GUIDANCE)
        if stage.guidance != "main":
            what = f"stage '{stage.name}': guidance={stage.guidance}"
            raise UserError(f"{what} is unknown; use main or none")
        if settings.max_batch < 0:
            what = f"guidance.max_batch={settings.max_batch}"
            raise UserError(f"{what} is negative; 0 runs all passes at once")
        video = _checked("video", settings.video, layers)
        audio = _checked("audio", settings.audio, layers)
        if len(stage.streams) == 1:
            # A stream alone has no other stream to be guided away from.
            video, audio = video.alone(), audio.alone()
        return cls(video, audio, settings.max_batch)

    def passes_at(self, step: int) -> int:
        """Number of transformer passes at a step."""
        return len(passes(self.video, self.audio, step).names)

    @property
    def needs_negative(self) -> bool:
        return self.video.cfg != 1 or self.audio.cfg != 1


def resolve_guidance(given: GuidanceSettings, preset: GuidanceSettings) -> GuidanceSettings:
    """`given` with every None taken from the preset."""
    return dataclasses.replace(
        given,
        video=_merged(given.video, preset.video),
        audio=_merged(given.audio, preset.audio),
    )


def _merged(given: StreamGuidance, preset: StreamGuidance) -> StreamGuidance:
    values = {
        item.name: getattr(preset if getattr(given, item.name) is None else given, item.name)
        for item in dataclasses.fields(StreamGuidance)
    }
    return StreamGuidance(**values)


def _checked(stream: str, given: StreamGuidance, layers: int) -> Guidance:
    blocks = tuple(given.stg_blocks or ())
    outside = [b for b in blocks if not 0 <= b < layers]
    stg = 0.0 if given.stg is None else given.stg
    if stg != 0 and outside:
        raise UserError(
            f"guidance.{stream}.stg_blocks={list(blocks)}: block {outside[0]} does not exist;"
            f" the transformer has blocks 0 to {layers - 1}"
        )
    if stg != 0 and not blocks:
        raise UserError(f"guidance.{stream}.stg={stg} needs stg_blocks, such as [{layers // 2}]")
    skip = given.skip_step or 0
    rescale = 0.0 if given.rescale is None else given.rescale
    if skip < 0:
        raise UserError(f"guidance.{stream}.skip_step={skip} is negative; 0 skips nothing")
    if not 0 <= rescale <= 1:
        raise UserError(f"guidance.{stream}.rescale={rescale} is not in [0, 1]")
    return Guidance(
        cfg=1.0 if given.cfg is None else given.cfg,
        stg=stg,
        stg_blocks=blocks,
        rescale=rescale,
        modality=1.0 if given.modality is None else given.modality,
        skip_step=skip,
    )
