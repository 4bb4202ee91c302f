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
    name = settings.backend._target_.rpartition(".")[2].removesuffix("Backend").lower()
    device = machine(name, settings.backend.device)
    dtypes = component_dtypes(plan.settings, device)
    outputs = Path(settings.paths.outputs)
    return report(plan, dtypes, device, lambda: held_stages(settings, plan), outputs)


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
    plan = plan or make_plan(settings)
    return predicted_actions(plan, facts, component_dtypes(plan.settings, facts), settings.cache)


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
        encode_ahead(plans, backend, dtypes, session.keeping(first.cache))
