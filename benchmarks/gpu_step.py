"""The 2.0 transformer and video decoder at their real sizes on a GPU, against diffusers.

Random weights are made on the device and shared with diffusers' classes in the same process. The
rows say milliseconds per call, the share of what the device gives in a plain matrix product, and
the memory a call takes beside the weights. Parts: `step` (bf16, plain and compiled), `fp8` (scaled
float8 layers, whole and linear layers alone), `decode` (video VAE), `load` (a file to the device,
against reading it plainly), `stream` (blocks that pass from disk and from RAM, against resident
ones). `--toy` runs all of it on a CPU, mostly compiling: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_streaming import block_bytes, make_step, write_model
from bench_transformer import REAL, Inputs, our_step, their_step, their_transformer
from bench_vae import CONFIGS as DECODERS
from bench_vae import our_decode, random_decoder, their_decode, their_decoder
from paired.comparison import same_outputs
from paired.report import has_diffusers, show
from paired.timing import alternate, ratio

from ltx2.backends.torch import DTYPES, TorchBackend
from ltx2.backends.torch_compile import MODES, compiled
from ltx2.models.transformer import Transformer
from ltx2.models.transformer_block import Block
from ltx2.nn.layers import Linear
from ltx2.nn.module import params, slots
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.cost import transformer_operations
from ltx2.weights.quantise import Quantisation, is_in_block
from ltx2.weights.streaming import DISK, RAM

PARTS = ("step", "fp8", "decode", "load", "stream")
DTYPE = "bf16"


@dataclass(frozen=True)
class Scale:
    """What is measured: the transformer, its latent grids, the decoder and its latent grids.

    `square` is the side of the matrix product that stands for the peak; `file` layers and heads
    of the file that is loaded and streamed, the latter with `streamed` tokens.
    """

    layers: int
    heads: int
    grids: tuple[tuple[int, int, int], ...]
    audio_tokens: int
    text_tokens: int
    decoder: str
    latents: tuple[tuple[int, int, int], ...]
    square: int
    file: tuple[int, int]
    streamed: int


# 121 frames of 256 x 384, 512 x 768 and 1024 x 1536: 1,536, 6,144 and 24,576 tokens.
GRIDS = ((16, 8, 12), (16, 16, 24), (16, 32, 48))
FULL = Scale(48, 32, GRIDS, 126, 1024, "19b", GRIDS[1:], 8192, (48, 32), 6144)
TOY = Scale(2, 4, ((2, 4, 4),), 8, 16, "half", ((2, 2, 2),), 512, (4, 4), 256)


def make_transformer(scale: Scale, backend: TorchBackend) -> Transformer:
    """Weights drawn on the device, which keep activations near one."""
    model = Transformer.declare(
        replace(
            REAL,
            layers=scale.layers,
            video=replace(REAL.video, heads=scale.heads),
            audio=replace(REAL.audio, heads=scale.heads),
        )
    )
    generator = torch.Generator(backend.device).manual_seed(0)
    for slot in params(model):
        shape = slot.value.shape
        value = torch.randn(shape, generator=generator, device=backend.device, dtype=DTYPES[DTYPE])
        value *= 0.1 if len(shape) == 1 or "table" in slot.name else math.sqrt(1 / shape[-1])
        slot.replace(value + 1 if slot.name.endswith("norm.weight") else value)
    return model


class Clip(Inputs):
    """Latents of one noise level, and text, drawn on the device."""

    def __init__(self, scale: Scale, grid: tuple[int, int, int], backend: TorchBackend) -> None:
        self.grid, self.audio_tokens, self.levels = grid, scale.audio_tokens, 1
        tokens, caption = math.prod(grid), REAL.video.caption
        sizes = ((tokens, 128), (self.audio_tokens, 128), (scale.text_tokens, caption))
        drawn = [backend.normal((1, *size), seed) for seed, size in enumerate(sizes)]
        self.video, self.audio, self.context = (x.to(DTYPES[DTYPE]) for x in drawn)
        self.timesteps = np.full((1, tokens), 0.7, np.float32)


def product_rate(backend: TorchBackend, side: int, repeats: int = 10) -> float:
    """Operations per second of a large square product, random values: what the device gives."""
    a, b = (backend.normal((side, side), seed).to(DTYPES[DTYPE]) for seed in (0, 1))
    seconds = _seconds(lambda: a @ b, backend, repeats)
    return 2.0 * side**3 / seconds


def _seconds(run: Callable[[], Any], backend: TorchBackend, repeats: int) -> float:
    run()
    taken = []
    for _ in range(repeats):
        backend.synchronize()
        start = time.perf_counter()
        run()
        backend.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _beside(run: Callable[[], Any], backend: TorchBackend) -> float:
    """Gigabytes that a call takes beside what is there; 0 where the device does not count."""
    backend.reset_peak()
    if backend.kind != "cuda":
        return 0.0
    before = torch.cuda.memory_allocated(backend.device)
    run()
    return ((backend.peak_bytes() or before) - before) / 1e9


def _compared(
    sides: dict[str, Callable[[], Any]], options: argparse.Namespace, backend: TorchBackend
) -> dict[str, Any]:
    """Milliseconds and memory of each side, in turns, and our time by theirs."""
    times = alternate(sides, options.repeats, backend.synchronize)
    row: dict[str, Any] = {}
    for name, run in sides.items():
        row[f"{name} ms"] = round(1e3 * statistics.median(times[name].wall), 2)
        row[f"{name} GB"] = round(_beside(run, backend), 3)
    if len(sides) == 2:
        first, second = sides
        row["ratio"] = round(ratio(times[first], times[second], wall=True), 3)
    return row


def steps(
    scale: Scale, model: Transformer, options: argparse.Namespace, backend: TorchBackend
) -> Iterator[dict[str, Any]]:
    """A row per number of tokens: one call of the bf16 transformer."""
    rate = options.peak * 1e12 if options.peak else product_rate(backend, scale.square)
    theirs = their_transformer(model) if has_diffusers() else None
    for grid in scale.grids:
        clip, tokens = Clip(scale, grid, backend), math.prod(grid)
        sides = {"ours": our_step(model, clip)}
        row: dict[str, Any] = {"tokens": tokens, "weights GB": round(_weight_bytes(model) / 1e9, 2)}
        if theirs is not None:
            sides["diffusers"] = their_step(theirs, clip)
            row["difference"] = same_outputs(sides["ours"](), sides["diffusers"](), DTYPE)
        row |= _compared(sides, options, backend)
        work = transformer_operations(model.config, tokens, clip.audio_tokens, scale.text_tokens)
        row |= _compiled(model, clip, options, backend)
        reached = work / (1e-3 * row["ours ms"])
        row |= {"TFLOP/s": round(reached / 1e12, 2), "peak": round(rate / 1e12, 1)}
        yield row | {"of peak": round(reached / rate, 3)}


def _compiled(
    model: Transformer, clip: Clip, options: argparse.Namespace, backend: TorchBackend
) -> dict[str, Any]:
    """Each compiled mode against the plain call; seconds of its first two calls, which compile."""
    row: dict[str, Any] = {}
    for mode in options.compile:
        calls = {mode: compiled(Block.__call__, mode), "plain": Block.__call__}
        sides = {name: _with_call(model, clip, call) for name, call in calls.items()}
        start = time.perf_counter()
        made = [sides[mode]() for _ in range(2)][-1]
        backend.synchronize()
        row[f"{mode} first s"] = round(time.perf_counter() - start, 1)
        row[f"{mode} difference"] = same_outputs(made, sides["plain"](), DTYPE)
        figures = _compared(sides, options, backend)
        row |= {f"{mode} {key}": figures[f"{mode} {key}"] for key in ("ms", "GB")}
        row[f"{mode} ratio"] = figures["ratio"]
    model.run_block = Block.__call__
    return row


def _with_call(model: Transformer, clip: Clip, call: Callable[..., Any]) -> Callable[[], Any]:
    step = our_step(model, clip)

    def run() -> Any:
        model.run_block = call
        return step()

    return run


def _weight_bytes(model: Transformer) -> int:
    tensors = (slot.value for slot in slots(model) if isinstance(slot.value, torch.Tensor))
    return sum(tensor.nbytes for tensor in tensors)


def fp8(
    scale: Scale, model: Transformer, options: argparse.Namespace, backend: TorchBackend
) -> Iterator[dict[str, Any]]:
    """Linear layers of a block in bf16 by the same in float8; then the whole transformer."""
    plain = _video_layers(model)
    quantise(model, backend.has_fp8_products)
    half = _video_layers(model)
    for grid in scale.grids:
        tokens, rows = math.prod(grid), {}
        inputs = {
            width: backend.normal((1, tokens, width), width).to(DTYPES[DTYPE])
            for width in {layer.shape[1] for layer in half}
        }
        widths = [layer.shape[1] for layer in half]

        def through(layers: list[Any], inputs: Any = inputs, widths: Any = widths) -> Any:
            with backend.inference():
                for layer, width in zip(layers, widths, strict=True):
                    layer(inputs[width])

        linear = {"fp8": lambda: through(half), "bf16": lambda: through(plain)}
        rows = {f"linear {key}": v for key, v in _compared(linear, options, backend).items()}
        whole = _compared({"fp8": our_step(model, Clip(scale, grid, backend))}, options, backend)
        yield {"tokens": tokens} | rows | whole | {"speed-up": round(1 / rows["linear ratio"], 2)}


def _video_layers(model: Transformer) -> list[Any]:
    """The layers of the first block that read the video tokens."""
    block = model.transformer_blocks[0]
    first, crossing = block.attn1, block.attn2
    found = [slot.value for part in (first, block.ff) for slot in slots(part)]
    layers = [value for value in found if callable(value) and hasattr(value, "weight")]
    names = [layer for layer in layers if len(layer.weight.shape) == 2]
    return [*names, crossing.to_q]


def quantise(model: Transformer, multiplies: bool) -> None:
    """The linear layers of the blocks in scaled float8, one after another."""
    how = Quantisation("fp8", multiplies=multiplies)
    for slot in list(slots(model)):
        layer, name = slot.value, slot.name
        if isinstance(layer, Linear) and is_in_block(name) and how.takes(name):
            slot.replace(how.made(layer.weight, layer.bias))


def decodes(
    scale: Scale, options: argparse.Namespace, backend: TorchBackend
) -> Iterator[dict[str, Any]]:
    """A row per size: the whole clip through the video decoder, untiled."""
    config = DECODERS[scale.decoder]
    model = random_decoder(config, backend, DTYPE)
    theirs = their_decoder(model) if has_diffusers() else None
    for grid in scale.latents:
        latent = backend.normal((1, *grid, config.latent_channels), 1).to(DTYPES[DTYPE])
        sides = {"ours": our_decode(model, latent)}
        frames, height, width = 8 * grid[0] - 7, 32 * grid[1], 32 * grid[2]
        row: dict[str, Any] = {"clip": f"{height}x{width}x{frames}"}
        if theirs is not None:
            sides["diffusers"] = their_decode(theirs, latent)
            row["difference"] = same_outputs([sides["ours"]()], [sides["diffusers"]()], DTYPE)
        yield row | _compared(sides, options, backend)


def loading(
    scale: Scale, options: argparse.Namespace, backend: TorchBackend
) -> Iterator[dict[str, Any]]:
    """A model file to the device, by reading it and copying it there as bytes; warm cache."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        header = write_model(Path(folder) / "model.safetensors", *scale.file)

        def plainly() -> None:
            buffer = np.empty(1 << 28, np.uint8)
            with header.path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer.data):
                    torch.from_numpy(buffer[:count]).to(backend.device, copy=True)

        def ours() -> None:
            model = load_transformer(header, backend, DTYPE)
            # A mapped page is read when it is first used.
            for slot in slots(model):
                if isinstance(slot.value, torch.Tensor):
                    slot.value.view(torch.uint8).flatten()[::4096].sum()

        row = _compared({"ours": ours, "plainly": plainly}, options, backend)
        size = header.path.stat().st_size
        gigabytes = {f"{side} GB/s": size / 1e6 / row[f"{side} ms"] for side in ("ours", "plainly")}
        row = {key: value for key, value in row.items() if not key.endswith(" GB")}
        of_link = round(1 / row["ratio"], 3)
        yield {"file GB": size / 1e9} | row | gigabytes | {"of link": of_link}


