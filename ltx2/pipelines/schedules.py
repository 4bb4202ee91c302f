"""Sigmas of a stage from the scheduler settings, and the rule of which model takes which."""

from __future__ import annotations

from ltx2.diffusion import sigmas as schedules
from ltx2.errors import UserError, nearest
from ltx2.pipelines.settings import SchedulerSettings, Settings, StageSettings

KINDS = ("ltx2", "linear_quadratic", "beta", "list")
MOST_STEPS = 1000


def stage_sigmas(settings: Settings, stage: StageSettings, tokens: int) -> tuple[float, ...]:
    """steps + 1 values, strictly decreasing to 0. Raises UserError when it cannot be used."""
    if stage.schedule != "main":
        return _named(settings, stage.schedule)
    scheduler = settings.scheduler
    if scheduler.sigmas is not None:
        if scheduler.steps is not None and scheduler.steps != len(scheduler.sigmas) - 1:
            raise UserError(
                f"scheduler.steps={scheduler.steps} has no effect on a list of"
                f" {len(scheduler.sigmas) - 1} steps; drop it or give other sigmas"
            )
        return schedules.validate_sigmas(scheduler.sigmas)
    if scheduler.kind == "list":
        raise UserError("scheduler.sigmas is empty; give a list such as [1.0,0.9,0.7,0.4,0.0]")
    return schedules.validate_sigmas(_computed(scheduler, tokens))


def _named(settings: Settings, name: str) -> tuple[float, ...]:
    if name not in settings.schedules:
        hint = nearest(name, settings.schedules)
        raise UserError(f"schedule '{name}' is not under schedules{hint}")
    return schedules.validate_sigmas(settings.schedules[name])


def _computed(scheduler: SchedulerSettings, tokens: int) -> tuple[float, ...]:
    steps = scheduler.steps
    if steps is None or not 1 <= steps <= MOST_STEPS:
        raise UserError(f"scheduler.steps={steps} is not in 1 to {MOST_STEPS}; use for example 30")
    if scheduler.kind == "linear_quadratic":
        return schedules.linear_quadratic_sigmas(steps)
    if scheduler.kind == "beta":
        return schedules.beta_sigmas(steps)
    if scheduler.kind != "ltx2":
        hint = nearest(scheduler.kind, KINDS)
        raise UserError(f"scheduler.kind={scheduler.kind} is unknown{hint}; use {', '.join(KINDS)}")
    count = tokens if scheduler.tokens == "auto" else scheduler.tokens
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"scheduler.tokens={scheduler.tokens} is not auto or a positive number")
    try:
        return schedules.validate_sigmas(
            schedules.ltx2_sigmas(
                steps,
                count,
                max_shift=scheduler.max_shift,
                base_shift=scheduler.base_shift,
                terminal=scheduler.terminal,
            )
        )
    except (OverflowError, UserError):
        raise UserError(
            f"scheduler.steps={steps} with the shift of {count} tokens gives levels that float32"
            " cannot tell apart; use scheduler.tokens=4096 or fewer steps"
        ) from None


def check_schedule_of_model(settings: Settings) -> None:
    """A distilled model takes its own list, a dev model a schedule; explicit sigmas are trusted."""
    scheduler, model = settings.scheduler, settings.model
    if all(s.schedule != "main" for s in settings.pipeline.stages if s.do == "sample"):
        return
    distilled_list = settings.schedules.get("distilled")
    is_list = scheduler.kind == "list"
    if model.kind == "distilled" and not is_list and scheduler.sigmas is None:
        raise UserError(
            f"model={model.name} is distilled and cannot follow scheduler={scheduler.kind};"
            " use scheduler=distilled (or give scheduler.sigmas=[...] explicitly)"
        )
    if model.kind == "dev" and is_list and scheduler.sigmas == distilled_list:
        raise UserError(
            f"model={model.name} is not distilled and cannot follow the distilled list;"
            " use scheduler=ltx2 pipeline=two_stage, or a distilled model"
        )
