"""The sampler object of a stage from the sampler settings."""

from __future__ import annotations

import dataclasses

from ltx2.diffusion.loop import Sampler
from ltx2.diffusion.samplers import make_sampler
from ltx2.pipelines.settings import Settings


def stage_sampler(settings: Settings) -> Sampler:
    """The sampler named by `settings.sampler`, at the start of its noise streams.

    Raises UserError for an unknown name or an option that the sampler does not have.
    """
    options = dataclasses.asdict(settings.sampler)
    kind = options.pop("kind")
    given = {name: value for name, value in options.items() if value is not None}
    return make_sampler(kind, settings.seed, given)
