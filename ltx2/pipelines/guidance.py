"""Guidance of a stage: the preset's values, what a model allows, and how many passes it costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ltx2 import ops
from ltx2.diffusion.deltas import StatefulApg, apg_delta, cfg_star_delta
from ltx2.diffusion.guidance import Guidance, GuidanceSchedule, combine, passes
from ltx2.errors import UserError, nearest
from ltx2.ops import Array
from ltx2.pipelines.settings import (
    GuidanceSettings,
    Settings,
    SigmaGuidance,
    StageSettings,
    StreamGuidance,
)

NO_GUIDANCE = Guidance(cfg=1.0, stg=0.0, stg_blocks=(), rescale=0.0, modality=1.0, skip_step=0)
STREAMS = ("video", "audio")
# The keys of a stream that each kind uses; the others are off.
KINDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "cfg": ("cfg", "rescale", "skip_step"),
    "cfg_star": ("cfg", "skip_step"),
    "stg": ("stg", "stg_blocks", "rescale", "skip_step"),
    "apg": ("cfg", "eta", "threshold", "skip_step"),
    "apg_momentum": ("cfg", "eta", "threshold", "momentum", "skip_step"),
    "multimodal": ("cfg", "stg", "stg_blocks", "rescale", "modality", "skip_step"),
}
OFF: dict[str, Any] = {
    "cfg": 1.0, "stg": 0.0, "stg_blocks": [], "rescale": 0.0, "modality": 1.0, "skip_step": 0,
    "eta": 1.0, "threshold": 0.0, "momentum": 0.0,
}  # fmt: skip
# The recorded threshold of the form with momentum; that without has none.
MOMENTUM_THRESHOLD = 5.0
# Tokens of all streams that share a call under max_batch=auto. Beyond some thousands of tokens the
# weights are no longer what a call waits for, so stacking passes gains nothing but memory.
AUTO_TOKENS = 8192


@dataclass(frozen=True)
class TextRule:
    """What is made of the difference to the negative prompt. kind: plain, cfg_star, apg,
    apg_momentum."""

    kind: str = "plain"
    eta: float = 1.0
    threshold: float = 0.0
    momentum: float = 0.0


class Guider:
    """Combines the estimates of one stream. It may remember: one object per stream and run."""

    def __init__(self, rule: TextRule) -> None:
        self._rule = rule
        self._apg = StatefulApg(0.0, rule.eta, rule.threshold, rule.momentum)

    def __call__(
        self,
        scales: Guidance,
        cond: Array,
        uncond: Array | None = None,
        perturbed: Array | None = None,
        isolated: Array | None = None,
    ) -> Array:
        """The guided x0 of passes (B, T, C); a pass is None where its scale is off."""
        rule = self._rule
        if rule.kind == "plain" or scales.cfg == 1:
            return combine(scales, cond, uncond, perturbed, isolated)
        if rule.kind == "cfg_star":
            delta = cfg_star_delta(cond, uncond, scales.cfg)
        elif rule.kind == "apg":
            delta = apg_delta(cond, uncond, scales.cfg, rule.eta, rule.threshold)
        else:
            # The recorded formula is off at 0; with cfg - 1 a value is as strong in every kind.
            self._apg.scale = scales.cfg - 1
            delta = self._apg.delta(cond, uncond)
        return ops.like(ops.f32(cond) + delta, cond)


@dataclass(frozen=True)
class GuidancePair:
    """Guidance of the two streams; `max_batch` passes share one transformer call.

    `max_batch` 0 stacks all passes, None as many as `AUTO_TOKENS` allows.
    """

    video: Guidance | GuidanceSchedule
    audio: Guidance | GuidanceSchedule
    max_batch: int | None = None
    rules: dict[str, TextRule] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: GuidanceSettings, stage: StageSettings, layers: int) -> GuidancePair:
        """The guidance of `stage`; STG blocks must exist in a transformer of `layers` blocks."""
        if stage.guidance not in ("main", "none"):
            what = f"stage '{stage.name}': guidance={stage.guidance}"
            raise UserError(f"{what} is unknown; use main or none")
        max_batch = _max_batch(settings.max_batch)
        if stage.guidance == "none" or settings.kind == "none":
            return cls(NO_GUIDANCE, NO_GUIDANCE, max_batch)
        video = _scales("video", settings.video, layers)
        audio = _scales("audio", settings.audio, layers)
        if len(stage.streams) == 1:
            # A stream alone has no other stream to be guided away from.
            video, audio = video.alone(), audio.alone()
        rules = {s: _text_rule(settings.kind, s, getattr(settings, s)) for s in STREAMS}
        return cls(video, audio, max_batch, rules)

    def guiders(self) -> dict[str, Guider]:
        """Fresh guiders by stream, for one run over the steps."""
        return {stream: Guider(self.rules.get(stream, TextRule())) for stream in STREAMS}

    def passes_at(self, step: int, sigma: float) -> int:
        """Number of transformer passes at a step."""
        return len(passes(self.video.at(sigma), self.audio.at(sigma), step).names)

    def stacked(self, count: int, tokens: int) -> int:
        """How many of `count` passes over `tokens` tokens (of all streams) share a call."""
        if self.max_batch is not None or count == 0:
            return max(1, min(self.max_batch or count, count))
        fitting = max(1, min(count, AUTO_TOKENS // max(tokens, 1)))
        calls = math.ceil(count / fitting)
        return math.ceil(count / calls)

    @property
    def remembers(self) -> bool:
        """Whether a step's result depends on more of earlier steps than their estimates."""
        scales = [item for stream in STREAMS for item in entries(self, stream)]
        skips = any(item.skip_step for item in scales)
        return skips or any(rule.kind == "apg_momentum" for rule in self.rules.values())

    @property
    def needs_negative(self) -> bool:
        return any(scales.cfg != 1 for stream in STREAMS for scales in entries(self, stream))


