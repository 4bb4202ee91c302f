"""What plan=true prints: sizes, cost, memory, time and reuse of a run that has not begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltx2.experiment.machine import Machine
from ltx2.experiment.streams import (
    NO_PLACES,
    STREAMED,
    STREAMED_IN,
    streamed_models,
)
from ltx2.experiment.timings import Timings, read_timings
from ltx2.models.tiling import Tiling
from ltx2.pipelines.cost import PhaseCost, call_tokens, phase_costs
from ltx2.pipelines.decoding import choose_tiling, describe
from ltx2.pipelines.memory import Placement, planned_places
from ltx2.pipelines.memory_estimate import PhaseMemory, Place, decoding_need, phase_memory
from ltx2.pipelines.plan import Plan
from ltx2.pipelines.streamed_estimate import passing_text, passing_transformer, read_bytes

# The runner's phases by the names of stages in the cache and in run.json.
HALVES = {"audio decode": "sound", "video decode": "picture"}
CONDITIONS, LOADING = " conditions", "load transformer"
# Bits per pixel of a clip at the default quality, and bytes of a picture that is not lossy.
CLIP_BITS, PICTURE_BYTES = 0.12, 1.5

PASSING = {"text_encoder": passing_text, "transformer": passing_transformer}

Reused = Callable[[], dict[str, bool]]


@dataclass(frozen=True)
class Row:
    """A phase: its cost, its memory, predicted seconds (None: unknown) and whether it is reused.

    `told` is a word about how it runs.
    """

    cost: PhaseCost
    memory: PhaseMemory | None
    seconds: float | None
    reused: bool
    tokens: str = ""
    told: str = ""


def report(
    plan: Plan,
    dtypes: dict[str, str],
    device: Machine,
    reused: Reused | None = None,
    outputs: Path | None = None,
) -> str:
    """The whole report. `dtypes` by component; `reused` tells which stages the cache holds.

    Earlier runs below `outputs` give the times.
    """
    found = Timings(0, ()) if outputs is None else read_timings(outputs, plan, device, dtypes)
    held = {} if reused is None else reused()
    tiling = decoded_in(plan, dtypes, device)
    places = planned_places(plan, dtypes, device.free_bytes)
    rows = plan_rows(plan, dtypes, device, held, found, tiling, places)
    lines = [*_head(plan, dtypes, device), "", *_table(rows), "", *_summary(rows, device, found)]
    lines += _placements(plan, dtypes, places)
    lines += [f"video decode in {describe(tiling)}"] * plan.has_video
    lines += [*_cache(held, plan.settings), *_disk(plan)]
    lines += [f"notice: {text}" for text in (*plan.notices, *_warnings(rows, device))]
    return "\n".join(lines)


def plan_rows(
    plan: Plan,
    dtypes: dict[str, str],
    device: Machine,
    held: dict[str, bool],
    timings: Timings,
    tiling: Tiling | None,
    places: Mapping[str, Placement] = NO_PLACES,
) -> list[Row]:
    """A row per phase in the order they run; `places` say which models are streamed."""
    place, streamed = Place(device.backend, device.kind), streamed_models(places)
    memory = {row.phase: row for row in phase_memory(plan, dtypes, place, tiling, streamed)}
    sampling = {s.name for s in plan.stages if s.settings.do == "sample"}
    tokens = {}
    for stage in plan.stages:
        if stage.name in sampling:
            own = call_tokens(plan, stage)
            tokens[stage.name] = f"{own.video:,.0f} + {own.audio:,.0f}"
    rows = []
    for cost in phase_costs(plan):
        name = HALVES.get(cost.phase, cost.phase.removesuffix(CONDITIONS))
        is_held = held.get(name, False)
        if cost.phase == LOADING:
            is_held = bool(held) and all(held.get(stage, False) for stage in sampling)
        passes = STREAMED_IN.get(cost.kind) in streamed
        timed = replace(cost, kind=cost.kind + STREAMED) if passes else cost
        seconds = 0.0 if is_held else timings.seconds(timed)
        shown = tokens.get(cost.phase, ""), "streamed" * passes
        rows.append(Row(cost, memory.get(cost.phase), seconds, is_held, *shown))
    return rows


def _head(plan: Plan, dtypes: dict[str, str], device: Machine) -> Iterator[str]:
    settings = plan.settings
    frames, fps = plan.made_frames, plan.output_fps
    picture = f"{plan.width}x{plan.height}, {frames} frames at {fps:g} fps, "
    clip = f"{picture if plan.has_video else 'sound, '}{plan.seconds:.2f} s"
    yield f"{settings.model.name}, {settings.pipeline.name}: {clip}, seed {settings.seed}"
    free = "unknown" if device.free_bytes is None else _size(device.free_bytes)
    yield f"device: {device.backend} {device.device}, free memory {free}"
    yield "dtypes: " + ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
    files = [f"{role} {path.name}" for role, path in plan.files.items()]
    yield "files: " + ", ".join(files)
    for stage in plan.stages:
        if stage.sigmas is not None:
            grid = "x".join(map(str, stage.grid))
            steps = len(stage.sigmas) - 1
            tiles = "" if stage.tiles is None else f", {stage.tiles.count} tiles"
            spans = "" if stage.repeats == 1 else f", {stage.repeats} windows"
            yield (
                f"stage {stage.name}: {stage.width}x{stage.height} px, latent grid {grid},"
                f" {stage.tokens:,} video and {plan.audio_length:,} audio tokens,"
                f" {steps} steps, {stage.transformer_calls} transformer calls{tiles}{spans}"
            )


def _table(rows: Sequence[Row]) -> Iterator[str]:
    head = ["phase", "tokens of a call", "calls", "TFLOP", "weights", "activations", "peak",
            "time", ""]  # fmt: skip
    cells = [head]
    for row in rows:
        memory = [""] * 3
        if row.memory is not None:
            parts = (row.memory.weights, row.memory.activations, row.memory.peak)
            memory = [_size(part) for part in parts]
        calls = f"{row.cost.units:,}" if row.cost.kind in ("sample", "enhance") else ""
        flops = f"{row.cost.operations / 1e12:,.3g}" if row.cost.operations else ""
        time = "" if row.seconds is None else duration(row.seconds)
        note = "cached" if row.reused else row.told
        cells.append([row.cost.phase, row.tokens, calls, flops, *memory, time, note])
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    for line in cells:
        first, *others = zip(line, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        yield "  ".join(padded).rstrip()


def _summary(rows: Sequence[Row], device: Machine, timings: Timings) -> Iterator[str]:
    needed = [row for row in rows if row.memory is not None and not row.reused]
    if needed:
        highest = max(needed, key=_peak)
        yield f"peak memory: about {_size(_peak(highest))}, in {highest.cost.phase}"
    known = [row.seconds for row in rows if row.seconds is not None]
    if not timings.runs:
        yield f"time: no timings yet of this model on {device.backend} {device.device}"
        return
    text = f"time: about {duration(sum(known))}, from {timings.runs} earlier runs"
    unknown = [row.cost.phase for row in rows if row.seconds is None]
    yield text + (f"; without {', '.join(unknown)}, of which none has timings" if unknown else "")


def _placements(
    plan: Plan, dtypes: Mapping[str, str], places: Mapping[str, Placement]
) -> Iterator[str]:
    """How the models that can be streamed will be loaded, why, and what streaming reads."""
    if not any(stage.sigmas is not None for stage in plan.stages):
        return
    for model, passing in PASSING.items():
        name = model.replace("_", " ")
        place = places.get(model)
        if place is None:
            yield f"{name}: whole or streamed, as the free memory says when it is loaded"
        elif place.streaming is None:
            yield f"{name}: loaded whole: {place.reason}"
        else:
            read = read_bytes(plan, model, passing(plan, dtypes[model]))
            told = ", ".join(f"{_size(size)} in {phase}" for phase, size in read.items())
            source = place.streaming.source
            yield f"{name}: streamed: {place.reason}; {told} read from {source}"


def decoded_in(plan: Plan, dtypes: dict[str, str], device: Machine) -> Tiling | None:
    """The tiling that the free memory will lead to, where it is known."""
    if not plan.has_video or device.free_bytes is None:
        return plan.tiling
    need = decoding_need(plan, Place(device.backend, device.kind), dtypes["video_vae"])
    return choose_tiling(plan.settings.tiling.mode, plan.tiling, need, device.free_bytes).tiling


def _cache(held: dict[str, bool], settings: Any) -> Iterator[str]:
    if settings.cache.mode == "off":
        yield "cache: off"
        return
    parts = {True: "reused", False: "computed"}
    told = [
        f"{word} {', '.join(names)}"
        for value, word in parts.items()
        if (names := [name for name, is_held in held.items() if is_held is value])
    ]
    yield "cache: " + ("; ".join(told) or "nothing to reuse")


def _disk(plan: Plan) -> Iterator[str]:
    """Rough sizes of what the run writes."""
    settings: Any = plan.settings  # the application's, which have a cache
    pixels = plan.output_frames * plan.height * plan.width
    folder = settings.output.format in ("png", "exr")
    clip = pixels * (PICTURE_BYTES if folder else CLIP_BITS / 8)
    parts = [("clip", clip if plan.has_video else 64_000 * plan.frames / plan.fps)]
    latents = [_latent_bytes(plan, s.name) for s in plan.stages if s.settings.do != "decode"]
    if settings.save_latents:
        parts.append(("latents", sum(latents)))
    if settings.save_steps:
        steps = [(s, len(s.sigmas) - 1) for s in plan.stages if s.sigmas is not None]
        parts.append(("steps", sum(n * s.repeats * _latent_bytes(plan, s.name) for s, n in steps)))
    cache = settings.cache
    if cache.mode != "off":
        media = 6 * pixels if 6 * pixels <= cache.media_mb * 2**20 else 0
        parts.append(("cache", sum(latents) + media))
    listed = ", ".join(f"{name} {_size(size)}" for name, size in parts)
    yield f"disk: about {listed}, in {settings.paths.outputs}"


def _latent_bytes(plan: Plan, stage: str) -> int:
    found = plan.stage(stage)
    video = found.tokens * plan.transformer.video.in_channels
    return 4 * (video + plan.audio_length * plan.audio.token_features)


def _warnings(rows: Sequence[Row], device: Machine) -> Iterator[str]:
    free = device.free_bytes
    for row in rows:
        if row.memory is not None and not row.reused and free is not None and _peak(row) > free:
            yield (
                f"{row.cost.phase} needs about {_size(_peak(row))}, {_size(free)} are free: it"
                " may run out of memory"
            )


def _peak(row: Row) -> int:
    assert row.memory is not None
    return row.memory.peak


def _size(count: float) -> str:
    """Such as 20 kB, 300 MB, 1.50 GB, 38.2 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            value = count / unit
            digits = 0 if value >= 100 or name == "MB" else 1 if value >= 10 else 2
            return f"{value:,.{digits}f} {name}"
    return f"{count / 1e3:.0f} kB" if count else "0"


def duration(seconds: float) -> str:
    """Such as 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
