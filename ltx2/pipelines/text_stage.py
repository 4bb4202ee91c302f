"""The text of a run: prompts, rewritten if asked for, to the contexts the transformer reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ltx2.pipelines.components.enhance import EnhanceOptions, enhance_prompts
from ltx2.pipelines.components.text import TextContext, encode_prompts
from ltx2.pipelines.memory import choose, text_need
from ltx2.pipelines.quantisation import text_quantisation
from ltx2.weights.streaming import Streaming

if TYPE_CHECKING:
    from ltx2.pipelines.runner import Runner

Encoded = tuple[TextContext, str | None]  # and the enhanced prompt
# The encoder's weights and what it computes.
ROOM = 1.2


def encode_text(run: Runner) -> list[TextContext]:
    """Contexts of the prompt and, where guidance needs it, of the negative prompt."""
    assert run.keeper is not None
    negatives = [False, True] if run.plan.needs_negative else [False]
    found = {negative: run.keeper.text(negative) for negative in negatives}
    absent = [negative for negative in negatives if found[negative] is None]
    seconds = 0.0
    if absent:
        found |= _encoded(run, absent)
        seconds = run.outcome.phases.records[-1].seconds
    contexts = []
    for kept in found.values():
        assert kept is not None
        context, enhanced = kept
        contexts.append(context)
        run.outcome.text.append({"tokens": context.tokens, "truncated": context.truncated})
        if enhanced is not None:
            run.outcome.enhanced_prompt = enhanced
    run.note("text", "computed" if absent else "reused", seconds)
    return contexts


def _encoded(run: Runner, absent: list[bool]) -> dict[bool, Encoded]:
    """Encode and keep the positive (False) and negative prompts that are `absent`."""
    plan, keeper = run.plan, run.keeper
    assert keeper is not None
    folder = plan.files["text_encoder"]
    if run.resident is not None:
        weights = folder.glob("*.safetensors") if folder.is_dir() else [folder]
        size = sum(item.stat().st_size for item in weights)
        run.resident.make_room(ROOM * size, run.backend)
    prompts = [plan.settings.negative_prompt or "" if n else _prompt(run) for n in absent]
    with run.phase("text", len(prompts)):
        contexts = encode_prompts(
            prompts,
            folder,
            plan.headers["checkpoint"],
            run.backend,
            run.dtypes,
            lambda what, done, total: run.progress.advance(0, f"{what} {done}/{total}"),
            text_quantisation(plan.settings),
            _streaming(run, len(prompts)),
        )
    made = {}
    for negative, context in zip(absent, contexts, strict=True):
        enhanced = None if negative else run.outcome.enhanced_prompt
        keeper.put_text(negative, context, enhanced)
        made[negative] = context, enhanced
    return made


def _prompt(run: Runner) -> str:
    """The prompt, rewritten by the language model if the settings ask for it."""
    settings = run.plan.settings
    given = settings.enhance
    if not given.enabled:
        return settings.prompt
    options = EnhanceOptions(
        seed=settings.seed if given.seed is None else given.seed,
        temperature=given.temperature,
        max_new_tokens=given.max_new_tokens,
        system_prompt=Path(given.system_prompt) if given.system_prompt else None,
        top_k=given.top_k,
        top_p=given.top_p,
    )
    with run.phase("enhance", given.max_new_tokens):
        enhanced = enhance_prompts(
            [settings.prompt],
            run.plan.files["text_encoder"],
            run.backend,
            run.dtypes["text_encoder"],
            options,
            lambda what, done, total: run.progress.advance(1, f"{what} {done}"),
            text_quantisation(settings),
            _streaming(run, 1),
        )[0]
    run.outcome.enhanced_prompt = enhanced
    return enhanced


def _streaming(run: Runner, prompts: int) -> Streaming | None:
    """How the text encoder is loaded to encode so many prompts."""
    need = text_need(run.plan, run.dtypes["text_encoder"], prompts)
    free = run.backend.free_bytes()
    return choose(run.plan, "text_encoder", need, free, run.outcome.statistics)
