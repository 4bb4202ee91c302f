"""Arithmetic cost of each phase of a run, from the architecture that the headers state.

Operations are floating-point ones, a multiplication and an addition counting two. The transformer
and the convolutional networks are counted layer by layer; what is small beside them, such as norms
and the spectrogram decoder, is left out or rough. Reading a file is added as the operations that
take about as long, so that the phases of a run compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ltx2.errors import UserError
from ltx2.models.latents import Grid
from ltx2.models.transformer_config import TransformerConfig
from ltx2.models.upsampler import LatentUpsampler
from ltx2.models.video_vae import VideoDecoder, VideoEncoder
from ltx2.models.video_vae_config import BlockConfig, VideoDecoderConfig, VideoEncoderConfig
from ltx2.models.vocoder import Generator, GeneratorConfig
from ltx2.nn.module import params
from ltx2.pipelines.components.audio import vocoder_config
from ltx2.pipelines.components.gemma import read_gemma
from ltx2.pipelines.components.upsampler import upsampler_config
from ltx2.pipelines.components.video import decoder_config, vae_section
from ltx2.pipelines.conditions import stage_conditions
from ltx2.pipelines.loras import reference_scales
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.windows import windows
from ltx2.weights.checkpoint import component_of, identify
from ltx2.weights.header import Header, TensorInfo, read_header

TEXT_TOKENS = 1024
# A prompt is a paragraph; its own length is known when it is encoded.
PROMPT_TOKENS = 128
# Reading a parameter takes about as long as this many operations on a CPU.
READ = 300.0
# One token at a time: a parameter is fetched for two operations.
FETCH = 20.0


@dataclass(frozen=True)
class PhaseCost:
    """A phase by the name the runner gives it: units of progress, operations per unit.

    `reading` is the time of its files as operations; `kind` says what work it is: text, enhance,
    load, conditions, sample, upscale, audio or video.
    """

    phase: str
    units: int
    per_unit: float
    kind: str = ""
    reading: float = 0.0

    @property
    def operations(self) -> float:
        return self.units * self.per_unit

    @property
    def total(self) -> float:
        return self.operations + self.reading


def phase_costs(plan: Plan) -> list[PhaseCost]:
    """Phases in the order they run."""
    parameters = {name: part.parameters for name, part in plan.model_parts.items()}
    rows: list[PhaseCost] = []
    if any(stage.sigmas is not None for stage in plan.stages):
        rows += _text(plan, parameters)
    loaded = False
    for stage in plan.stages:
        if stage.settings.do == "sample":
            rows += _conditions(plan, stage)
            if not loaded:
                reading = READ * parameters.get("transformer", 0)
                rows.append(PhaseCost("load transformer", 1, 0.0, "load", reading))
                loaded = True
            calls = stage.transformer_calls
            rows.append(PhaseCost(stage.name, calls, transformer_pass(plan, stage), "sample"))
        elif stage.settings.do == "upscale":
            rows.append(PhaseCost(stage.name, 1, upsampling(plan, stage), "upscale"))
        elif stage.settings.do == "decode":
            if stage.settings.audio_from not in (None, "input"):
                rows.append(PhaseCost("audio decode", 1, sound_decoding(plan, parameters), "audio"))
            if stage.settings.video_from is not None:
                per_frame = picture_decoding(plan) / plan.made_frames
                if stage.settings.video_from == "input":
                    per_frame = 0.0
                rows.append(PhaseCost("video decode", plan.output_frames, per_frame, "video"))
    return rows


def component_parameters(header: Header) -> dict[str, int]:
    """Parameters of each component of a model file."""
    return {part.name: part.parameters for part in identify(header).parts}


# --- text


def text_tokens(plan: Plan) -> int:
    """Tokens of a context, which the text encoder's tokenizer tells."""
    path = plan.files.get("text_encoder")
    return TEXT_TOKENS if path is None else _sequence(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _sequence(path: Path, changed: int) -> int:
    return read_gemma(path).sequence


WORDS = "embed_tokens.weight"


def tower_tensors(text_encoder: Path) -> dict[str, TensorInfo]:
    """The language model's tensors in a text encoder's folder or packed file."""
    files = sorted(text_encoder.glob("*.safetensors")) if text_encoder.is_dir() else [text_encoder]
    return _tower(tuple((file, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=2)
def _tower(files: tuple[tuple[Path, int], ...]) -> dict[str, TensorInfo]:
    """By file and the time of its last change: the cells of a sweep ask again and again."""
    found = [item for file, _ in files for item in read_header(file).tensors.items()]
    return {name: info for name, info in found if component_of(name) == "language model"}


def _text(plan: Plan, parameters: dict[str, int]) -> list[PhaseCost]:
    prompts = 2 if plan.needs_negative else 1
    tensors = tower_tensors(plan.files["text_encoder"])
    tower = sum(info.size for name, info in tensors.items() if not name.endswith(WORDS))
    connectors = parameters.get("text connectors", 0)
    projections = parameters.get("text projections", 0)
    encoding = 2.0 * PROMPT_TOKENS * (tower + projections) + 2.0 * text_tokens(plan) * connectors
    reading = READ * (tower + connectors + projections)
    rows = [PhaseCost("text", prompts, encoding, "text", reading)]
    if plan.settings.enhance.enabled:
        words = plan.settings.enhance.max_new_tokens
        rows.insert(0, PhaseCost("enhance", words, FETCH * tower, "enhance", READ * tower))
    return rows


# --- the transformer


@dataclass(frozen=True)
class CallTokens:
    """Tokens of one sample in one transformer call, conditioning included."""

    video: float
    audio: float

    @property
    def both(self) -> float:
        return self.video + self.audio


def call_tokens(plan: Plan, stage: StagePlan) -> CallTokens:
    """Tokens of a sampling stage; those of windows and tiles, where it has them."""
    video, audio = stage.tokens_per_call, float(plan.audio_length)
    area = stage.grid[1] * stage.grid[2]
    if stage.settings.windows:
        span = windows(plan)[0]
        audio = float(span.audio_stop - span.audio_start)
        if stage.tiles is None:
            video = float((span.stop - span.start) * area)
    if "video" in stage.settings.streams:
        video += _conditioning_tokens(plan, stage)
    if stage.settings.audio_reference is not None:
        audio *= 2
    streams = stage.settings.streams
    return CallTokens(video * ("video" in streams), audio * ("audio" in streams))


def _conditioning_tokens(plan: Plan, stage: StagePlan) -> float:
    """Tokens appended for pictures and clips; those written over the latent add none."""
    area, tokens = stage.grid[1] * stage.grid[2], 0.0
    given = stage_conditions(plan, stage)
    for condition in given:
        frame = condition.frame % plan.asked_frames
        if condition.kind == "image" and (frame != 0 or stage.settings.keyframes):
            tokens += area
        elif condition.kind == "video" and frame != 0:
            tokens += math.ceil((plan.frames - frame) / plan.scale.time) * area
    references = sum(condition.kind == "reference" for condition in given)
    references += "source" in stage.settings.conditions
    if references:
        space, time = reference_scales(plan.settings, plan.files)
        tokens += references * stage.tokens / (space**2 * time)
    if stage.settings.keyframe_slots:
        tokens += len(plan.keyframe_slots) * area
    if stage.settings.detail_from is not None:
        tokens += plan.stage(stage.settings.detail_from).tokens
    return tokens


def transformer_pass(plan: Plan, stage: StagePlan) -> float:
    """Operations of one guidance pass over the streams of a stage."""
    tokens = call_tokens(plan, stage)
    return transformer_operations(plan.transformer, tokens.video, tokens.audio, text_tokens(plan))


def transformer_operations(
    config: TransformerConfig, video: float, audio: float, text: int = TEXT_TOKENS
) -> float:
    """Operations of one forward pass of one sample; 0 tokens leave a stream out.

    Linear layers and attention of every block, the projections in and out. Modulation is computed
    once per noise level, and the text is projected once per prompt: both are left out.
    """
    block = outside = 0.0
    for stream, tokens in ((config.video, video), (config.audio, audio)):
        if not tokens:
            continue
        width = stream.width
        # Query, key, value and output of the tokens, twice that in the feed-forward; with the
        # text two of them read the text.
        linear = 8 * tokens * width**2 + 16 * tokens * width**2
        crossing = 4 * tokens * width**2 + 4 * text * width**2
        gates = 4 * tokens * width * stream.heads if config.gated else 0.0
        block += linear + crossing + gates + 4 * tokens * (tokens + text) * width
        outside += 2 * tokens * width * (stream.in_channels + stream.out_channels)
    if video and audio:
        wide, narrow = config.video.width, config.audio.width
        towards_video = 4 * video * wide * narrow + 4 * audio * narrow**2
        towards_audio = 4 * audio * narrow**2 + 4 * video * wide * narrow
        gates = 2 * (video * wide + audio * narrow) * config.video.heads if config.gated else 0.0
        block += towards_video + towards_audio + gates + 8 * video * audio * narrow
    return config.layers * block + outside


# --- convolutional networks


def weights(module: Any) -> int:
    """Values of the kernels and matrices of a declared module: operations of a position by 2."""
    shapes = [slot.value.shape for slot in params(module)]
    return sum(math.prod(shape) for shape in shapes if len(shape) > 2 or len(shape) == 2 < shape[0])


def picture_decoding(plan: Plan) -> float:
    """Operations of decoding the clip, overlaps of tiles included."""
    config, grid = decoder_config(plan.header_of("video_vae")), _full_grid(plan)
    if not isinstance(config, VideoDecoderConfig):
        # Rough: the diffusion decoder's widest level reads every latent in pieces of eight.
        size = component_parameters(plan.header_of("video_vae")).get("video VAE decoder", 0)
        return 16.0 * size * math.prod(grid) * _overlap(plan)
    decoder = VideoDecoder.declare(config)
    total = 2.0 * weights(decoder.conv_in) * math.prod(grid)
    for block, module in zip(reversed(config.blocks), decoder.up_blocks, strict=True):
        total += 2.0 * _kernels(module) * math.prod(grid)
        grid = _finer(grid, block)
    total += 2.0 * weights(decoder.conv_out) * math.prod(grid)
    return total * _overlap(plan)


def picture_encoding(plan: Plan, frames: int, height: int, width: int) -> float:
    """Operations of encoding `frames` x `height` x `width` pixels."""
    try:
        config = VideoEncoderConfig.from_metadata(vae_section(plan.header_of("video_vae")))
    except UserError:  # files that only decode
        return 0.0
    encoder = VideoEncoder.declare(config)
    patch, space, time = config.patch_size, plan.scale.space, plan.scale.time
    grid = ((frames - 1) // time + 1, height // space, width // space)
    total = 2.0 * weights(encoder.conv_out) * math.prod(grid)
    for block, module in zip(reversed(config.blocks), reversed(encoder.down_blocks), strict=True):
        # Plain strided convolutions work at the coarse side, the others before they fold.
        coarse = grid
        grid = _finer(grid, block)
        plain = block.kind.startswith("compress_") and not block.kind.endswith("_res")
        total += 2.0 * _kernels(module) * math.prod(coarse if plain else grid)
    return total + 2.0 * weights(encoder.conv_in) * frames * height * width / patch**2


def _finer(grid: Grid, block: BlockConfig) -> Grid:
    time, down, across = block.stride
    return time * grid[0] - time + 1, down * grid[1], across * grid[2]


def _kernels(module: Any) -> int:
    """Values of 3-D convolution kernels."""
    return sum(math.prod(slot.value.shape) for slot in params(module) if len(slot.value.shape) == 5)


def _full_grid(plan: Plan) -> Grid:
    return plan.decoded_grid


def _overlap(plan: Plan) -> float:
    """Latents of all tiles by those of the clip."""
    if plan.tiling is None:
        return 1.0
    grid = _full_grid(plan)
    axes = plan.tiling.split(grid, plan.scale)
    covered = math.prod(sum(span.end - span.start for span in axis) for axis in axes)
    return covered / math.prod(grid)


def upsampling(plan: Plan, stage: StagePlan) -> float:
    """Operations of the latent upsampler of an upscale stage."""
    network = LatentUpsampler.declare(upsampler_config(plan.headers[stage.settings.upscaler]))
    before = [network.initial_conv, network.res_blocks, network.upsampler]
    after = [network.post_upsample_res_blocks, network.final_conv]
    source = math.prod(plan.stage(stage.settings.start or "").grid)
    return 2.0 * (_sum(before) * source + _sum(after) * stage.tokens)


def _sum(modules: Iterable[Any]) -> int:
    return sum(weights(module) for module in modules)


def sound_decoding(plan: Plan, parameters: dict[str, int]) -> float:
    """Operations of the spectrogram decoder (rough: at its middle level) and the vocoder."""
    bins = plan.audio.latent_bins
    spectrogram = 2.0 * parameters.get("audio VAE decoder", 0) * plan.audio_length * bins * 4
    config = vocoder_config(plan.header_of("audio_vae"))
    if isinstance(config, GeneratorConfig):
        return spectrogram + _vocoding(config, plan.frames / plan.fps)
    seconds = plan.frames / plan.fps
    return spectrogram + _vocoding(config.base, seconds) + _vocoding(config.extension, seconds)


def _vocoding(config: GeneratorConfig, seconds: float) -> float:
    network = Generator.declare(config)
    positions = seconds * config.rate / config.hop
    total = weights(network.conv_pre) * positions
    per_stage = len(config.block_kernels)
    for stage, (up, rate) in enumerate(zip(network.ups, config.rates, strict=True)):
        total += weights(up) * positions
        positions *= rate
        blocks = network.resblocks[stage * per_stage : (stage + 1) * per_stage]
        total += _sum(blocks) * positions
    return 2.0 * (total + weights(network.conv_post) * positions)


def _conditions(plan: Plan, stage: StagePlan) -> list[PhaseCost]:
    given = stage_conditions(plan, stage)
    if not given:
        return []
    total = sum(
        picture_encoding(plan, 1 if c.kind == "image" else plan.frames, stage.height, stage.width)
        for c in given
    )
    return [PhaseCost(f"{stage.name} conditions", len(given), total / len(given), "conditions")]
