"""What metrics cost beside decoding the same video with the built-in model, in CPU seconds.

Decoding is that of the pocket model, whose decoder is the smallest there is; the sink encodes
nothing. Both run on one thread, in turns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired.report import show
from paired.timing import alternate, ratio

from ltx2.app.build import build
from ltx2.app.compose import compose
from ltx2.app.groups import group_options
from ltx2.backends.torch import TorchBackend
from ltx2.experiment.metrics.base import Clip
from ltx2.experiment.metrics.sink import MetricSink
from ltx2.experiment.sink import SoundSink
from ltx2.media.audio import write_wav
from ltx2.media.video import VideoWriter
from ltx2.models.tiling import auto_tiling, decode_frames
from ltx2.pipelines.catalogue import conf_folder
from ltx2.pipelines.components.video import load_video_decoder
from ltx2.weights.header import read_header

POCKET = Path(__file__).parents[1] / "ltx2" / "pocket" / "ltx-2-pocket.safetensors"
RATE = 24_000
BUNDLES = ("basic", "video", "audio", "all")
# They need weights that this machine may not have, or latents of steps.
LEFT_OUT = ("clip", "lpips", "latent_distance")


class Nowhere(SoundSink):
    """Takes frames and keeps nothing."""

    def frames(self, chunk: np.ndarray) -> None:
        """Dropped."""


def decoder(options: argparse.Namespace) -> Callable[[], list[np.ndarray]]:
    """Decodes a random latent of the clip's size with the pocket model, tiled as by default."""
    backend = TorchBackend("cpu")
    model = load_video_decoder(read_header(POCKET), backend)
    scale = model.config.scale
    grid = (
        (options.frames - 1) // scale.time + 1,
        options.height // scale.space,
        options.width // scale.space,
    )
    shape = (1, *grid, model.config.latent_channels)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    latent = backend.array(values, "fp32")
    tiling = auto_tiling(options.height, options.width, scale)
    return torch.inference_mode()(lambda: list(decode_frames(model, latent, tiling)))


def measuring(metrics: list[str], clip: Clip, frames: np.ndarray) -> Callable[[], dict[str, Any]]:
    """Builds the options, streams the clip through them and asks for the results."""
    overrides = [f"metrics=[{','.join(metrics)}]"]
    nodes = compose(overrides).metrics
    for name, node in nodes.items():
        for key in ("path", "reference"):
            if key in node:
                nodes[name] = node | {key: str(clip.folder / "reference")}
    times = np.arange(round(clip.seconds * RATE)) / RATE
    sound = np.stack([0.3 * np.sin(2 * np.pi * 440 * times)] * 2).astype(np.float32)

    def run() -> dict[str, Any]:
        built = {name: build(node) for name, node in nodes.items()}
        sink = MetricSink(Nowhere(clip.folder), built, clip)
        sink.audio(sound, RATE)
        sink.frames(frames)
        return sink.results()

    return run


def write_reference(folder: Path, frames: np.ndarray, fps: float) -> None:
    """A folder of PNG frames with sound."""
    with VideoWriter(folder / "reference", fps) as writer:
        writer.write(frames)
    seconds = len(frames) / fps
    noise = np.random.default_rng(0).normal(0, 0.1, (2, round(seconds * RATE)))
    write_wav(folder / "reference" / "audio.wav", noise.astype(np.float32), RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--each", action="store_true", help="every metric alone, too")
    parser.add_argument("--json", help="write the record to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    _one_thread_for_opencv()
    singles = [n for n in group_options(conf_folder(), "metrics") if n not in BUNDLES + LEFT_OUT]
    decode = decoder(options)
    frames = np.concatenate(decode())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        size = (len(frames), *frames.shape[1:3])
        clip = Clip("", 24.0, *size, Path(folder), lambda: ([64], [256], [256]))
        write_reference(Path(folder), frames, clip.fps)
        names = [*BUNDLES, *(singles if options.each else ["reference"])]
        sides: dict[str, Callable[[], Any]] = {n: measuring([n], clip, frames) for n in names}
        times = alternate(sides | {"decode": decode}, options.repeats)
    for name, found in times.items():
        row = {"metrics": name, "CPU s": found.record()["CPU s"]}
        rows.append(row | {"ratio to decode": round(ratio(found, times["decode"]), 4)})
    title = f"metrics beside a decode of {size[0]} frames, {size[2]}x{size[1]}"
    show(title, rows, options.json)


def _one_thread_for_opencv() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import cv2

    cv2.setNumThreads(1)


if __name__ == "__main__":
    main()