def entries(pair: GuidancePair, stream: str) -> list[Guidance]:
    """All scales that a stream has at some sigma."""
    given = getattr(pair, stream)
    return list(given.bins.values()) if isinstance(given, GuidanceSchedule) else [given]


def resolve_guidance(given: GuidanceSettings, preset: GuidanceSettings) -> GuidanceSettings:
    """`given` with every None taken from the preset, and off what the kind does not use."""
    if given.kind not in KINDS:
        hint = nearest(given.kind, KINDS)
        raise UserError(f"guidance.kind={given.kind} is unknown{hint}; use {', '.join(KINDS)}")
    used = KINDS[given.kind]
    return dataclasses.replace(
        given,
        video=_merged("video", given.video, preset.video, given.kind, used),
        audio=_merged("audio", given.audio, preset.audio, given.kind, used),
    )


def check_model_takes_guidance(settings: Settings) -> None:
    """Refuse guidance on a distilled model: it has learnt the guided result."""
    model, guidance = settings.model, settings.guidance
    stages = [stage for stage in settings.pipeline.stages if stage.do == "sample"]
    if model.kind != "distilled" or all(stage.guidance == "none" for stage in stages):
        return
    term = next(_terms(guidance), None)
    if term is None:
        return
    scheduled = settings.scheduler.kind == "list" or settings.scheduler.sigmas is not None
    also = "" if scheduled else " scheduler=distilled"
    raise UserError(
        f"model={model.name} is distilled and takes no guidance, but {term}; use{also}"
        " guidance=none"
    )


def _terms(guidance: GuidanceSettings) -> Iterator[str]:
    """The terms that are on, as KEY=VALUE."""
    for stream in STREAMS if guidance.kind != "none" else ():
        given = getattr(guidance, stream)
        for part in (given, *given.by_sigma.values()):
            for key in ("cfg", "stg", "modality"):
                value = getattr(part, key)
                if value is not None and value != OFF[key]:
                    yield f"guidance.{stream}.{key}={value}"


def _max_batch(value: Any) -> int | None:
    if value == "auto":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(
            f"guidance.max_batch={value} is not auto or a number; 0 runs all passes at once,"
            " 1 one after another"
        )
    return value


def _merged(
    stream: str, given: StreamGuidance, preset: StreamGuidance, kind: str, used: tuple[str, ...]
) -> StreamGuidance:
    values: dict[str, Any] = {"by_sigma": _by_sigma(stream, given.by_sigma)}
    for part in (given, *values["by_sigma"].values()):
        _refuse_unused(stream, part, kind, used)
    for key in OFF:
        own = getattr(given, key)
        values[key] = (getattr(preset, key) if own is None else own) if key in used else OFF[key]
    if not given.by_sigma and kind == "multimodal":
        values["by_sigma"] = _by_sigma(stream, preset.by_sigma)
    return StreamGuidance(**values)


