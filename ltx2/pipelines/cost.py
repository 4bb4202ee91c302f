"""Rough arithmetic cost of each phase, so that progress over all of them can be estimated.

Floating-point operations from the architecture; what matters is the ratio between phases.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltx2.models.transformer_config import StreamConfig
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.weights.checkpoint import identify
from ltx2.weights.header import Header

TEXT_TOKENS = 1024
# Reading a parameter takes about as long as this many operations on a CPU.
READ = 300.0


@dataclass(frozen=True)
class PhaseCost:
    """A phase by the name the runner gives it: units of progress and operations per unit."""

    phase: str
    units: int
    per_unit: float

    @property
    def total(self) -> float:
        return self.units * self.per_unit


def phase_costs(plan: Plan) -> list[PhaseCost]:
    """Phases in the order they run; loading files counts as reading, not as arithmetic."""
    parameters = component_parameters(plan.headers["checkpoint"])
    prompts = 2 if plan.needs_negative else 1
    rows = [PhaseCost("text", prompts, 2.0 * TEXT_TOKENS * parameters.get("text connectors", 0))]
    loaded = False
    for stage in plan.stages:
        if stage.settings.do == "sample":
            if plan.settings.conditioning:
                pixels = stage.height * stage.width
                weights = parameters.get("video VAE encoder", 0)
                count = len(plan.settings.conditioning)
                rows.append(
                    PhaseCost(f"{stage.name} conditions", count, _vae(plan, weights, pixels))
                )
            if not loaded:
                rows.append(
                    PhaseCost("load transformer", 1, READ * parameters.get("transformer", 0))
                )
                loaded = True
            rows.append(
                PhaseCost(stage.name, stage.transformer_calls, transformer_pass(plan, stage))
            )
        elif stage.settings.do == "upscale":
            header = plan.headers[stage.settings.upscaler]
            weights = sum(info.size for info in header.tensors.values())
            rows.append(PhaseCost(stage.name, 1, 2.0 * weights * stage.tokens))
        elif stage.settings.do == "decode":
            weights = parameters.get("audio VAE decoder", 0) + parameters.get("vocoder", 0)
            rows.append(PhaseCost("audio decode", 1, 2.0 * weights * plan.audio_length))
            pixels = plan.height * plan.width
            weights = parameters.get("video VAE decoder", 0)
            rows.append(PhaseCost("video decode", plan.frames, _vae(plan, weights, pixels)))
    return rows


def component_parameters(header: Header) -> dict[str, int]:
    """Parameters of each component of a model file."""
    return {part.name: part.parameters for part in identify(header).parts}


def transformer_pass(plan: Plan, stage: StagePlan) -> float:
    """Operations of one guidance pass over both streams."""
    config = plan.transformer
    video, audio = stage.tokens_per_call, plan.audio_length
    return config.layers * (_block(config.video, video) + _block(config.audio, audio))


def _block(stream: StreamConfig, tokens: float) -> float:
    width = stream.heads * stream.head_dim
    linear = 2.0 * tokens * 16 * width**2
    attention = 4.0 * tokens * (tokens + TEXT_TOKENS) * width
    return linear + attention


def _vae(plan: Plan, parameters: int, pixels: float) -> float:
    """Operations per frame: most weights work at a middle resolution of the pyramid."""
    return 2.0 * parameters * pixels / (plan.scale.space * 2)
