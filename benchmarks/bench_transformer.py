"""One transformer step on PyTorch against diffusers' LTX-2 transformer with the same weights.

`small` is 8 layers of 16 x 64 with 2048 video, 64 audio and 512 text tokens; `19b` has the sizes of
the released model (48 layers need 38 GB in bf16: choose fewer with --layers). A step includes the
projection of the text, which our pipelines do once per prompt and diffusers does in every step.
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
from ltx2.models.latents import VideoScale, audio_positions, video_positions
from ltx2.models.transformer import Stream, Transformer
from ltx2.models.transformer_config import CrossRule, StreamConfig, TransformerConfig
from ltx2.nn.module import params, slots

FPS = 24.0
SIGMA = 0.7
SMALL = TransformerConfig(
    layers=8,
    video=StreamConfig(16, 64, 128, 128, 3840, (20.0, 2048.0, 2048.0), True),
    audio=StreamConfig(16, 32, 128, 128, 3840, (20.0,), True),
    theta=10000.0,
    split_rope=True,
    float64_rope=True,
    timestep_scale=1000.0,
    gate_timestep_scale=1000.0,
    gated=False,
    text_adaln=False,
    prompt_adaln=False,
    caption_projection=True,
    keyframes=False,
    cross_rule=CrossRule.OWN,  # diffusers' default
)
REAL = replace(
    SMALL,
    layers=48,
    video=replace(SMALL.video, heads=32, head_dim=128),
    audio=replace(SMALL.audio, heads=32, head_dim=64),
)
CONFIGS = {"small": SMALL, "19b": REAL}
SHAPES = {"small": ((8, 16, 16), 64, 512), "19b": ((16, 16, 24), 126, 1024)}
THEIR_NAMES = (
    ("av_ca_video_scale_shift_adaln_single", "av_cross_attn_video_scale_shift"),
    ("av_ca_audio_scale_shift_adaln_single", "av_cross_attn_audio_scale_shift"),
    ("av_ca_a2v_gate_adaln_single", "av_cross_attn_video_a2v_gate"),
    ("av_ca_v2a_gate_adaln_single", "av_cross_attn_audio_v2a_gate"),
    ("scale_shift_table_a2v_ca_video", "video_a2v_cross_attn_scale_shift_table"),
    ("scale_shift_table_a2v_ca_audio", "audio_a2v_cross_attn_scale_shift_table"),
    ("patchify_proj", "proj_in"),
    ("adaln_single", "time_embed"),
    ("q_norm", "norm_q"),
    ("k_norm", "norm_k"),
)


def their_name(name: str) -> str:
    """Our tensor name, which is the checkpoint's, as diffusers calls it."""
    for ours, theirs in THEIR_NAMES:
        name = name.replace(ours, theirs)
    return name


def random_transformer(config: TransformerConfig, backend: TorchBackend, dtype: str) -> Transformer:
    """Weights that keep activations near one; norms and tables near their neutral values."""
    model = Transformer.declare(config)
    generator = torch.Generator().manual_seed(0)
    for slot in params(model):
        shape = slot.value.shape
        value = torch.randn(shape, generator=generator)
        if slot.name.endswith("norm.weight"):
            value = 1 + 0.1 * value
        else:
            value *= 0.1 if len(shape) == 1 or "table" in slot.name else math.sqrt(1 / shape[-1])
        slot.replace(backend.place(value, dtype, slot.value.kind))
    return model


def their_transformer(model: Transformer) -> Any:
    """Diffusers' module around the very tensors of `model`."""
    from diffusers import LTX2VideoTransformer3DModel

    config = model.config
    with torch.device("meta"):
        theirs = LTX2VideoTransformer3DModel(
            num_attention_heads=config.video.heads,
            attention_head_dim=config.video.head_dim,
            cross_attention_dim=config.video.width,
            audio_num_attention_heads=config.audio.heads,
            audio_attention_head_dim=config.audio.head_dim,
            audio_cross_attention_dim=config.audio.width,
            num_layers=config.layers,
            caption_channels=config.video.caption,
            rope_type="split",
        )
    tensors = {
        their_name(slot.name): slot.value
        for slot in slots(model)
        if isinstance(slot.value, torch.Tensor)
    }
    theirs.load_state_dict(tensors, strict=True, assign=True)
    return theirs.eval()


