"""The sampler object of a stage from the sampler settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ltx2.diffusion.guidance import passes
from ltx2.diffusion.loop import Sampler
from ltx2.diffusion.noise import NoiseSource
from ltx2.diffusion.samplers import make_sampler
from ltx2.errors import UserError
from ltx2.pipelines.guidance import GuidancePair
from ltx2.pipelines.settings import Settings, StageSettings

AUTO, RELEASE = "auto", "release"
NOISE_FIELDS = ("noise", "step_noise", "substep_noise")


def with_sampler(settings: Settings) -> Settings:
    """Settings in which every stage names a sampler, or main; sampler=auto is resolved.

    Stages with sampler `release` take that of the model's preset, unless another was chosen.
    """
    chosen = settings.sampler
    auto = chosen.kind == AUTO
    release = settings.model.preset.distilled_sampler if auto else "main"
    stages = [
        dataclasses.replace(stage, sampler=release) if stage.sampler == RELEASE else stage
        for stage in settings.pipeline.stages
    ]
    return dataclasses.replace(
        settings,
        sampler=dataclasses.replace(chosen, kind="euler") if auto else chosen,
        pipeline=dataclasses.replace(settings.pipeline, stages=stages),
    )


def check_unconditional(
    settings: Settings, stage: StageSettings, guidance: GuidancePair, sigmas: Sequence[float]
) -> None:
    """Refuse CFG++ where a step has no unconditional estimate of a stream."""
    kind = settings.sampler.kind if stage.sampler == "main" else stage.sampler
    if kind != "cfg_pp":
        return
    for step, sigma in enumerate(sigmas[:-1]):
        plan = passes(guidance.video.at(sigma), guidance.audio.at(sigma), step)
        if "uncond" not in plan.names or not all(getattr(plan, s) for s in stage.streams):
            raise UserError(
                f"sampler=cfg_pp needs cfg other than 1 and no skip_step at every step, but stage"
                f" '{stage.name}' has no unconditional estimate at step {step}; use guidance=cfg"
                " pipeline=one_stage, or another sampler"
            )


def stage_sampler(
    settings: Settings, stage: StageSettings, noise: NoiseSource | None = None
) -> Sampler:
    """The sampler of `stage`, at the start of its noise streams; `noise` replaces the streams.

    Raises UserError for an unknown name or an option that the sampler does not have.
    """
    options = dataclasses.asdict(settings.sampler)
    kind = options.pop("kind")
    given = {name: value for name, value in options.items() if value is not None}
    if stage.sampler == "main":
        sampler = make_sampler(kind, settings.seed, given)
    else:
        # Options belong to the sampler they were given for.
        sampler = make_sampler(stage.sampler, settings.seed, given if stage.sampler == kind else {})
    if noise is None:
        return sampler
    own = {item.name for item in dataclasses.fields(sampler)}  # type: ignore[arg-type]
    injected = dict.fromkeys(own.intersection(NOISE_FIELDS), noise)
    return dataclasses.replace(sampler, **injected)  # type: ignore[type-var]
