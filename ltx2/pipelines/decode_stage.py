"""The last stage: latents to frames and sound, handed on while they are produced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ltx2.models.tiling import decode_frames
from ltx2.ops import Array
from ltx2.pipelines.checks import FrameStatistics, check_audio, check_video
from ltx2.pipelines.components.audio import decode_audio, load_audio_decoder, load_vocoder
from ltx2.pipelines.components.video import load_video_decoder
from ltx2.pipelines.decoding import choose_tiling
from ltx2.pipelines.extension import joined_frames, joined_sound
from ltx2.pipelines.plan import StagePlan
from ltx2.pipelines.sources import input_frames, input_waveform

if TYPE_CHECKING:
    from ltx2.pipelines.runner import Runner

INPUT = "input"
NAN_FRAMES = "damaged weights or a half-precision VAE; try dtype.video_vae=fp32"


class Sink(Protocol):
    """Receives the clip while it is produced: the sound first, then the frames."""

    def audio(self, waveform: np.ndarray, rate: int) -> None: ...
    def frames(self, chunk: np.ndarray) -> None: ...


def decode_stage(run: Runner, stage: StagePlan, sink: Sink) -> None:
    """Sound first: a container fixes its streams before the first frame.

    `video_from` and `audio_from` name a stage or `input`, whose media are passed on untouched;
    a stage that names none has no such stream.
    """
    sources = {"video": stage.settings.video_from, "audio": stage.settings.audio_from}
    latents = {
        stream: getattr(run.latents[source], stream)
        for stream, source in sources.items()
        if source not in (None, INPUT)
    }
    run.latents.clear()
    if sources["audio"] is not None:
        _sound(run, latents.get("audio"), sink)
    if sources["video"] is not None:
        _picture(run, latents.pop("video", None), sink)


def _sound(run: Runner, latent: Array | None, sink: Sink) -> None:
    plan = run.plan
    if latent is None:
        sound = input_waveform(plan)
        assert sound is not None, "the plan has checked that the input has sound"
        waveform, rate = sound
    else:
        with run.phase("audio decode", 1):
            checkpoint = plan.headers["checkpoint"]
            decoder = load_audio_decoder(checkpoint, run.backend, run.dtypes["audio_vae"])
            vocoder = load_vocoder(checkpoint, run.backend)
            waveform, rate = decode_audio(decoder, vocoder, latent)
            run.progress.advance()
        waveform = check_audio(run.outcome.checks, waveform, rate, plan.frames / plan.fps)
    if plan.extends:
        waveform = joined_sound(plan, waveform, rate)
    run.outcome.statistics["audio"] = _audio_record(waveform, rate)
    sink.audio(waveform, rate)


def _picture(run: Runner, latent: Array | None, sink: Sink) -> None:
    statistics = FrameStatistics()
    with run.phase("video decode", run.plan.output_frames):
        for chunk in _chunks(run, latent):
            chunk = run.outcome.checks.finite("video decode", chunk, NAN_FRAMES)
            statistics.add(chunk)
            sink.frames(chunk)
            run.progress.advance(len(chunk))
            # Not to be kept while the next one is made.
            del chunk
    check_video(run.outcome.checks, statistics, run.plan.output_frames)
    run.outcome.statistics["video"] = statistics.record()


def _chunks(run: Runner, latent: Array | None) -> Iterator[np.ndarray]:
    plan = run.plan
    if latent is None:
        return input_frames(plan, plan.frames)
    header, dtype = plan.headers["checkpoint"], run.dtypes["video_vae"]
    decoder = load_video_decoder(header, run.backend, dtype)
    choice = choose_tiling(
        plan.settings.tiling.mode,
        plan.tiling,
        tuple(latent.shape[1:4]),
        decoder.config,
        run.backend.activation_bytes(dtype),
        run.backend.free_bytes(),
    )
    run.outcome.statistics["tiling"] = choice.record()
    made = decode_frames(decoder, latent, choice.tiling, run.decode_noise)
    return joined_frames(plan, input_frames(plan), made) if plan.extends else made


def _audio_record(waveform: np.ndarray, rate: int) -> dict[str, Any]:
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    return {
        "rate": rate,
        "samples": waveform.shape[-1],
        "rms": round(rms, 5),
        "peak": round(float(np.abs(waveform).max()), 5),
    }
