"""Which stages of a run need not be computed, because a store has what they would give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ltx2.pipelines.decode_stage import INPUT, PICTURE, SOUND
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.store import Entry, Store


@dataclass
class Reuse:
    """`found` entries by stage name (`sound` and `picture` for a decode stage's two halves),
    `computed` names of stages to run. A stage in neither is not needed."""

    found: dict[str, Entry] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)

    def action(self, name: str) -> str:
        """For the record: computed, reused or not needed."""
        if name in self.computed:
            return "computed"
        return "reused" if name in self.found else "not needed"


def decode_parts(stage: StagePlan) -> list[str]:
    """The halves of a decode stage that come from latents."""
    sources = {SOUND: stage.settings.audio_from, PICTURE: stage.settings.video_from}
    return [part for part, source in sources.items() if source not in (None, INPUT)]


def sources_of(plan: Plan, stage: StagePlan) -> set[str]:
    """Stages whose latents `stage` reads, and earlier ones whose draws it must come after."""
    own = stage.settings
    named = {name for name in (own.start, own.audio_reference, own.detail_from) if name}
    if own.do == "sample":
        names = [item.name for item in plan.stages]
        before = plan.stages[: names.index(stage.name)]
        named |= {item.name for item in before if item.settings.do in ("sample", "load")}
    return named


def plan_reuse(
    plan: Plan, keys: Keys, store: Store, draws_noise: bool, steps_wanted: bool = False
) -> Reuse:
    """Walk back from the result: a stage is wanted if a stage that has to run reads it.

    `steps_wanted`: the steps of sampling stages are looked at, so they all run.
    """
    reuse = Reuse()
    wanted: set[str] = set()
    if plan.settings.save_latents or steps_wanted:
        wanted |= {s.name for s in plan.stages if s.settings.do != "decode"}
    for stage in reversed(plan.stages):
        if stage.settings.do == "decode":
            wanted |= _decoded(stage, keys, store, reuse, draws_noise, plan)
            continue
        if stage.name not in wanted:
            continue
        must_run = stage.settings.do == "load" or (stage.settings.do == "sample" and steps_wanted)
        entry = None if must_run else store.find(keys.latents(stage.name))
        if entry is not None:
            reuse.found[stage.name] = entry
        else:
            reuse.computed.add(stage.name)
            wanted |= sources_of(plan, stage)
    return reuse


def _decoded(
    stage: StagePlan, keys: Keys, store: Store, reuse: Reuse, draws_noise: bool, plan: Plan
) -> set[str]:
    """Note what of a decode stage is there; the stages that the rest needs."""
    needed: set[str] = set()
    for part in decode_parts(stage):
        key = keys.sound(stage) if part == SOUND else keys.picture(stage, draws_noise)
        entry = None if key is None else store.find(key)
        if entry is not None:
            reuse.found[part] = entry
            continue
        reuse.computed.add(part)
        own = stage.settings
        needed.add(str(own.audio_from if part == SOUND else own.video_from))
        if part == PICTURE and draws_noise:
            needed |= {s.name for s in plan.stages if s.settings.do in ("sample", "load")}
    return needed


def predicted(plan: Plan, keys: Keys, store: Store, draws_noise: bool) -> dict[str, str]:
    """What a run would do with each stage: computed, reused or not needed; nothing is run."""
    reuse = plan_reuse(plan, keys, store, draws_noise, plan.settings.save_steps)
    sampled = any(s.name in reuse.computed for s in plan.stages if s.sigmas is not None)
    actions: dict[str, Any] = {}
    if any(s.sigmas is not None for s in plan.stages):
        texts = [keys.text(False), *([keys.text(True)] if plan.needs_negative else [])]
        known = all(store.find(key) is not None for key in texts)
        actions["text"] = ("reused" if known else "computed") if sampled else "not needed"
    for stage in plan.stages:
        names = decode_parts(stage) if stage.settings.do == "decode" else [stage.name]
        actions |= {name: reuse.action(name) for name in names}
    return actions
