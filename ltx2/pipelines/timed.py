"""The second plan of a run with frames=auto, made once its prompts are encoded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ltx2.pipelines.checks import Checks
from ltx2.pipelines.durations import ROLE, load_duration_head, predicted_seconds, with_frames
from ltx2.pipelines.keeper import Keeper, Keeping
from ltx2.pipelines.plan import Plan
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.runner import Runner
from ltx2.pipelines.text_stage import encode_text


def timed_plan(
    plan: Plan, backend: Any, dtypes: dict[str, str], keeping: Keeping, resident: Any = None
) -> tuple[Plan, Keeping]:
    """`plan` for the length its prompt asks for, and `keeping` with the encoded prompts.

    A plan that does not want a duration comes back as it is.
    """
    if not plan.wants_duration:
        return plan, keeping
    runner = Runner(plan, backend, dtypes, resident=resident, keeping=keeping)
    runner.keeper = Keeper(plan, backend, dtypes, keeping, Checks(plan.settings.checks))
    with backend.inference():
        contexts = encode_text(runner)
        head = load_duration_head(plan.headers[ROLE], backend, dtypes["connectors"])
        seconds = predicted_seconds(head, contexts[0].video, contexts[0].audio)
    backend.free()
    enhanced = (runner.outcome.enhanced_prompt, None)
    texts = {bool(i): (context, enhanced[i]) for i, context in enumerate(contexts)}
    settings = with_frames(plan.settings, seconds, plan.scale.time)
    return make_plan(settings), replace(keeping, texts=texts)
