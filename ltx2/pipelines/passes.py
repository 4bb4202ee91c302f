"""The runs of the sampler that make up a stage: one, one per window, or one per tile of a round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ltx2.diffusion.loop import Sampler
from ltx2.diffusion.noise import NoiseSource
from ltx2.diffusion.state import LatentState
from ltx2.pipelines.latents import Latents, StateBuilder
from ltx2.pipelines.plan import StagePlan
from ltx2.pipelines.rounds import Round
from ltx2.pipelines.sampling import stage_sampler
from ltx2.pipelines.windows import joined, window_states, windows


@dataclass(frozen=True)
class Pass:
    """One run of the sampler.

    `states` are noised, given what the passes before made; `joined` adds to that what it made.
    """

    states: Callable[[Latents], dict[str, LatentState | None]]
    joined: Callable[[Latents, Latents], Latents]
    sampler: Sampler


def stage_passes(
    builder: StateBuilder,
    stage: StagePlan,
    start: Latents,
    items: list[Any],
    noise: NoiseSource | None = None,
) -> list[Pass]:
    """The passes of `stage` in order; `noise` replaces the noise of their samplers."""
    plan = builder.plan

    def sampler() -> Sampler:
        return stage_sampler(plan.settings, stage.settings, noise)

    if stage.settings.round:
        own = Round(plan, stage, builder, start, items)
        return [
            Pass(partial(own.states, tile), partial(own.joined, tile), own.sampler(index, noise))
            for index, tile in enumerate(own.tiles)
        ]
    if stage.settings.windows:
        return [
            Pass(
                partial(window_states, builder, stage, window, start, items),
                partial(joined, window),
                sampler(),
            )
            for window in windows(plan)
        ]

    def states(_done: Latents) -> dict[str, LatentState | None]:
        return builder.states(stage, start, items)

    return [Pass(states, lambda _done, made: made, sampler())]
