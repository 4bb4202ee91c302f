"""A folder of clips with captions as training data, encoded once by the model's own encoders."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx2.errors import MissingFile, UserError
from ltx2.media.audio import read_audio, resample, to_stereo
from ltx2.media.pixels import cover_resize, to_unit_range
from ltx2.media.video import read_video
from ltx2.models.latents import AudioTiming, VideoScale, audio_latent_length, pack_audio
from ltx2.models.mel import mel_spectrogram
from ltx2.training.adapters import ClipBucket
from ltx2.training.checkpoint import load_state, save_state
from ltx2.training.latents import LatentSet
from ltx2.training.progress import Progress
from ltx2.training.settings import FolderData

log = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".gif")
CAPTION = ".txt"


def captioned_clips(data: FolderData) -> list[tuple[Path, str]]:
    """Clips and captions in the order of their names. Raises UserError for a missing caption."""
    if not data.folder:
        raise UserError("data.folder is empty; give the folder of clips, as data.folder=PATH")
    folder = Path(data.folder).expanduser()
    if not folder.is_dir():
        raise MissingFile(f"data.folder={folder} is no folder")
    clips = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(clips) <= data.held_out:
        raise UserError(
            f"{folder} has {len(clips)} clips ({', '.join(SUFFIXES)}), and data.held_out="
            f"{data.held_out} of them are only measured on; add clips or lower it"
        )
    absent = [path for path in clips if not path.with_suffix(CAPTION).is_file()]
    if absent:
        raise UserError(
            f"{len(absent)} clips of {folder} have no caption, first '{absent[0].name}': write it"
            f" into '{absent[0].stem}{CAPTION}'"
        )
    return [(p, p.with_suffix(CAPTION).read_text(encoding="utf-8").strip()) for p in clips]


def folder_latents(
    data: FolderData,
    encoders: tuple[Any, Any],
    scale: VideoScale,
    timing: AudioTiming,
    cache: Path,
    identity: str,
) -> tuple[LatentSet, LatentSet]:
    """Buckets to train on and held-out ones; `identity` tells the encoders apart."""
    _check_size(data, scale)
    clips = captioned_clips(data)
    told = [[str(path), path.stat().st_mtime_ns, text] for path, text in clips]
    key = hashlib.sha256(json.dumps([asdict(data), told, identity]).encode()).hexdigest()[:16]
    path = cache / f"clips-{key}.safetensors"
    if not path.is_file():
        _encode(clips, data, encoders, timing, path)
    tensors, facts = load_state(path)
    video, audio = (tensors[name].float().numpy() for name in ("video", "audio"))
    captions, first = facts["captions"], data.held_out

    def bucket(part: slice) -> LatentSet:
        texts = captions[part]
        # One scene per clip is counted; what it says is the caption.
        scenes: Any = texts
        made = ClipBucket(video[part], audio[part], scenes, data.batch, captions=texts)
        return LatentSet([made])

    return bucket(slice(first, None)), bucket(slice(first or 1))


@torch.inference_mode()
def _encode(
    clips: list[tuple[Path, str]],
    data: FolderData,
    encoders: tuple[Any, Any],
    timing: AudioTiming,
    target: Path,
) -> None:
    seconds = data.frames / data.fps
    tokens = audio_latent_length(data.frames, data.fps, timing.per_second)
    progress, video, audio = Progress("encoding clips", len(clips)), [], []
    weight = encoders[0].conv_in.conv.weight
    for path, _ in clips:
        frames, fps = read_video(path, data.frames)
        if len(frames) < data.frames:
            raise UserError(
                f"{path} has {len(frames)} frames; data.frames={data.frames} needs as many"
            )
        if abs(float(fps) / data.fps - 1) > 0.01:
            log.warning("%s has %.4g frames a second, not data.fps=%g", path, fps, data.fps)
        pixels = to_unit_range(cover_resize(frames, data.height, data.width))[None]
        latent = encoders[0](torch.from_numpy(pixels).to(weight))
        video.append(latent[0].float().cpu())
        audio.append(_sound(path, seconds, encoders[1])[:tokens])
        progress.advance()
    progress.end()
    facts = {"captions": [text for _, text in clips]}
    tensors = {"video": torch.stack(video).bfloat16(), "audio": torch.stack(audio).bfloat16()}
    save_state(target, tensors, facts)


def _sound(path: Path, seconds: float, encoder: Any) -> torch.Tensor:
    """Audio tokens (T, D) of the clip's first seconds; silence where it has no sound."""
    config, weight = encoder.config.mel, encoder.conv_in.conv.weight
    count = round(seconds * config.sample_rate)
    wave = np.zeros((2, count), np.float32)
    found = read_audio(path, 0.0, seconds)
    if found is not None:
        given = resample(to_stereo(found[0]), found[1], config.sample_rate)[:, :count]
        wave[:, : given.shape[1]] = given
    mel = torch.from_numpy(mel_spectrogram(wave, config)[None]).to(weight)
    return pack_audio(encoder(mel))[0].float().cpu()


def _check_size(data: FolderData, scale: VideoScale) -> None:
    for key in ("height", "width"):
        value = getattr(data, key)
        if value < scale.space or value % scale.space:
            low = max(1, value // scale.space) * scale.space
            raise UserError(
                f"data.{key}={value} is no multiple of {scale.space}; use {low} or"
                f" {low + scale.space}"
            )
    if data.frames < 1 or (data.frames - 1) % scale.time:
        low = max(0, data.frames - 1) // scale.time * scale.time + 1
        raise UserError(
            f"data.frames={data.frames} is not 1 + {scale.time}k; use {low} or {low + scale.time}"
        )