def _refuse_unused(
    stream: str, given: StreamGuidance | SigmaGuidance, kind: str, used: tuple[str, ...]
) -> None:
    for item in dataclasses.fields(given):
        value = getattr(given, item.name)
        if item.name in OFF and item.name not in used and value not in (None, OFF[item.name]):
            raise UserError(
                f"guidance.{stream}.{item.name}={value} has no effect on guidance.kind={kind},"
                f" which uses {', '.join(used) or 'nothing'}; drop it or choose"
                f" guidance={_kind_with(item.name)}"
            )


def _kind_with(key: str) -> str:
    preferred = ("multimodal", "apg_momentum")
    return next(kind for kind in preferred if key in KINDS[kind])


def _by_sigma(stream: str, given: dict[Any, SigmaGuidance]) -> dict[Any, SigmaGuidance]:
    """Keys as numbers in (0, 1], descending; config files may write them as texts."""
    bounds: dict[float, SigmaGuidance] = {}
    for key, scales in given.items():
        bound = sigma_bound(f"guidance.{stream}.by_sigma", key)
        if bound in bounds:
            raise UserError(f"guidance.{stream}.by_sigma has {bound:g} twice; keep one")
        bounds[bound] = scales
    return dict(sorted(bounds.items(), reverse=True))


def sigma_bound(where: str, key: Any) -> float:
    """An upper bound of sigma from a config key."""
    try:
        bound = float(key)
    except (TypeError, ValueError):
        bound = math.nan
    if not 0 < bound <= 1 or isinstance(key, bool):
        raise UserError(
            f"{where}: key {key} is no noise level in (0, 1]; write it as in {{0.9: ..., 0.4: ...}}"
        )
    return bound


def _scales(stream: str, given: StreamGuidance, layers: int) -> Guidance | GuidanceSchedule:
    where = f"guidance.{stream}"
    base = _checked(where, given, layers)
    if not given.by_sigma:
        return base
    bins = {}
    for bound, changed in given.by_sigma.items():
        values = {
            item.name: value
            for item in dataclasses.fields(SigmaGuidance)
            if (value := getattr(changed, item.name)) is not None
        }
        entry = dataclasses.replace(given, **values, by_sigma={})
        bins[bound] = _checked(f"{where}.by_sigma[{bound:g}]", entry, layers)
    # Above all bounds the stream's own values hold.
    return GuidanceSchedule({1.0: base} | bins)


def _checked(where: str, given: StreamGuidance, layers: int) -> Guidance:
    blocks = tuple(given.stg_blocks or ())
    outside = [b for b in blocks if not 0 <= b < layers]
    values = {key: _number(where, key, getattr(given, key)) for key in ("cfg", "stg", "modality")}
    stg = values["stg"]
    if stg != 0 and outside:
        raise UserError(
            f"{where}.stg_blocks={list(blocks)}: block {outside[0]} does not exist;"
            f" the transformer has blocks 0 to {layers - 1}"
        )
    if stg != 0 and not blocks:
        raise UserError(f"{where}.stg={stg} needs stg_blocks, such as [{layers // 2}]")
    skip = given.skip_step or 0
    rescale = _number(where, "rescale", given.rescale)
    if skip < 0:
        raise UserError(f"{where}.skip_step={skip} is negative; 0 skips nothing")
    if not 0 <= rescale <= 1:
        raise UserError(f"{where}.rescale={rescale} is not in [0, 1]")
    return Guidance(stg_blocks=blocks, rescale=rescale, skip_step=skip, **values)


def _number(where: str, key: str, value: float | None) -> float:
    if value is None:
        return float(OFF[key])
    if not math.isfinite(value):
        raise UserError(f"{where}.{key}={value} is not a number; {OFF[key]:g} is off")
    return value


def _text_rule(kind: str, stream: str, given: StreamGuidance) -> TextRule:
    if kind not in ("cfg_star", "apg", "apg_momentum"):
        return TextRule()
    if kind == "cfg_star":
        return TextRule(kind)
    where = f"guidance.{stream}"
    values = {k: _number(where, k, getattr(given, k)) for k in ("eta", "threshold", "momentum")}
    if given.threshold is None and kind == "apg_momentum":
        values["threshold"] = MOMENTUM_THRESHOLD
    if values["threshold"] < 0:
        what = f"{where}.threshold={values['threshold']}"
        raise UserError(f"{what} is negative; 0 caps nothing")
    if not -1 < values["momentum"] < 1:
        what = f"{where}.momentum={values['momentum']}"
        raise UserError(f"{what} is not in (-1, 1); -0.5 is usual, 0 is off")
    return TextRule(kind, **values)
