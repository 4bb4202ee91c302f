"""The last stage: latents to frames and sound, handed on while they are produced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ltx2.models.tiling import decode_frames
from ltx2.ops import Array
from ltx2.pipelines.checks import FrameStatistics, check_audio, check_video
from ltx2.pipelines.components.audio import decode_audio, load_audio_decoder, load_vocoder
from ltx2.pipelines.components.video import load_video_decoder
from ltx2.pipelines.decoding import choose_tiling, decode_memory, set_border, tile_seams
from ltx2.pipelines.extension import joined_frames, joined_seams, joined_sound
from ltx2.pipelines.plan import StagePlan
from ltx2.pipelines.sources import input_frames, input_waveform

if TYPE_CHECKING:
    from ltx2.pipelines.runner import Runner

INPUT = "input"
SOUND, PICTURE = "sound", "picture"  # the halves of a decode stage
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
    assert run.keeper is not None
    found = run.keeper.reuse.found
    sources = {SOUND: stage.settings.audio_from, PICTURE: stage.settings.video_from}
    latents = {
        part: getattr(run.latents[source], stream)
        for (part, source), stream in zip(sources.items(), ("audio", "video"), strict=True)
        if source not in (None, INPUT) and part not in found
    }
    run.latents.clear()
    if sources[SOUND] is not None:
        _sound(run, latents.get(SOUND), sink, sources[SOUND] == INPUT)
    if sources[PICTURE] is not None:
        _picture(run, latents.pop(PICTURE, None), sink, sources[PICTURE] == INPUT)


def _sound(run: Runner, latent: Array | None, sink: Sink, given: bool) -> None:
    plan = run.plan
    if given:
        sound = input_waveform(plan)
        assert sound is not None, "the plan has checked that the input has sound"
        waveform, rate = sound
    else:
        waveform, rate = _decoded_sound(run, latent)
        waveform = check_audio(run.outcome.checks, waveform, rate, plan.frames / plan.fps)
    if plan.canvas is not None:
        waveform = waveform[:, : round(plan.seconds * rate)]
    if plan.extends:
        waveform = joined_sound(plan, waveform, rate)
    run.outcome.statistics["audio"] = _audio_record(waveform, rate)
    sink.audio(waveform, rate)


def _decoded_sound(run: Runner, latent: Array | None) -> tuple[np.ndarray, int]:
    """From the store, or decoded from `latent`."""
    keeper = run.keeper
    assert keeper is not None
    kept = keeper.found_sound(keeper.reuse.found.get(SOUND))
    if kept is not None:
        run.note(SOUND, "reused")
        return kept
    with keeper.claim(SOUND) as entry:
        kept = keeper.found_sound(entry)
        if kept is not None:
            run.note(SOUND, "reused")
            return kept
        waveform, rate = _sounded(run, latent)
        keeper.put_sound(waveform, rate)
    run.note(SOUND, "computed", run.outcome.phases.records[-1].seconds)
    return waveform, rate


def _sounded(run: Runner, latent: Array | None) -> tuple[np.ndarray, int]:
    checkpoint, dtype = run.plan.header_of("audio_vae"), run.dtypes["audio_vae"]
    with run.phase("audio decode", 1):
        load = partial(load_audio_decoder, checkpoint, run.backend, dtype)
        decoder = run.part("audio decoder", checkpoint, dtype, load)
        voice = partial(load_vocoder, checkpoint, run.backend)
        vocoder = run.part("vocoder", checkpoint, "fp32", voice)
        sound = decode_audio(decoder, vocoder, latent)
        run.progress.advance()
    return sound


def _picture(run: Runner, latent: Array | None, sink: Sink, given: bool) -> None:
    plan, keeper = run.plan, run.keeper
    assert keeper is not None
    if given:
        _shown(run, input_frames(plan, plan.frames), sink)
        return
    kept = keeper.reuse.found.get(PICTURE)
    with nullcontext(kept) if kept is not None else keeper.claim(PICTURE) as entry:
        if entry is not None:
            frames, rows, columns = entry.about["seams"]
            run.outcome.seams = frames, rows, columns
            made = keeper.found_frames(entry)
        else:
            assert latent is not None
            finite = partial(run.outcome.checks.finite, "video decode", causes=NAN_FRAMES)
            decoded = _without_padding(plan.made_frames, _decoded_frames(run, latent))
            made = keeper.kept_frames(map(finite, decoded))
        if plan.extends:
            frames, rows, columns = run.outcome.seams
            run.outcome.seams = joined_seams(plan, frames), rows, columns
            made = joined_frames(plan, input_frames(plan), made)
        _shown(run, made, sink)
    action = "computed" if entry is None else "reused"
    run.note(PICTURE, action, run.outcome.phases.records[-1].seconds)


def _without_padding(frames: int, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The first `frames` of `chunks`."""
    for chunk in chunks:
        if frames > 0:
            yield chunk[:frames]
        frames -= len(chunk)


def _shown(run: Runner, chunks: Iterator[np.ndarray], sink: Sink) -> None:
    """Hand `chunks` to the sink and judge them on the way."""
    statistics = FrameStatistics()
    with run.phase("video decode", run.plan.output_frames):
        for chunk in chunks:
            statistics.add(chunk)
            sink.frames(chunk)
            run.progress.advance(len(chunk))
            # Not to be kept while the next one is made.
            del chunk
    check_video(run.outcome.checks, statistics, run.plan.output_frames)
    run.outcome.statistics["video"] = statistics.record()


def _decoded_frames(run: Runner, latent: Array) -> Iterator[np.ndarray]:
    plan = run.plan
    assert run.keeper is not None
    header, dtype = plan.header_of("video_vae"), run.dtypes["video_vae"]
    load = partial(load_video_decoder, header, run.backend, dtype)
    decoder = run.part("video decoder", header, dtype, load)
    set_border(decoder, plan.settings.decoder)
    grid = tuple(latent.shape[1:4])
    need = decode_memory(decoder.config, grid, run.backend, dtype)
    choice = choose_tiling(plan.settings.tiling.mode, plan.tiling, need, run.backend.free_bytes())
    run.outcome.statistics["tiling"] = choice.record()
    run.outcome.seams = tile_seams(choice.tiling, grid, decoder.config)
    run.keeper.seams = run.outcome.seams
    return decode_frames(decoder, latent, choice.tiling, run.decode_noise)


def _audio_record(waveform: np.ndarray, rate: int) -> dict[str, Any]:
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    return {
        "rate": rate,
        "samples": waveform.shape[-1],
        "rms": round(rms, 5),
        "peak": round(float(np.abs(waveform).max()), 5),
    }
