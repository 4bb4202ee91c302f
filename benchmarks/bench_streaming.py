"""A transformer whose weights are four times the memory allowed, streamed: peak memory and time.

A file of random blocks is written once. Peaks are measured in fresh processes and compared with
three blocks and the activations (what a single block leaves resident beside its weights); time is
that of the resident model, both in turns in one process. The file should fit into the system's
cache: then the disk is not the limit.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from paired.report import show
from paired.timing import alternate, forget_peak, peak_of, peak_rss, ratio

from ltx2.backends import open_backend
from ltx2.models.latents import VideoScale, audio_positions, video_positions
from ltx2.models.transformer import Stream, Transformer
from ltx2.nn.module import params
from ltx2.pipelines.components.transformer import (
    PREFIXES,
    load_transformer,
    transformer_config,
)
from ltx2.weights.header import Header, read_header
from ltx2.weights.streaming import Streaming
from ltx2.weights.writing import Piece, write_file

POCKET = Path(__file__).parents[1] / "ltx2" / "pocket" / "ltx-2-pocket.safetensors"
FPS, AUDIO_TOKENS, TEXT_TOKENS = 24.0, 32, 128
SIDES = ("resident", "streamed", "activations")
# The weights are so many times the memory that the streamed model may take.
BUDGET = 4
# Interpreter noise, buffers of the file reader.
SLACK = 32e6


def write_model(path: Path, layers: int, heads: int) -> Header:
    """Random bfloat16 blocks of `heads` x 64 video channels in a file without other components."""
    source = read_header(POCKET)
    config = copy.deepcopy(source.config)
    config["transformer"] |= {
        "num_layers": layers,
        "num_attention_heads": heads,
        "attention_head_dim": 64,
        "cross_attention_dim": 64 * heads,
        "audio_num_attention_heads": heads,
        "audio_attention_head_dim": 32,
        "audio_cross_attention_dim": 32 * heads,
    }
    metadata = source.metadata | {"config": json.dumps(config)}
    declared = Transformer.declare(transformer_config(replace(source, metadata=metadata)))
    pool = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
    pieces = [
        Piece(PREFIXES.own[0] + slot.name, "BF16", slot.value.shape, _values(slot, pool))
        for slot in params(declared)
    ]
    return read_header(write_file(path, pieces, metadata))


def _values(slot: Any, pool: np.ndarray) -> Callable[[], Iterator[bytes]]:
    """Values that keep activations near one, drawn again and again from `pool`."""
    shape = slot.value.shape

    def chunks() -> Iterator[bytes]:
        scale = 0.1 if len(shape) == 1 or "table" in slot.name else math.sqrt(1 / shape[-1])
        drawn = pool * np.float32(scale) + np.float32(slot.name.endswith("norm.weight"))
        # The upper half of a float32 is a bfloat16.
        raw = (drawn.view(np.uint32) >> 16).astype("<u2").tobytes()
        left = 2 * math.prod(shape)
        while left:
            yield raw[: min(left, len(raw))]
            left -= min(left, len(raw))

    return chunks


def block_bytes(header: Header) -> int:
    """The largest block of the file."""
    sizes: dict[str, int] = {}
    for name, info in header.tensors.items():
        if ".transformer_blocks." in name:
            block = name.split(".transformer_blocks.")[1].split(".")[0]
            sizes[block] = sizes.get(block, 0) + info.stop - info.start
    return max(sizes.values())


def with_layers(header: Header, layers: int) -> Header:
    """As if the file had been made for fewer blocks."""
    config = copy.deepcopy(header.config)
    config["transformer"]["num_layers"] = layers
    return replace(header, metadata=header.metadata | {"config": json.dumps(config)})


def make_step(options: argparse.Namespace, backend: Any, side: str) -> Callable[[], Any]:
    header = read_header(options.file)
    way = Streaming(options.source, options.ahead) if side == "streamed" else None
    if side == "activations":
        header = with_layers(header, 1)
    model = load_transformer(header, backend, options.dtype, streaming=way)
    draw = np.random.default_rng(1)

    def normal(*shape: int) -> Any:
        return backend.array(draw.normal(size=shape).astype(np.float32), options.dtype)

    grid, config = (options.tokens // 256, 16, 16), model.config
    tokens, sigma = math.prod(grid), np.full((1,), 0.7, np.float32)
    caption = config.video.caption
    contexts = model.project_context(*(normal(1, TEXT_TOKENS, caption) for _ in range(2)))
    video = Stream(
        normal(1, tokens, config.video.in_channels), np.full((1, tokens), 0.7, np.float32), sigma,
        video_positions(grid, FPS, VideoScale()), contexts[0],
    )  # fmt: skip
    audio = Stream(
        normal(1, AUDIO_TOKENS, config.audio.in_channels),
        np.full((1, AUDIO_TOKENS), 0.7, np.float32), sigma, audio_positions(AUDIO_TOKENS),
        contexts[1],
    )  # fmt: skip

    def step() -> Any:
        with backend.inference():
            return [backend.numpy(x) for x in model(video, audio)]

    return step


def report_peak(options: argparse.Namespace, backend: Any) -> None:
    """Load, run twice and print how much this process grew."""
    backend.numpy(backend.array(np.ones((64, 64), np.float32)))
    forget_peak()
    before = peak_rss()
    step = make_step(options, backend, options.side)
    step()
    step()
    print(json.dumps({"peak_bytes": peak_rss() - before}))


def measure(options: argparse.Namespace, header: Header) -> dict[str, Any]:
    same = [f"--{key}={getattr(options, key)}" for key in PASSED]
    peaks = {side: peak_of(__file__, [*same, "--side", side]) for side in SIDES}
    wider = {"bf16": 1, "fp32": 2}[options.dtype]  # than the file
    weights = wider * sum(info.stop - info.start for info in header.tensors.values())
    block = wider * block_bytes(header)
    rest = weights - transformer_config(header).layers * block
    activations = max(0, peaks["activations"] - block - rest)
    bound = 3 * block + rest + activations
    backend = open_backend(options.backend, device="cpu")
    steps = {side: make_step(options, backend, side) for side in SIDES[:2]}
    for ours, theirs in zip(*(step() for step in steps.values()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    times = alternate(steps, options.repeats)
    row: dict[str, Any] = {
        "blocks": transformer_config(header).layers,
        "weights MB": weights / 1e6,
        "block MB": block / 1e6,
        "activations MB": activations / 1e6,
        "resident MB": peaks["resident"] / 1e6,
        "streamed MB": peaks["streamed"] / 1e6,
        "bound MB": bound / 1e6,
        "of budget": peaks["streamed"] / (weights / BUDGET),
        "wall ratio": ratio(times["streamed"], times["resident"], wall=True),
        "CPU ratio": ratio(times["streamed"], times["resident"]),
    }
    for name, kept in times.items():
        row[f"{name} s"] = kept.record()["wall s"]
    kept_bound = peaks["streamed"] <= bound + SLACK
    row["within"] = "yes" if kept_bound and row["of budget"] <= 1 else "NO"
    return {key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}


PASSED = ("file", "backend", "dtype", "tokens", "source", "ahead", "threads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("torch", "mlx"), default="torch")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--heads", type=int, default=16, help="of 64 video and 32 audio channels")
    parser.add_argument("--tokens", type=int, default=1024, help="of video, a multiple of 256")
    parser.add_argument("--source", choices=("disk", "ram"), default="disk")
    parser.add_argument("--ahead", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--file", type=Path, help="keep the model here, and use it if it exists")
    parser.add_argument("--json", help="write the record to this file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend == "torch":
        import torch

        torch.set_num_threads(options.threads)
    if options.side:
        report_peak(options, open_backend(options.backend, device="cpu"))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.file = options.file or Path(folder) / "blocks.safetensors"
        if not options.file.exists():
            write_model(options.file, options.layers, options.heads)
        row = measure(options, read_header(options.file))
    show(f"block streaming, {options.backend} {options.dtype}", [row], options.json)


if __name__ == "__main__":
    main()
