"""The sampler object of a stage from the sampler settings."""

from __future__ import annotations

import dataclasses

from ltx2.diffusion.loop import Sampler
from ltx2.diffusion.noise import NoiseSource
from ltx2.diffusion.samplers import make_sampler
from ltx2.pipelines.settings import Settings, StageSettings

NOISE_FIELDS = ("noise", "step_noise", "substep_noise")


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
