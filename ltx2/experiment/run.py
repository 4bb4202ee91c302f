"""One generation from settings to files: video, contact sheet, resolved config and record."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ltx2.errors import UserError
from ltx2.experiment.diary import STEPS, Diary, Extras
from ltx2.experiment.interrupt import Interrupt
from ltx2.experiment.metrics.base import Clip, Seams
from ltx2.experiment.metrics.sink import MetricSink
from ltx2.experiment.progress_bar import RunBar
from ltx2.experiment.record import (
    build_record,
    private_record,
    to_json,
    write_record,
    write_text,
)
from ltx2.experiment.session import Session
from ltx2.experiment.sink import ClipSink, SoundSink
from ltx2.media.atomic import check_writable
from ltx2.media.tagging import write_comment
from ltx2.pipelines.checks import CheckFailed
from ltx2.pipelines.cost import phase_costs
from ltx2.pipelines.files import recorded_settings
from ltx2.pipelines.hdr import is_hdr
from ltx2.pipelines.keeper import Keeping
from ltx2.pipelines.plan import Plan
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.progress import Quiet
from ltx2.pipelines.resident import Resident
from ltx2.pipelines.runner import Runner
from ltx2.pipelines.settings import CacheSettings, Settings
from ltx2.pipelines.text_choice import text_is_held, with_text_choice
from ltx2.pipelines.timed import timed_plan
from ltx2.pipelines.unfinished import unfinished
from ltx2.pipelines.watching import StageWatch
from ltx2.weights.dtype_policy import COMPONENTS, dtype_policy

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
NO_EXTRAS = Extras()


def generate(
    settings: Settings,
    make_backend: Callable[[], Any],
    folder: Path,
    show_progress: bool = False,
    extras: Extras = NO_EXTRAS,
) -> Path:
    """Run `settings` and return the path of the clip in `folder`.

    The plan is checked before the backend is made, and everything before a weight is read.
    Raises UserError for bad input (nothing is written), CheckFailed for a result that cannot be
    right; a failed or interrupted run leaves its partial record. A first Ctrl-C while sampling
    ends the step, then KeyboardInterrupt is raised.
    """
    plan = make_plan(settings)
    keeping, resident = _kept(plan, extras)
    backend = None
    if plan.wants_duration:
        backend = make_backend()
        dtypes = component_dtypes(plan.settings, backend)
        fitted = _fitted(plan, backend, dtypes, keeping, resident)
        chosen = fitted.notices[len(plan.notices) :]
        plan, keeping = timed_plan(fitted, backend, dtypes, keeping, resident)
        plan = dataclasses.replace(plan, notices=plan.notices + chosen)
    runners: list[Runner] = []
    clip = _clip(plan, folder, lambda: runners[0].outcome.seams)
    sink = MetricSink(_sink(plan, folder), extras.metrics, clip)
    if any(metric.watches_steps for metric in extras.metrics.values()):
        keeping = dataclasses.replace(keeping, steps_wanted=True)
    backend = backend or make_backend()
    dtypes = component_dtypes(plan.settings, backend)
    plan = _fitted(plan, backend, dtypes, keeping, resident)
    log.info("%s", describe(plan, dtypes))
    check_writable(folder)
    write_text(folder / CONFIG, resolved_yaml(plan.settings))
    bar = RunBar(phase_costs(plan)) if show_progress else contextlib.nullcontext(Quiet())
    runner = Runner(plan, backend, dtypes, folder=folder, resident=resident, keeping=keeping)
    runners.append(runner)
    diary = Diary(settings, plan, folder, extras, sink)
    runner.on_step = diary.step
    interrupt = Interrupt()
    runner.stop = interrupt

    partial: dict[str, Any] = {}

    def record(status: str, **more: Any) -> dict[str, Any]:
        made = build_record(plan, backend, dtypes, runner.outcome, status)
        return made | diary.record() | more

    diary.begin()
    final: dict[str, Any] = {"status": "failed"}
    try:
        with interrupt:
            try:
                with bar as progress:
                    runner.progress = progress
                    try:
                        with sink:
                            runner.run(sink)
                    except KeyboardInterrupt:
                        if runner.watch is not None:
                            partial["interrupted_in"] = _place(runner.watch)
                        if plan.settings.on_interrupt == "decode" and interrupt.signals == 1:
                            partial |= _decoded(runner, folder)
                        raise
                sink.write_sheet()
                diary.measured()
                final = record("completed")
                if sink.carries_comment:
                    shared = private_record(final) if plan.settings.output.private else final
                    write_comment(sink.path, to_json(shared))
            except KeyboardInterrupt:
                final = record("interrupted", **partial)
                write_record(folder, final)
                raise
            except Exception as error:
                final = record("failed", error=f"{type(error).__name__}: {error}")
                if not _left_nothing(folder, error):
                    write_record(folder, final)
                raise
            write_record(folder, final)
    finally:
        extras.trackers.finish(final)
    return sink.path


def _kept(plan: Plan, extras: Extras) -> tuple[Keeping, Resident | None]:
    """Where results and models are kept for this run and others."""
    session = extras.session or Session()
    keeping = session.keeping(extras.cache or CacheSettings(mode="off"))
    # Models are kept only for a process that goes on to other runs.
    return keeping, None if extras.session is None else session.resident(plan.settings)


def _fitted(
    plan: Plan, backend: Any, dtypes: dict[str, str], keeping: Keeping, resident: Resident | None
) -> Plan:
    """`plan` with the quantisation of the text encoder that the free memory asks for, if any."""

    def free_bytes() -> int:
        # What is kept from an earlier run makes room: it must not change this one's result.
        return backend.free_bytes() + (0 if resident is None else resident.freeable_bytes)

    is_held = text_is_held(plan, backend, dtypes, keeping)
    return with_text_choice(plan, dtypes, free_bytes, is_held)


def _left_nothing(folder: Path, error: Exception) -> bool:
    """Whether bad input was met before there was any result, so that the folder could be emptied.

    A full disk counts as such; a failed check does not: its record says what was measured.
    """
    written = {item.name for item in folder.iterdir() if item.suffix != ".log"}
    known = {CONFIG, STEPS}
    if isinstance(error, CheckFailed) or not isinstance(error, UserError) or written - known:
        return False
    for name in known:
        (folder / name).unlink(missing_ok=True)
    return True


def _clip(plan: Plan, folder: Path, seams: Callable[[], Seams]) -> Clip:
    """What metrics know before the first frame."""
    height, width = (plan.height, plan.width) if plan.has_video else (0, 0)
    frames = plan.output_frames
    prompt, model = plan.settings.prompt, plan.settings.model.name
    return Clip(prompt, plan.output_fps, frames, height, width, folder, seams, model)


def _sink(plan: Plan, folder: Path, ending: str = "") -> ClipSink | SoundSink:
    """Where the plan's clip goes; `ending` is added to the file's name."""
    if not plan.has_video:
        return SoundSink(folder, f"audio{ending}")
    name = f"video{ending}"
    return ClipSink(folder, plan.settings.output, plan.output_fps, plan.output_frames, name)


def _decoded(runner: Runner, folder: Path) -> dict[str, Any]:
    """Decode what an interrupted run has so far; what the record says about it."""
    found = unfinished(runner)
    if found is None:
        log.warning("interrupted before there was anything to decode")
        return {}
    try:
        sink = _sink(found.plan, folder, "-partial")
        with sink:
            found.decode(runner, sink)
    except Exception as error:  # the run ends as interrupted all the same
        log.warning("what is there cannot be decoded: %s: %s", type(error).__name__, error)
        return {}
    log.warning("interrupted; wrote %s", sink.path)
    return {"partial": found.record() | {"file": sink.path.name}}


def _place(watch: StageWatch) -> dict[str, Any]:
    assert watch.stage.sigmas is not None
    steps = (len(watch.stage.sigmas) - 1) * watch.stage.repeats
    return {"stage": watch.stage.name, "steps_done": watch.steps_done, "steps": steps}


def component_dtypes(settings: Settings, backend: Any) -> dict[str, str]:
    """dtype of every component on this backend, from the dtype settings."""
    chosen = dataclasses.asdict(settings.dtype)
    default = chosen.pop("default")
    overrides = {name: value for name, value in chosen.items() if value is not None}
    assert set(overrides) <= set(COMPONENTS)
    if is_hdr(settings):
        # A step of half precision is wider than one of the files.
        overrides = {"video_vae": "fp32"} | overrides
    return dtype_policy(backend, default, overrides)


def resolved_yaml(settings: Settings) -> str:
    """The settings with every preset value filled in, as YAML."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    plain = recorded_settings(settings)
    return yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True)


def describe(plan: Plan, dtypes: dict[str, str]) -> str:
    """One line that says what is going to run."""
    calls = sum(stage.transformer_calls for stage in plan.stages)
    seconds, frames, fps = plan.seconds, plan.made_frames, plan.output_fps
    picture = f"{plan.width}x{plan.height}, {frames} frames at {fps:g} fps, "
    return (
        f"{plan.settings.model.name}, {plan.settings.pipeline.name}:"
        f" {picture if plan.has_video else 'sound, '}{seconds:.2f} s,"
        f" seed {plan.settings.seed}, {calls} transformer calls in {dtypes['transformer']}"
    )
