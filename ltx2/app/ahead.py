"""What is known of a run before it begins: its plan in words, and what the cache holds of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltx2.app.schema import Root
    from ltx2.experiment.session import Session
    from ltx2.pipelines.plan import Plan

log = logging.getLogger(__name__)


def plan_text(settings: Root) -> str:
    """What plan=true prints. Raises UserError for settings that cannot run."""
    from ltx2.app.build import build_table
    from ltx2.experiment.machine import machine
    from ltx2.experiment.report import report
    from ltx2.experiment.run import component_dtypes
    from ltx2.pipelines.planning import make_plan

    plan = make_plan(settings)
    for group in ("metrics", "logger"):
        build_table(group, getattr(settings, group))
    device = machine(backend_name(settings), settings.backend.device)
    dtypes = component_dtypes(plan.settings, device)
    outputs = Path(settings.paths.outputs)
    plan = fitted_plan(settings, plan, dtypes)
    return report(plan, dtypes, device, lambda: held_stages(settings, plan), outputs)


def backend_name(settings: Root) -> str:
    """torch or mlx."""
    return settings.backend._target_.rpartition(".")[2].removesuffix("Backend").lower()


def fitted_plan(settings: Root, plan: Plan, dtypes: dict[str, str]) -> Plan:
    """`plan` with the quantisation of the text encoder that a run would choose now."""
    from ltx2.experiment.device_facts import recall
    from ltx2.experiment.machine import machine
    from ltx2.experiment.session import Session
    from ltx2.pipelines.text_choice import text_is_held, with_text_choice

    facts = recall(Path(settings.paths.outputs), settings.backend)
    keeping = Session().keeping(settings.cache)
    return with_text_choice(
        plan,
        dtypes,
        lambda: machine(backend_name(settings), settings.backend.device).free_bytes,
        (lambda: False) if facts is None else text_is_held(plan, facts, dtypes, keeping),
    )


def held_stages(settings: Root, plan: Plan | None = None) -> dict[str, bool]:
    """Whether the cache holds the result of each stage that the run would otherwise compute."""
    actions = stage_actions(settings, plan)
    return {name: action == "reused" for name, action in actions.items() if action != "not needed"}


def stage_actions(settings: Root, plan: Plan | None = None) -> dict[str, str]:
    """What a run would do about each stage: computed, reused or not needed.

    Empty without a cache, and on a device that no run has been made on.
    """
    from ltx2.experiment.ahead import predicted_actions
    from ltx2.experiment.device_facts import recall
    from ltx2.experiment.run import component_dtypes
    from ltx2.pipelines.planning import make_plan

    facts = recall(Path(settings.paths.outputs), settings.backend)
    if facts is None or settings.cache.mode == "off":
        return {}
    given = plan or make_plan(settings)
    dtypes = component_dtypes(given.settings, facts)
    plan = given if plan is not None else fitted_plan(settings, given, dtypes)
    return predicted_actions(plan, facts, dtypes, settings.cache)


def make_backend(settings: Root) -> Any:
    """The backend of the settings; what it is, is noted for later plans."""
    from ltx2.app.build import build
    from ltx2.backends.mixed import refuse_mixed_products
    from ltx2.experiment.device_facts import remember

    backend = build(settings.backend)
    refuse_mixed_products(settings.debug_dtypes)
    remember(Path(settings.paths.outputs), settings.backend, backend)
    return backend


def encode_texts(several: Sequence[Root], session: Session) -> None:
    """Encode the prompts of several runs at once, where they share a backend and a cache."""
    from ltx2.experiment.ahead import encode_ahead
    from ltx2.experiment.run import component_dtypes
    from ltx2.pipelines.planning import make_plan
    from ltx2.pipelines.text_choice import text_is_held, with_text_choice

    waiting = [item for item in several if item.cache.mode != "off"]
    while waiting:
        first = waiting[0]
        shared = [s for s in waiting if (s.backend, s.cache) == (first.backend, first.cache)]
        waiting = [item for item in waiting if item not in shared]
        if len({item.prompt for item in shared}) < 2:
            continue
        backend = make_backend(first)
        plans = [make_plan(item) for item in shared]
        dtypes = [component_dtypes(plan.settings, backend) for plan in plans]
        keeping = session.keeping(first.cache)
        chosen = [
            with_text_choice(
                plan, types, backend.free_bytes, text_is_held(plan, backend, types, keeping)
            )
            for plan, types in zip(plans, dtypes, strict=True)
        ]
        encode_ahead(chosen, backend, dtypes, keeping)
