"""Whether a text encoder that does not fit is quantised: where streaming is no way out.

Streaming is exact and costs nothing to encode a prompt, which reads every weight once anyway. A
prompt that is rewritten reads them once for every token: then int8 in memory is the cheaper way.
It changes the result, so it is chosen before anything is computed and becomes part of the
settings: keys, config.yaml and run.json hold it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ltx2.pipelines.identity import device_identity
from ltx2.pipelines.keeper import Keeping
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.memory import Need, fits, text_need
from ltx2.pipelines.plan import Plan
from ltx2.pipelines.quantisation import text_widths
from ltx2.weights.quantise import DEFAULT_GROUP, is_in_block

log = logging.getLogger(__name__)

MODE = "int8"
# Streaming the encoder more often takes longer than quantising it, which reads it once.
MANY_READS = 16
SMALLER_GROUP = 32


def with_text_choice(
    plan: Plan,
    dtypes: dict[str, str],
    free_bytes: Callable[[], int | None],
    is_held: Callable[[], bool] = lambda: False,
) -> Plan:
    """`plan`, with quant.text=int8 where memory.text_encoder=auto has no better way that fits.

    `is_held` tells that the contexts are known already, so that nothing would be encoded. Free
    memory that is not known (None) leaves the plan as it is.
    """
    settings = plan.settings
    if settings.memory.text_encoder != "auto" or settings.quant.text != "none":
        return plan
    if "text_encoder" not in plan.files or not any(s.sigmas is not None for s in plan.stages):
        return plan
    need, free = text_need(plan, dtypes["text_encoder"], plan.prompts), free_bytes()
    if free is None or fits(need.weights + need.working, free):
        return plan
    reads = streamed_reads(plan)
    streamed = need.streamed(settings.memory.ahead) + need.working
    if fits(streamed, free) and reads <= MANY_READS:
        return plan
    quantised = _quantised(plan)
    if quantised is None:
        return plan
    smaller = text_need(quantised, dtypes["text_encoder"], plan.prompts)
    if not fits(smaller.weights + smaller.working, free) or is_held():
        return plan
    why = f"reads it {reads} times" if fits(streamed, free) else "does not fit either"
    notice = _notice(need, smaller, free, why)
    log.info("%s", notice)
    return replace(quantised, notices=(*plan.notices, notice))


def streamed_reads(plan: Plan) -> int:
    """How often a streamed text encoder is read: once per prompt and per token of a rewritten one.

    The most there may be: a rewritten prompt may end early.
    """
    enhance = plan.settings.enhance
    return plan.prompts + enhance.enabled * enhance.max_new_tokens


def text_is_held(
    plan: Plan, device: Any, dtypes: dict[str, str], keeping: Keeping
) -> Callable[[], bool]:
    """Tells whether the contexts of the plan's prompts are there, as its settings encode them."""

    def is_held() -> bool:
        if keeping.texts or keeping.store is None:
            return bool(keeping.texts)
        keys = Keys(plan, device_identity(device), dtypes, keeping.weights)
        prompts = [False, True] if plan.needs_negative else [False]
        return all(keeping.store.find(keys.text(negative)) is not None for negative in prompts)

    return is_held


def _quantised(plan: Plan) -> Plan | None:
    """`plan` in int8; None where a layer's width is no multiple of the inputs of a scale."""
    quant = plan.settings.quant
    free_to_choose = quant.group_size is None and quant.blocks not in ("int8", "int4")
    group = DEFAULT_GROUP if quant.group_size is None else quant.group_size
    widths = [width for name, width in text_widths(plan.files).items() if is_in_block(name)]
    if any(width % group for width in widths):
        if not free_to_choose or any(width % SMALLER_GROUP for width in widths):
            return None
        quant = replace(quant, group_size=SMALLER_GROUP)
    settings = replace(plan.settings, quant=replace(quant, text=MODE))
    return replace(plan, settings=settings)


def _notice(need: Need, smaller: Need, free: int, why: str) -> str:
    return (
        f"the text encoder is quantised to {MODE}: {(need.weights + need.working) / 1e9:.1f} GB do"
        f" not fit into {free / 1e9:.1f} GB and streaming {why}; {MODE} takes"
        f" {(smaller.weights + smaller.working) / 1e9:.1f} GB and changes the result a little;"
        " memory.text_encoder=stream keeps it exact"
    )
