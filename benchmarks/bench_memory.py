"""Peak memory of decoding clips of growing length, whole and in tiles: tiles do not grow.

Each length and side runs in a process of its own, through the decoder that a generation uses.
`tiled` throws the frames away as they come, `mp4` writes them.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from paired.report import show
from paired.timing import peak_of, peak_rss

from ltx2.models.latents import video_latent_shape
from ltx2.models.tiling import TileAxis, Tiling, decode_frames
from ltx2.pipelines.components.video import load_video_decoder
from ltx2.weights.header import read_header

POCKET = Path(__file__).parents[1] / "ltx2" / "pocket" / "ltx-2-pocket.safetensors"
LENGTHS = [17, 33, 65, 129, 257]
SIDES = ("whole", "tiled", "mp4")
FPS = 24.0


def make_backend(name: str, device: str) -> Any:
    if name == "torch":
        from ltx2.backends.torch import TorchBackend

        return TorchBackend(device)
    from ltx2.backends.mlx import MlxBackend

    return MlxBackend(device)


def report_peak(options: argparse.Namespace) -> None:
    """Decode one clip and print this process's growth since the decoder was loaded."""
    backend = make_backend(options.backend, options.device)
    decoder = load_video_decoder(read_header(options.checkpoint), backend, options.dtype)
    frames = options.frames[0]
    grid = video_latent_shape(frames, options.size[0], options.size[1], decoder.scale)
    draw = np.random.default_rng(1).normal(size=(1, *grid, decoder.config.latent_channels))
    latent = backend.array(draw.astype(np.float32))
    tiling = None
    if options.side != "whole":
        side = TileAxis(*options.tile_pixels)
        tiling = Tiling(TileAxis(*options.tile_frames), side, side)

    def chunks() -> Iterator[np.ndarray]:
        return decode_frames(decoder, latent, tiling)

    consume = _write if options.side == "mp4" else _discard
    gc.collect()
    backend.reset_peak()
    before = _peak(backend)
    with backend.inference():
        seen = consume(chunks)
    assert seen == frames, f"{seen} frames instead of {frames}"
    print(json.dumps({"peak_bytes": _peak(backend) - before}))


def _peak(backend: Any) -> int:
    peak = backend.peak_bytes()
    return peak_rss() if peak is None else peak


def _discard(chunks: Callable[[], Iterator[np.ndarray]]) -> int:
    return sum(len(chunk) for chunk in chunks())


def _write(chunks: Callable[[], Iterator[np.ndarray]]) -> int:
    from ltx2.media.video import VideoWriter

    with tempfile.TemporaryDirectory() as folder:
        with VideoWriter(Path(folder) / "clip.mp4", FPS) as writer:
            for chunk in chunks():
                writer.write(chunk)
        return writer.frames


def measure(options: argparse.Namespace, frames: int) -> dict[str, Any]:
    """Peak megabytes of every side for one length."""
    base = ["--backend", options.backend, "--device", options.device, "--dtype", options.dtype]
    base += ["--checkpoint", str(options.checkpoint), "--frames", str(frames)]
    for name in ("size", "tile_frames", "tile_pixels"):
        base += [f"--{name.replace('_', '-')}", *map(str, getattr(options, name))]
    row: dict[str, Any] = {"frames": frames}
    for side in SIDES:
        row[f"{side} MB"] = round(peak_of(__file__, [*base, "--side", side]) / 1e6)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("torch", "mlx"), default="torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--checkpoint", type=Path, default=POCKET)
    parser.add_argument("--frames", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--size", nargs=2, type=int, default=[256, 256], metavar=("H", "W"))
    parser.add_argument(
        "--tile-frames", nargs=2, type=int, default=[24, 8], metavar=("N", "SHARED")
    )
    parser.add_argument(
        "--tile-pixels", nargs=2, type=int, default=[160, 64], metavar=("N", "SHARED")
    )
    parser.add_argument("--json", help="write the record to this file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        report_peak(options)
        return
    rows = [measure(options, frames) for frames in options.frames]
    height, width = options.size
    show(f"VAE decode at {height} x {width}, {options.backend}", rows, options.json)


if __name__ == "__main__":
    main()
