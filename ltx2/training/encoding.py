"""Clips encoded once by the finished autoencoders; shards that exist are not made again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx2.errors import UserError
from ltx2.models.latents import audio_latent_length, pack_audio
from ltx2.models.mel import mel_spectrogram
from ltx2.pocket.styles import control, styled
from ltx2.pocket.world import Scene, Take, held_out_scene, training_scene
from ltx2.training.adapters import ClipBucket
from ltx2.training.checkpoint import load_state, save_state
from ltx2.training.latents import Bucket, LatentSet, load_bucket, save_bucket
from ltx2.training.progress import Progress
from ltx2.training.settings import BucketEntry, PocketData, SetEntry
from ltx2.training.workshop import Workshop

log = logging.getLogger(__name__)

# Every third held-out clip shows two things.
PAIRS_EVERY = 3


@dataclass(frozen=True)
class Shard:
    """One file per size for the clips `first` to `first + count` of a set."""

    name: str
    index: int
    count: int
    entry: SetEntry

    def path(self, folder: Path, size: str) -> Path:
        return folder / f"{self.name}-{self.index:03d}_{size}.safetensors"

    def reference_path(self, folder: Path, size: str) -> Path:
        return folder / f"{self.name}-{self.index:03d}_{size}_reference.safetensors"


def shards_of(name: str, entry: SetEntry) -> list[Shard]:
    """A set in pieces of `entry.shard` clips."""
    starts = range(0, entry.count, entry.shard)
    return [
        Shard(name, index, min(entry.shard, entry.count - first), entry)
        for index, first in enumerate(starts)
    ]


def encode_sets(workshop: Workshop, names: Sequence[str]) -> None:
    """Make the missing shards of data.sets `names`. Raises UserError for unknown names."""
    data, folder = workshop.settings.data, Path(workshop.settings.parts.latents)
    assert isinstance(data, PocketData)
    wanted = [s for name in dict.fromkeys(names) for s in shards_of(name, _set(data, name))]
    absent = [
        shard for shard in wanted if not all(path.is_file() for path in _files(shard, folder))
    ]
    if not absent:
        return
    halves = workshop.finished("video")["encoder"], workshop.finished("audio")["encoder"]
    progress = Progress("encoding clips", sum(shard.count for shard in absent))
    for shard in absent:
        _encode(shard, folder, halves, workshop, progress)
    progress.end()


def _files(shard: Shard, folder: Path) -> list[Path]:
    sizes = shard.entry.sizes
    paths = [shard.path(folder, size) for size in sizes]
    return paths + [shard.reference_path(folder, size) for size in sizes if shard.entry.reference]


def latent_set(workshop: Workshop, entries: dict[str, BucketEntry]) -> LatentSet:
    """Buckets of data.buckets, or data.held_out, all shards of their sets joined."""
    data, folder = workshop.settings.data, Path(workshop.settings.parts.latents)
    assert isinstance(data, PocketData)
    entries = {name: entry for name, entry in entries.items() if entry.share > 0}
    if not entries:
        raise UserError("no entry of data.buckets has a share above 0; give at least one")
    buckets = []
    for name, entry in entries.items():
        for chosen in entry.sets:
            if entry.size not in _set(data, chosen).sizes:
                raise UserError(
                    f"data.buckets.{name}.size={entry.size} is none of the sizes of"
                    f" data.sets.{chosen}: {', '.join(_set(data, chosen).sizes)}"
                )
        pieces = [
            load_bucket(shard.path(folder, entry.size), entry.batch)
            for chosen in entry.sets
            for shard in shards_of(chosen, _set(data, chosen))
        ]
        bucket = _joined(pieces, entry)
        references = [
            load_state(shard.reference_path(folder, entry.size))[0]["reference"].float().numpy()
            for chosen in entry.sets
            for shard in shards_of(chosen, _set(data, chosen))
            if shard.entry.reference
        ]
        buckets.append(_with_references(bucket, references))
    return LatentSet(buckets)


def _joined(pieces: Sequence[Bucket], entry: BucketEntry) -> Bucket:
    video, audio = (np.concatenate([getattr(p, n) for p in pieces]) for n in ("video", "audio"))
    scenes = [scene for piece in pieces for scene in piece.scenes]
    return Bucket(video, audio, scenes, entry.batch, entry.share, entry.highest)


def _with_references(bucket: Bucket, references: Sequence[np.ndarray]) -> Bucket:
    if not references:
        return bucket
    joined = np.concatenate(references)
    if len(joined) != len(bucket.video):
        raise UserError("a bucket's sets must all have a reference, or none of them")
    return ClipBucket(**vars(bucket), reference=joined)


def _set(data: PocketData, name: str) -> SetEntry:
    if name not in data.sets:
        raise UserError(f"data.sets has no '{name}'; it has {', '.join(data.sets) or 'none'}")
    return data.sets[name]


@torch.inference_mode()
def _encode(
    shard: Shard, folder: Path, halves: tuple[Any, Any], workshop: Workshop, progress: Progress
) -> None:
    data, entry = workshop.settings.data, shard.entry
    assert isinstance(data, PocketData)
    sizes = {text: size_of(text, workshop) for text in entry.sizes}
    rng = np.random.default_rng([entry.seed, shard.index])
    seconds = entry.frames / data.fps
    tokens = audio_latent_length(entry.frames, data.fps, workshop.timing.per_second)
    mel = workshop.audio_config.mel
    video: dict[str, list[np.ndarray]] = {text: [] for text in sizes}
    references: dict[str, list[np.ndarray]] = {text: [] for text in sizes}
    audio: list[np.ndarray] = []
    scenes: list[Scene] = []
    for index in range(shard.count):
        pair = index % PAIRS_EVERY == PAIRS_EVERY - 1
        scene = held_out_scene(rng, 1 + pair) if entry.held_out else training_scene(rng)
        take = Take.draw(scene, rng)
        for text, (height, width) in sizes.items():
            clip = take.frames(entry.frames, height, width)
            video[text].append(_latent(styled(clip, entry.style), halves[0]))
            if entry.reference:
                references[text].append(_latent(control(clip, entry.reference), halves[0]))
        height, width = next(iter(sizes.values()))
        wave = take.sound(seconds, mel.sample_rate, width / height)
        latent = halves[1](torch.from_numpy(mel_spectrogram(wave, mel))[None])
        audio.append(pack_audio(latent)[0, :tokens].float().numpy())
        scenes.append(scene)
        progress.advance()
    for text, clips in video.items():
        save_bucket(shard.path(folder, text), np.stack(clips), np.stack(audio), scenes)
        if entry.reference:
            tensor = torch.from_numpy(np.stack(references[text])).bfloat16()
            save_state(shard.reference_path(folder, text), {"reference": tensor}, {})


def _latent(clip: np.ndarray, encoder: Any) -> np.ndarray:
    """(F, H, W, 3) in [0, 1] -> (F', H', W', C)."""
    return encoder(torch.from_numpy(clip * 2 - 1)[None])[0].float().numpy()


def size_of(text: str, workshop: Workshop) -> tuple[int, int]:
    """(height, width) of "64x96". Raises UserError for what the model cannot encode."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdigit() for side in sides):
        raise UserError(f"size '{text}' is not HEIGHTxWIDTH, such as 64x96")
    height, width = (int(side) for side in sides)
    step = workshop.scale.space
    if height % step or width % step or not height or not width:
        raise UserError(f"size {text} is not made of multiples of {step}")
    return height, width