def streaming(
    scale: Scale, options: argparse.Namespace, backend: TorchBackend
) -> Iterator[dict[str, Any]]:
    """A row per source: a call with streamed blocks by the same with resident ones."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        header = write_model(Path(folder) / "model.safetensors", *scale.file)
        given = argparse.Namespace(
            file=header.path, dtype=DTYPE, tokens=scale.streamed, source=DISK, ahead=options.ahead
        )
        resident = make_step(given, backend, "resident")
        passed = scale.file[0] * block_bytes(header)
        for source in (DISK, RAM):
            given.source = source
            sides = {"streamed": make_step(given, backend, "streamed"), "resident": resident}
            for ours, theirs in zip(*(step() for step in sides.values()), strict=True):
                np.testing.assert_array_equal(ours, theirs)
            row = _compared(sides, options, backend)
            rate = passed / 1e6 / row["streamed ms"]
            yield {"source": source, "ahead": given.ahead} | row | {"GB/s": round(rate, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="small shapes, for a CPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--layers", type=int, help="fewer than 48, for a smaller card")
    parser.add_argument("--peak", type=float, help="TFLOP/s; measured by a product unless given")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the file to load is written")
    parser.add_argument("--ahead", type=int, default=1, help="blocks that are read ahead")
    parser.add_argument(
        "--compile", nargs="*", choices=MODES[1:], help="modes of part step; all unless given"
    )
    parser.add_argument("--json", help="write the records below this name, one per part")
    options = parser.parse_args()
    scale, backend = TOY if options.toy else FULL, TorchBackend(options.device)
    if backend.kind == "cpu" and not options.toy:
        parser.error("this is for a GPU; on a CPU use --toy")
    if options.compile is None:
        options.compile = MODES[1:] if backend.kind == "cuda" else MODES[1:2]
    for mode in options.compile:
        TorchBackend(backend.device, compile=mode)  # refused where it cannot be
    if options.layers:
        scale = replace(scale, layers=options.layers)
    rows: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "decode": lambda: decodes(scale, options, backend),
        "load": lambda: loading(scale, options, backend),
        "stream": lambda: streaming(scale, options, backend),
    }
    if {"step", "fp8"} & set(options.parts):
        model = make_transformer(scale, backend)
        rows = {
            "step": lambda: steps(scale, model, options, backend),
            # Last of the two: it changes the weights.
            "fp8": lambda: fp8(scale, model, options, backend),
        } | rows
    for part in (part for part in PARTS if part in options.parts):
        record = f"{options.json}-{part}.json" if options.json else None
        show(f"{part}, {backend.describe()['device_name']}", list(rows[part]()), record)
        if part == "fp8":
            del model, rows["step"], rows["fp8"]
        backend.free()


if __name__ == "__main__":
    main()