class Inputs:
    """Random latents and text for one sample; with two `levels` the first frame has no noise."""

    def __init__(self, config: str, levels: int, backend: TorchBackend, dtype: str) -> None:
        self.grid, self.audio_tokens, text = SHAPES[config]
        caption = CONFIGS[config].video.caption
        tokens, draw = math.prod(self.grid), np.random.default_rng(1)

        def normal(*shape: int) -> torch.Tensor:
            return backend.array(draw.normal(size=shape).astype(np.float32), dtype)

        self.video, self.audio = normal(1, tokens, 128), normal(1, self.audio_tokens, 128)
        self.context = normal(1, text, caption)
        self.timesteps = np.full((1, tokens), SIGMA, np.float32)
        self.levels = levels
        if levels == 2:
            self.timesteps[:, : self.grid[1] * self.grid[2]] = 0


def our_step(model: Transformer, inputs: Inputs) -> Callable[[], Any]:
    sigma = np.full((1,), SIGMA, np.float32)
    positions = video_positions(inputs.grid, FPS, VideoScale())
    sound = audio_positions(inputs.audio_tokens)
    audio_steps = np.full((1, inputs.audio_tokens), SIGMA, np.float32)

    def step() -> Any:
        contexts = model.project_context(inputs.context, inputs.context)
        assert contexts[0] is not None and contexts[1] is not None
        video = Stream(inputs.video, inputs.timesteps, sigma, positions, contexts[0])
        audio = Stream(inputs.audio, audio_steps, sigma, sound, contexts[1])
        return model(video, audio)

    return torch.inference_mode()(step)


def their_step(theirs: Any, inputs: Inputs) -> Callable[[], Any]:
    device = inputs.video.device
    frames, height, width = inputs.grid
    scaled = torch.from_numpy(inputs.timesteps * 1000).to(device)
    sigma = torch.full((1,), SIGMA * 1000, device=device)
    coordinates = theirs.rope.prepare_video_coords(1, frames, height, width, device, fps=FPS)
    sound = theirs.audio_rope.prepare_audio_coords(1, inputs.audio_tokens, device)

    def step() -> Any:
        return theirs(
            inputs.video,
            inputs.audio,
            inputs.context,
            inputs.context,
            timestep=scaled if inputs.levels == 2 else sigma,
            audio_timestep=sigma,
            sigma=sigma,
            audio_sigma=sigma,
            video_coords=coordinates,
            audio_coords=sound,
            return_dict=False,
        )

    return torch.inference_mode()(step)


def build(
    options: argparse.Namespace, dtype: str, levels: int
) -> tuple[TorchBackend, Transformer, Inputs]:
    backend, config = TorchBackend(options.device), CONFIGS[options.config]
    config = replace(config, layers=options.layers or config.layers)
    model = random_transformer(config, backend, dtype)
    return backend, model, Inputs(options.config, levels, backend, dtype)


def measure(
    options: argparse.Namespace, dtype: str, levels: int, reference: bool
) -> dict[str, Any]:
    backend, model, inputs = build(options, dtype, levels)
    sides = {"ours": our_step(model, inputs)}
    row: dict[str, Any] = {"dtype": dtype, "levels": levels}
    if reference:
        sides["diffusers"] = their_step(their_transformer(model), inputs)
        row["difference"] = same_outputs(sides["ours"](), sides["diffusers"](), dtype)
    row |= timed(sides, options.repeats, backend)
    same = ["--config", options.config, "--dtype", dtype, "--device", options.device]
    same += ["--layers", str(options.layers), "--threads", str(options.threads)]
    same += ["--levels", str(levels)]
    return row | memory(__file__, same, reference)


def measure_peak(options: argparse.Namespace) -> None:
    backend, model, inputs = build(options, options.dtype[0], options.levels[0])
    if options.peak == "ours":
        step = our_step(model, inputs)
    else:
        step = their_step(their_transformer(model), inputs)
    report_peak(step, backend)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=CONFIGS, default="small")
    parser.add_argument("--layers", type=int, default=0, help="0: as the config says")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--levels",
        nargs="+",
        type=int,
        choices=(1, 2),
        default=[1, 2],
        help="noise levels among the video tokens: 1, or 2 for a clip with a clean first frame",
    )
    parser.add_argument("--json", help="write the record to this file")
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        measure_peak(options)
        return
    reference = has_diffusers()
    rows = [
        measure(options, dtype, levels, reference)
        for dtype in options.dtype
        for levels in options.levels
    ]
    show(f"transformer step, {options.config}, {options.device}", rows, options.json)


if __name__ == "__main__":
    main()
