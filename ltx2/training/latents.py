"""Latents of training clips, made once: what the transformer and the upsampler are trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ltx2.models.latents import Grid
from ltx2.pocket.captions import caption, random_caption
from ltx2.pocket.world import Scene, Thing
from ltx2.training.checkpoint import load_state, save_state


@dataclass(frozen=True)
class Bucket:
    """Clips of one shape: video (N, F, H, W, C), audio (N, T, D) as tokens, and their scenes.

    Batches of `batch` clips are drawn in proportion to `share`, noised up to sigma `highest`.
    """

    video: np.ndarray
    audio: np.ndarray
    scenes: Sequence[Scene]
    batch: int
    share: float = 1.0
    highest: float = 1.0

    @property
    def grid(self) -> Grid:
        frames, height, width = self.video.shape[1:4]
        return frames, height, width

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the clips `index`: (B, F*H*W, C) and (B, T, D), float32."""
        video = self.video[index].astype(np.float32)
        return video.reshape(len(index), -1, video.shape[-1]), self.audio[index].astype(np.float32)

    def caption(self, row: int, rng: np.random.Generator, full: bool = False) -> str:
        """A random caption of one clip; with `full` one that says everything."""
        scene = self.scenes[row]
        return caption(scene, rng) if full else random_caption(scene, rng)


@dataclass(frozen=True)
class LatentSet:
    """Buckets of several shapes."""

    buckets: Sequence[Bucket]

    def choose(self, rng: np.random.Generator) -> Bucket:
        shares = np.array([bucket.share for bucket in self.buckets])
        return self.buckets[rng.choice(len(shares), p=shares / shares.sum())]


def save_bucket(path: Path, video: np.ndarray, audio: np.ndarray, scenes: Sequence[Scene]) -> None:
    """Latents as bfloat16, scenes in the header."""
    tensors = {
        "video": torch.from_numpy(video).bfloat16(),
        "audio": torch.from_numpy(audio).bfloat16(),
    }
    save_state(path, tensors, {"scenes": [dataclasses.asdict(scene) for scene in scenes]})


def load_bucket(path: Path, batch: int, share: float = 1.0, highest: float = 1.0) -> Bucket:
    """What `save_bucket` wrote."""
    tensors, facts = load_state(path)
    scenes = [scene_of(entry) for entry in facts["scenes"]]
    video, audio = (tensors[name].float().numpy() for name in ("video", "audio"))
    return Bucket(video, audio, scenes, batch, share, highest)


def scene_of(entry: dict) -> Scene:
    """A scene from its JSON form."""
    things = tuple(Thing(**thing) for thing in entry["things"])
    return Scene(entry["background"], things, entry["sound"], entry["flaw"])
