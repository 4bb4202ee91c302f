"""Video VAE decoding on PyTorch against diffusers' LTX-2 decoder with the same weights.

`half` is the decoder of LTX-2.0 at base width 64 (133 M parameters), `19b` the released width 128.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from paired.comparison import SIDES, memory, report_peak, same_outputs, timed
from paired.report import has_diffusers, show

from ltx2.backends.torch import DTYPES, TorchBackend
from ltx2.models.video_vae import VideoDecoder
from ltx2.models.video_vae_config import BlockConfig, VideoDecoderConfig
from ltx2.nn.module import params, slots

GROUP = BlockConfig("res_x", 5, 1, residual=False, inject_noise=False)
DOUBLE = BlockConfig("compress_all", 1, 2, residual=True, inject_noise=False)
REAL = VideoDecoderConfig(
    blocks=(GROUP, DOUBLE, GROUP, DOUBLE, GROUP, DOUBLE, GROUP),
    out_channels=3,
    latent_channels=128,
    base_channels=128,
    patch_size=4,
    padding="reflect",
    causal=False,
    timestep_conditioning=False,
)
CONFIGS = {"half": replace(REAL, base_channels=64), "19b": REAL}


def their_name(name: str) -> str:
    """Our tensor name, which is the checkpoint's, as diffusers' decoder calls it."""
    head, _, tail = name.partition(".")
    if head != "up_blocks":
        return name
    index, _, tail = tail.partition(".")
    tail = tail.replace("res_blocks", "resnets")
    if index == "0":
        return f"mid_block.{tail}"
    # Each of their blocks is one of our upsamplers and the group after it.
    block, upsampler = divmod(int(index) - 1, 2)
    return f"up_blocks.{block}." + (tail if upsampler else f"upsamplers.0.{tail}")


def random_decoder(config: VideoDecoderConfig, backend: TorchBackend, dtype: str) -> VideoDecoder:
    """Weights that keep activations near one, and the neutral latent statistics."""
    model = VideoDecoder.declare(config)
    generator = torch.Generator().manual_seed(0)
    for slot in params(model):
        shape = slot.value.shape
        value = torch.randn(shape, generator=generator)
        value *= 0.1 if len(shape) == 1 else math.sqrt(1 / math.prod(shape[1:]))
        if "statistics" in slot.name:
            value = torch.full(shape, float("std" in slot.name))
        slot.replace(backend.place(value, dtype, slot.value.kind))
    return model


def their_decoder(model: VideoDecoder) -> Any:
    """Diffusers' module with the same weights, in its own memory layout."""
    from diffusers.models.autoencoders.autoencoder_kl_ltx2 import LTX2VideoDecoder3d

    base = model.config.base_channels
    with torch.device("meta"):
        theirs = LTX2VideoDecoder3d(
            block_out_channels=(2 * base, 4 * base, 8 * base), inject_noise=(False,) * 4
        )
    tensors = {
        their_name(slot.name): slot.value.contiguous()
        for slot in slots(model)
        if isinstance(slot.value, torch.Tensor) and "statistics" not in slot.name
    }
    theirs.load_state_dict(tensors, strict=True, assign=True)
    return theirs.eval()


def our_decode(model: VideoDecoder, latent: torch.Tensor) -> Callable[[], torch.Tensor]:
    return torch.inference_mode()(lambda: model(latent))


def their_decode(theirs: Any, latent: torch.Tensor) -> Callable[[], torch.Tensor]:
    first = latent.movedim(-1, 1).contiguous()
    return torch.inference_mode()(lambda: theirs(first, causal=False).movedim(1, -1))


def draw_latent(options: argparse.Namespace, backend: TorchBackend, dtype: str) -> torch.Tensor:
    shape = (1, *options.latent, REAL.latent_channels)
    return backend.array(np.random.default_rng(1).normal(size=shape).astype(np.float32), dtype)


def build(
    options: argparse.Namespace, dtype: str
) -> tuple[TorchBackend, VideoDecoder, torch.Tensor]:
    backend = TorchBackend(options.device)
    model = random_decoder(CONFIGS[options.config], backend, dtype)
    return backend, model, draw_latent(options, backend, dtype)


def measure(options: argparse.Namespace, dtype: str, reference: bool) -> dict[str, Any]:
    backend, model, latent = build(options, dtype)
    sides = {"ours": our_decode(model, latent)}
    row: dict[str, Any] = {"dtype": dtype}
    if reference:
        sides["diffusers"] = their_decode(their_decoder(model), latent)
        row["difference"] = same_outputs([sides["ours"]()], [sides["diffusers"]()], dtype)
    row |= timed(sides, options.repeats, backend)
    same = ["--config", options.config, "--dtype", dtype, "--device", options.device]
    same += ["--threads", str(options.threads), "--latent", *map(str, options.latent)]
    return row | memory(__file__, same, reference)


def measure_peak(options: argparse.Namespace) -> None:
    backend, model, latent = build(options, options.dtype[0])
    decode = our_decode(model, latent)
    if options.peak == "diffusers":
        decode = their_decode(their_decoder(model), latent)
        del model
    report_peak(decode, backend)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=CONFIGS, default="half")
    parser.add_argument("--latent", nargs=3, type=int, default=[5, 8, 8], metavar=("F", "H", "W"))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the record to this file")
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        measure_peak(options)
        return
    reference = has_diffusers()
    rows = [measure(options, dtype, reference) for dtype in options.dtype]
    frames, size = options.latent[0], options.latent[1:]
    title = f"VAE decode, {options.config}, latent {frames} x {size[0]} x {size[1]}"
    show(f"{title}, {options.device}", rows, options.json)


if __name__ == "__main__":
    main()
