"""Keyframes that the model generates beside the clip (LTX-2.5; spec pipelines.md section 1.9)."""

from __future__ import annotations

from collections.abc import Sequence

from ltx2.diffusion.frames import spaced_keyframes
from ltx2.errors import UserError
from ltx2.models.transformer_config import TransformerConfig
from ltx2.pipelines.settings import Settings


def keyframe_slots(settings: Settings, config: TransformerConfig, frames: int) -> tuple[int, ...]:
    """The pixel frames of a clip of `frames` that `generated_keyframes` asks for, in order.

    Raises UserError for a model, pipeline or frame that cannot have them.
    """
    given = settings.generated_keyframes
    chosen = _spread(given, frames) if _is_number(given) else _listed(given, frames)
    if not chosen:
        return ()
    key = f"generated_keyframes={given}"
    if not config.keyframes:
        raise UserError(
            f"{key}: model={settings.model.name} was not trained to generate keyframes; drop it or"
            " use an LTX-2.5 model"
        )
    if not any(stage.keyframe_slots for stage in settings.pipeline.stages):
        raise UserError(
            f"{key} has no effect on pipeline={settings.pipeline.name}; use one_stage, two_stage,"
            " two_stage_hq or distilled"
        )
    return chosen


def _is_number(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _spread(count: int, frames: int) -> tuple[int, ...]:
    if count and not 0 < count <= frames - 2:
        raise UserError(
            f"generated_keyframes={count} does not fit a clip of {frames} frames; give 0 to"
            f" {max(0, frames - 2)}"
        )
    return tuple(spaced_keyframes(count, frames)) if count else ()


def _listed(given: object, frames: int) -> tuple[int, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(map(_is_number, given)):
        raise UserError(
            f"generated_keyframes={given} is no number of frames and no list of frames; give for"
            " example 3 or [24,48,72]"
        )
    chosen = sorted(set(given))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < frames:
        raise UserError(
            f"generated_keyframes={list(given)} goes beyond the clip's frames 0 to {frames - 1}"
        )
    return tuple(chosen)
