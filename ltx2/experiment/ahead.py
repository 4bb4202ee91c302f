"""Looking ahead over several runs: what the cache will reuse, and all their prompts at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ltx2.experiment.session import Session
from ltx2.pipelines.checks import Checks
from ltx2.pipelines.components.text import encode_prompts
from ltx2.pipelines.keeper import Keeper, Keeping
from ltx2.pipelines.memory import choose, text_need
from ltx2.pipelines.plan import Plan
from ltx2.pipelines.quantisation import text_quantisation
from ltx2.pipelines.reuse import predicted
from ltx2.pipelines.settings import CacheSettings

log = logging.getLogger(__name__)

# Prompts encoded together: their hidden states of all layers are in memory at the same time.
TOGETHER = 32


def predicted_actions(
    plan: Plan, device: Any, dtypes: dict[str, str], cache: CacheSettings
) -> dict[str, str]:
    """What a run would do about each stage: computed, reused or not needed.

    `device` describes itself as a backend does; nothing is loaded.
    """
    keeping = Session().keeping(cache)
    keeper = Keeper(plan, device, dtypes, keeping, Checks(plan.settings.checks))
    if keeper.keys is None:
        return {}
    return predicted(plan, keeper.keys, keeper.store, keeper.draws)


@dataclass(frozen=True)
class _Text:
    prompt: str
    negative: bool
    keeper: Keeper


def encode_ahead(
    plans: Sequence[Plan], backend: Any, dtypes: Sequence[dict[str, str]], keeping: Keeping
) -> int:
    """Encode the prompts of several runs into the cache: their text encoder is loaded once.

    Without this, a device that has no room for text encoder and transformer together would load
    both anew for every prompt. Returns the number of prompts encoded.
    """
    if keeping.store is None:
        return 0
    wanted: dict[tuple[Any, ...], dict[str, _Text]] = {}
    models: dict[tuple[Any, ...], tuple[Plan, dict[str, str]]] = {}
    for plan, types in zip(plans, dtypes, strict=True):
        if "text_encoder" not in plan.files:
            continue
        model = (
            plan.files["text_encoder"],
            plan.files["checkpoint"],
            types["text_encoder"],
            types["connectors"],
            text_quantisation(plan.settings),
        )
        models.setdefault(model, (plan, types))
        for key, text in _absent(plan, backend, types, keeping):
            wanted.setdefault(model, {})[key] = text
    for model, texts in wanted.items():
        _encode(*models[model], list(texts.values()), backend)
    return sum(len(texts) for texts in wanted.values())


def _absent(
    plan: Plan, backend: Any, dtypes: dict[str, str], keeping: Keeping
) -> list[tuple[str, _Text]]:
    """Texts that the run will need and that are not there; enhanced ones are left to the run."""
    settings = plan.settings
    keeper = Keeper(plan, backend, dtypes, keeping, Checks(settings.checks))
    assert keeper.keys is not None
    if not any(s.sigmas is not None and s.name in keeper.reuse.computed for s in plan.stages):
        return []
    found = []
    for negative in [False, True] if plan.needs_negative else [False]:
        if settings.enhance.enabled and not negative:
            continue
        if keeper.text(negative) is None:
            prompt = (settings.negative_prompt or "") if negative else settings.prompt
            found.append((keeper.keys.text(negative), _Text(prompt, negative, keeper)))
    return found


def _encode(plan: Plan, dtypes: dict[str, str], texts: list[_Text], backend: Any) -> None:
    log.info("encoding %d prompts", len(texts))
    folder, header = plan.files["text_encoder"], plan.headers["checkpoint"]
    how = text_quantisation(plan.settings)
    with backend.inference():
        for start in range(0, len(texts), TOGETHER):
            part = texts[start : start + TOGETHER]
            prompts = [text.prompt for text in part]
            need = text_need(plan, dtypes["text_encoder"], len(prompts))
            streaming = choose(plan, "text_encoder", need, backend.free_bytes(), {})
            contexts = encode_prompts(
                prompts, folder, header, backend, dtypes, None, how, streaming
            )
            for text, context in zip(part, contexts, strict=True):
                text.keeper.put_text(text.negative, context, None)
