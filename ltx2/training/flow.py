"""Rectified flow: the transformer learns the velocity from clean latents to noise, text included.

A step's batch has one task, so that image-to-video, retake, extend, audio-to-video and
video-to-audio mean something to the model as well as generation from text alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.models.latents import AudioTiming, Grid, VideoScale, audio_positions, video_positions
from ltx2.models.transformer import Stream, Transformer
from ltx2.nn.layers import Linear
from ltx2.training.latents import LatentSet
from ltx2.training.parameters import initialise
from ltx2.training.text import TextPath

TASKS: Mapping[str, float] = {
    "generate": 0.60, "image": 0.14, "region": 0.08, "independent": 0.06,
    "audio_to_video": 0.06, "video_to_audio": 0.06,
}  # fmt: skip
# Blocks after which the throw-away head reads positions.
HEAD_BLOCKS = (0, 1)


@dataclass(frozen=True)
class FlowOptions:
    """`dropout`: share of empty captions. `audio`: weight of the audio loss. `head`: of positions.

    Noise levels are a mixture: sigmoid of N(`centre`, `width`), uniform near 1, uniform.
    """

    dropout: float = 0.1
    audio: float = 0.7
    head: float = 0.1
    head_until: int = 2500
    centre: float = 0.8
    width: float = 1.3
    tasks: Mapping[str, float] = field(default_factory=lambda: dict(TASKS))


@dataclass(frozen=True)
class Batch:
    """One stream's clean latent (B, T, C), noise, and the noise level of every token (B, T)."""

    clean: np.ndarray
    noise: np.ndarray
    levels: np.ndarray
    sigma: np.ndarray  # (B,)
    positions: np.ndarray

    @property
    def noisy(self) -> np.ndarray:
        level = self.levels[..., None]
        return (1 - level) * self.clean + level * self.noise

    @property
    def velocity(self) -> np.ndarray:
        return self.noise - self.clean


