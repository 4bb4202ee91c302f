"""Decoding what an interrupted run has so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltx2.pipelines.decode_stage import INPUT, Sink, decode_stage
from ltx2.pipelines.latents import Latents
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.settings import StageSettings

if TYPE_CHECKING:
    from ltx2.pipelines.runner import Runner

NAME = "unfinished"


@dataclass(frozen=True)
class Unfinished:
    """Latents of the stage `of`, and the plan that decodes them at its size."""

    of: str
    plan: Plan
    latents: Latents

    def decode(self, run: Runner, sink: Sink) -> None:
        """Decode into `sink`. An unfinished clip is not judged: failures become warnings."""
        checks = run.outcome.checks
        checks.mode = "off" if checks.mode == "off" else "keep_going"
        run.free()
        run.plan = self.plan
        run.latents[NAME] = self.latents
        with run.backend.inference():
            decode_stage(run, self.plan.stages[0], sink)

    def record(self) -> dict[str, Any]:
        """What run.json keeps."""
        return {"stage": self.of, "frames": self.plan.frames}


def unfinished(run: Runner) -> Unfinished | None:
    """The running stage's estimate, else the last stage's latents; None if there is neither.

    Streams that the run takes from its input or from an earlier stage are taken from there.
    """
    found = _newest(run)
    final = next((s for s in reversed(run.plan.stages) if s.settings.do == "decode"), None)
    if found is None or final is None:
        return None
    stage, latents = found
    shown, heard = final.settings.video_from, final.settings.audio_from
    finished = run.latents.get(heard or "")
    audio = latents.audio if finished is None or finished.audio is None else finished.audio
    video_from = _source(shown, latents.video)
    audio_from = _source(heard, audio)
    if video_from is None and audio_from is None:
        return None
    frames = run.plan.frames
    if latents.video is not None:
        frames = (latents.video.shape[1] - 1) * run.plan.scale.time + 1
    settings = StageSettings(name=NAME, do="decode", video_from=video_from, audio_from=audio_from)
    decode = StagePlan(settings, stage.height, stage.width, stage.grid)
    fps = run.plan.fps * 2**stage.settings.round
    plan = replace(run.plan, stages=(decode,), frames=frames, fps=fps, canvas=None)
    return Unfinished(stage.name, plan, Latents(latents.video, audio))


def _newest(run: Runner) -> tuple[StagePlan, Latents] | None:
    estimate = None if run.watch is None else run.watch.estimate()
    if run.watch is not None and estimate is not None:
        return run.watch.stage, estimate
    for stage in reversed(run.plan.stages):
        if stage.settings.do in ("sample", "upscale") and stage.name in run.latents:
            return stage, run.latents[stage.name]
    return None


def _source(wanted: str | None, made: Any) -> str | None:
    """Where the decode stage takes a stream from: as the run would, as far as it exists."""
    if wanted == INPUT:
        return INPUT
    return NAME if wanted is not None and made is not None else None
