"""Multi-modal guidance: which model passes a step needs and how their estimates combine.

Source: sampling spec, section 11.1. All sums are on x0 estimates, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.ops import Array

Blocks = tuple[int, ...] | None  # None means every block
Perturbation = tuple[str, Blocks]

ISOLATED: tuple[Perturbation, ...] = (("audio_to_video", None), ("video_to_audio", None))


@dataclass(frozen=True)
class Guidance:
    """Scales of one stream; the defaults switch every term off.

    cfg: away from the negative prompt, 1 is off. stg: away from a pass without self-attention in
    `stg_blocks`, 0 is off. modality: away from a pass without the other stream, 1 is off.
    rescale in [0, 1]: how far the result's deviation is drawn back to the conditioned one's.
    skip_step: steps that reuse the last result between two that are computed.
    """

    cfg: float = 1.0
    stg: float = 0.0
    stg_blocks: Blocks = None
    rescale: float = 0.0
    modality: float = 1.0
    skip_step: int = 0

    def __post_init__(self) -> None:
        if self.stg_blocks is not None:
            object.__setattr__(self, "stg_blocks", tuple(int(b) for b in self.stg_blocks))
        if self.stg != 0 and self.stg_blocks == ():
            raise UserError(f"stg={self.stg:g} has no effect without stg_blocks; name a block")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"rescale={self.rescale:g} must be between 0 and 1")
        if self.skip_step < 0:
            raise UserError(f"skip_step={self.skip_step} must be 0 or more")

    def at(self, sigma: float) -> Guidance:
        """The scales at noise level `sigma`: the same everywhere."""
        return self

    def alone(self) -> Guidance:
        """The scales of a stream that has no other stream to be isolated from."""
        return replace(self, modality=1.0)

    def skips(self, step: int) -> bool:
        """Whether this stream reuses its last result at `step`; never at step 0."""
        return step % (self.skip_step + 1) != 0

    def check_blocks(self, count: int) -> None:
        """UserError if `stg_blocks` names a block that a model of `count` blocks lacks."""
        bad = [b for b in self.stg_blocks or () if not 0 <= b < count]
        if bad:
            raise UserError(f"stg_blocks={list(self.stg_blocks or ())}: use 0 to {count - 1}")


@dataclass(frozen=True)
class GuidanceSchedule:
    """Scales that depend on the noise level: keys of `bins` are upper bounds of sigma."""

    bins: Mapping[float, Guidance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.bins:
            raise UserError("a guidance schedule needs at least one entry `sigma: scales`")

    def at(self, sigma: float) -> Guidance:
        """The scales of the smallest key >= `sigma`; above all keys, those of the largest."""
        reached = [key for key in self.bins if key >= sigma]
        return self.bins[min(reached) if reached else max(self.bins)]

    def alone(self) -> GuidanceSchedule:
        """The schedule of a stream that has no other stream to be isolated from."""
        return GuidanceSchedule({key: scales.alone() for key, scales in self.bins.items()})

    def check_blocks(self, count: int) -> None:
        """UserError if any entry names a block that a model of `count` blocks lacks."""
        for scales in self.bins.values():
            scales.check_blocks(count)


@dataclass(frozen=True)
class Passes:
    """The model passes of one step, in stacking order.

    `names` is empty when every stream is skipped, else starts with "cond"; `perturbations` has
    one entry per pass. `video`, `audio`: whether that stream is computed in this step.
    """

    names: tuple[str, ...]
    perturbations: tuple[tuple[Perturbation, ...], ...]
    video: bool
    audio: bool


def passes(video: Guidance | None, audio: Guidance | None, step: int) -> Passes:
    """What `step` needs: cond, and each of uncond, ptb, mod that a computed stream asks for.

    None is an absent stream. Streams without a use for a pass still run in it.
    """
    computed = [g for g in (video, audio) if g is not None and not g.skips(step)]
    plan: dict[str, tuple[Perturbation, ...]] = {}
    if computed:
        plan["cond"] = ()
    if any(g.cfg != 1 for g in computed):
        plan["uncond"] = ()
    if any(g.stg != 0 for g in computed):
        streams = (("video_self", video), ("audio_self", audio))
        plan["ptb"] = tuple((kind, g.stg_blocks) for kind, g in streams if g and g.stg != 0)
    if any(g.modality != 1 for g in computed):
        plan["mod"] = ISOLATED
    return Passes(
        names=tuple(plan),
        perturbations=tuple(plan.values()),
        video=video is not None and not video.skips(step),
        audio=audio is not None and not audio.skips(step),
    )


def combine(
    guidance: Guidance,
    cond: Array,
    uncond: Array | None = None,
    perturbed: Array | None = None,
    isolated: Array | None = None,
) -> Array:
    """The guided x0 of one stream from those of its passes, all (B, T, C), in the dtype of `cond`.

    A pass may be None where its scale is off. The deviations are taken over the whole array,
    conditioning tokens included.
    """
    conditioned = ops.f32(cond)
    guided = conditioned
    for scale, other in (
        (guidance.cfg - 1, uncond),
        (guidance.stg, perturbed),
        (guidance.modality - 1, isolated),
    ):
        if scale != 0:
            guided = guided + scale * (conditioned - ops.f32(other))
    if guidance.rescale != 0:
        ratio = ops.std(conditioned) / ops.std(guided)
        guided = guided * (guidance.rescale * ratio + (1 - guidance.rescale))
    return ops.like(guided, cond)