@dataclass
class FlowObjective:
    """Transformer and text path on cached latents; `head` finds positions from hidden states.

    Without a nudge the place of things in time and space is learned late and abruptly; the head,
    dropped at export, makes it early.
    """

    transformer: Transformer
    text: TextPath
    data: LatentSet
    held_out: LatentSet
    scale: VideoScale
    timing: AudioTiming
    fps: float
    options: FlowOptions = FlowOptions()
    head: dict[str, Linear] = field(init=False)

    def __post_init__(self) -> None:
        width = self.transformer.config.video.width
        sizes = {"t": 16, "y": 16, "x": 16}
        self.head = {
            axis: initialise(Linear.declare(width, size), 5) for axis, size in sizes.items()
        }

    @property
    def modules(self) -> dict[str, Any]:
        heads = {f"head_{axis}": layer for axis, layer in self.head.items()}
        return {"transformer": self.transformer} | self.text.modules | heads

    def trains(self, name: str) -> bool:
        return self.text.trains_gemma or not name.startswith("gemma.")

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        bucket = self.data.choose(rng)
        rows = rng.integers(0, len(bucket.scenes), bucket.batch)
        captions = [
            "" if rng.random() < self.options.dropout else bucket.caption(row, rng) for row in rows
        ]
        task = str(rng.choice(list(self.options.tasks), p=_shares(self.options.tasks)))
        video, audio = self.batch(bucket, rows, task, rng)
        hidden: dict[int, Tensor] = {}
        contexts = self.text(captions, self.transformer)
        outputs = self.velocities(video, audio, contexts, hidden)
        losses = {
            "video": flow_loss(outputs[0], video),
            "audio": flow_loss(outputs[1], audio),
        }
        total = losses["video"] + self.options.audio * losses["audio"]
        if step < self.options.head_until:
            losses["head"] = self._head_loss(hidden, bucket.grid)
            total = total + self.options.head * losses["head"]
        figures = {name: float(value.detach()) for name, value in losses.items()}
        return total, {f"{task}/{n}" if n != "head" else n: v for n, v in figures.items()}

    def batch(
        self, bucket: Any, rows: np.ndarray, task: str, rng: np.random.Generator
    ) -> tuple[Batch, Batch]:
        """Clean latents, noise and levels of one step for both streams."""
        count = len(rows)
        sigma = self._sigmas(rng, count, bucket.highest)
        other = self._sigmas(rng, count, bucket.highest) if task == "independent" else sigma
        video, audio = bucket.rows(rows)
        masks = task_masks(task, bucket.grid, audio.shape[1], rng)
        noises = [rng.standard_normal(x.shape, np.float32) for x in (video, audio)]
        positions = (
            video_positions(bucket.grid, self.fps, self.scale),
            audio_positions(audio.shape[1], self.timing),
        )
        return tuple(  # type: ignore[return-value]
            Batch(x, n, s[:, None] * m, s, np.repeat(p, count, 0))
            for x, n, s, m, p in zip(
                (video, audio), noises, (sigma, other), masks, positions, strict=True
            )
        )

    def velocities(
        self,
        video: Batch,
        audio: Batch,
        contexts: tuple[Any, Any],
        hidden: dict[int, Tensor] | None = None,
        transformer: Transformer | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The model's velocities (B, T, C) in float32; `hidden` collects states after blocks."""

        def trace(kind: str, index: int, x: Any, y: Any) -> None:
            if hidden is not None and index in HEAD_BLOCKS:
                hidden[index] = x

        streams = []
        for part, context in zip((video, audio), contexts, strict=True):
            latent = torch.from_numpy(part.noisy).to(context.dtype)
            levels = part.levels.astype(np.float32)
            sigma = part.sigma.astype(np.float32)
            streams.append(Stream(latent, levels, sigma, part.positions, context))
        model = transformer or self.transformer
        x, y = model(streams[0], streams[1], trace=trace)
        assert x is not None and y is not None
        return x.float(), y.float()

    def evaluate(self) -> dict[str, float]:
        """Flow losses on held-out clips with fixed noise, by range of sigma."""
        rng = np.random.default_rng(0)
        figures: dict[str, list[float]] = {}
        for bucket in self.held_out.buckets:
            rows = np.arange(min(bucket.batch, len(bucket.scenes)))
            captions = [bucket.caption(int(row), rng, full=True) for row in rows]
            contexts = self.text(captions, self.transformer)
            video, audio = self.batch(bucket, rows, "generate", rng)
            outputs = self.velocities(video, audio, contexts)
            name = f"{bucket.grid[1]}x{bucket.grid[2]}"
            figures.setdefault(f"video_{name}", []).append(float(flow_loss(outputs[0], video)))
            figures.setdefault(f"audio_{name}", []).append(float(flow_loss(outputs[1], audio)))
        return {name: float(np.mean(values)) for name, values in figures.items()}

    def _sigmas(self, rng: np.random.Generator, count: int, highest: float) -> np.ndarray:
        o = self.options
        logistic = 1 / (1 + np.exp(-rng.normal(o.centre, o.width, count)))
        kind = rng.random(count)
        sigma = np.where(kind < 0.75, logistic, rng.uniform(0, 1, count))
        sigma = np.where(kind > 0.88, rng.uniform(0.9, 1, count), sigma)
        if highest < 1:
            sigma = rng.uniform(0, highest, count)
        return sigma.astype(np.float32)

    def _head_loss(self, hidden: dict[int, Tensor], grid: Grid) -> Tensor:
        index = np.stack(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")).reshape(3, -1)
        total = torch.zeros(())
        for x in hidden.values():
            unit = F.rms_norm(x, x.shape[-1:])
            for layer, target in zip(self.head.values(), index, strict=True):
                logits = layer(unit).float().flatten(0, 1)
                wanted = torch.from_numpy(np.tile(target, len(x)))
                total = total + F.cross_entropy(logits, wanted)
        return total / (3 * max(1, len(hidden)))


def _shares(tasks: Mapping[str, float]) -> np.ndarray:
    shares = np.array(list(tasks.values()))
    return shares / shares.sum()


def task_masks(
    task: str, grid: Grid, sounds: int, rng: np.random.Generator
) -> Sequence[np.ndarray]:
    """What is noised (1) and what is given (0): video (1, F*H*W), audio (1, T)."""
    video, audio = np.ones(grid, np.float32), np.ones(sounds, np.float32)
    if task == "image":
        video[0] = 0
        if rng.random() < 0.25:
            video[-1] = 0
    elif task == "region":
        frames = grid[0]
        first, last = sorted(rng.choice(frames + 1, 2, replace=False))
        kind = rng.random()
        if kind < 0.6:  # a span of time is made anew, or all but a span
            inside = bool(rng.random() < 0.5)
            video[:], audio[:] = inside, inside
            video[first:last] = 1 - inside
            audio[round(sounds * first / frames) : round(sounds * last / frames)] = 1 - inside
            if kind < 0.15:
                audio[:] = 1
        else:  # half of the picture is kept
            half = slice(0, grid[2] // 2) if rng.random() < 0.5 else slice(grid[2] // 2, None)
            video[:, :, half] = 0
    elif task == "audio_to_video":
        audio[:] = 0
    elif task == "video_to_audio":
        video[:] = 0
    return video.reshape(1, -1), audio[None]


def flow_loss(output: Tensor, batch: Batch) -> Tensor:
    """Mean squared error of the velocity where something was noised; zero if nothing was."""
    target = torch.from_numpy(batch.velocity)
    weight = torch.from_numpy((batch.levels > 0).astype(np.float32))[..., None]
    error = (output - target).square() * weight
    return error.sum() / (weight.sum() * output.shape[-1]).clamp(min=1)
