"""Peak memory of each phase of a run, estimated from headers and settings.

What counts is what the runner's records measure: resident memory of the process for torch on a
CPU, memory of arrays on the device everywhere else. Source of the constants: benchmarks/bench_plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ltx2.models.latents import Grid
from ltx2.models.tiling import Tiling
from ltx2.models.transformer import Transformer
from ltx2.models.vocoder import GeneratorConfig
from ltx2.nn.module import parameter_count
from ltx2.pipelines.components.audio import vocoder_config
from ltx2.pipelines.components.upsampler import upsampler_config
from ltx2.pipelines.components.video import decoder_config
from ltx2.pipelines.conditions import stage_conditions
from ltx2.pipelines.cost import WORDS, call_tokens, text_tokens, tower_tensors
from ltx2.pipelines.decode_memory import DecodeMemory, decode_memory
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.quantisation import block_quantisation, stored_kinds, text_quantisation
from ltx2.pipelines.streamed_estimate import (
    ITEM_BYTES,
    STORED,
    passing_text,
    passing_transformer,
    stacked_passes,
)
from ltx2.weights.checkpoint import Part, component_of
from ltx2.weights.header import Header
from ltx2.weights.quantise import held_bytes
from ltx2.weights.streaming import Streaming

# Interpreter, torch and the libraries of a run; the video encoder's threads and buffers.
PROCESS, ENCODER = 290_000_000, 50_000_000
# Tables of positions, noise, states.
SMALL = 20_000_000
# Copies of a block's input that are alive in it: hidden layer, queries, keys, rotary tables ...
BLOCK_COPIES = 24
# Copies of the largest activation of a convolutional network.
CONVOLUTION_COPIES = 6
# MLX on a CPU unfolds the input of a convolution for the taps of its kernel.
UNFOLDED_COPIES, UNFOLDED_SOUND_COPIES = 72, 33
WHOLE: Mapping[str, Streaming] = MappingProxyType({})


@dataclass(frozen=True)
class Place:
    """Where a run computes: backend torch or mlx, kind cpu, cuda, mps or metal."""

    backend: str
    kind: str

    @property
    def is_process(self) -> bool:
        """Whether the resident memory of the process is what is measured."""
        return self.backend == "torch" and self.kind == "cpu"

    @property
    def unfolds(self) -> bool:
        return self.backend == "mlx" and self.kind == "cpu"

    @property
    def is_wide(self) -> bool:
        """Whether convolutions compute in float32 whatever the dtype of their weights."""
        return self.kind == "cpu"

    def activation_bytes(self, dtype: str) -> int:
        """What the backends allow per element of a decoder's largest activation, to be safe."""
        if self.unfolds:
            return UNFOLDED_COPIES * 4
        return 8 * (4 if self.is_wide else ITEM_BYTES[dtype])


@dataclass(frozen=True)
class Measured:
    """Bytes per element of a decoder's largest activation as they were measured."""

    place: Place

    def activation_bytes(self, dtype: str) -> int:
        if self.place.unfolds:
            return UNFOLDED_COPIES * 4
        return CONVOLUTION_COPIES * ITEM_BYTES[dtype]


@dataclass(frozen=True)
class PhaseMemory:
    """Bytes of a phase: weights, activations at their peak, and what the process has anyway."""

    phase: str
    weights: int
    activations: int
    process: int

    @property
    def peak(self) -> int:
        return self.weights + self.activations + self.process


def decoding_need(plan: Plan, place: Place, dtype: str) -> DecodeMemory:
    """What the runner will estimate when it chooses the tiles of the clip."""
    config = decoder_config(plan.header_of("video_vae"))
    return decode_memory(config, plan.decoded_grid, place, dtype)


def phase_memory(
    plan: Plan,
    dtypes: dict[str, str],
    place: Place,
    tiling: Tiling | None = None,
    streamed: Mapping[str, Streaming] = WHOLE,
) -> list[PhaseMemory]:
    """Phases by the runner's names. `tiling` is how the clip will be decoded; `streamed` models
    (text_encoder, transformer) pass through memory block by block."""
    return Estimate(plan, dtypes, place, tiling, plan.model_parts, streamed).phases()


@dataclass(frozen=True)
class Estimate:
    """The parts of the answer; all sizes are bytes."""

    plan: Plan
    dtypes: dict[str, str]
    place: Place
    tiling: Tiling | None
    parts: dict[str, Part]
    streamed: Mapping[str, Streaming]

    def phases(self) -> list[PhaseMemory]:
        rows: list[PhaseMemory] = []
        transformer = 0.0
        if any(stage.sigmas is not None for stage in self.plan.stages):
            rows.append(self._row("text", self._text(), SMALL))
        for stage in self.plan.stages:
            if stage.settings.do == "sample":
                if stage_conditions(self.plan, stage):
                    encoder = self._part("video VAE encoder", "video_vae")
                    images = self._encoding(stage)
                    name = f"{stage.name} conditions"
                    rows.append(self._row(name, transformer + encoder, images))
                if not transformer:
                    transformer = self._transformer()
                    rows.append(self._loading(transformer))
                held = transformer + self._loras(stage)
                rows.append(self._row(stage.name, held, self._sampling(stage)))
            elif stage.settings.do == "upscale":
                weights = transformer + self._upsampler(stage)
                rows.append(self._row(stage.name, weights, self._upscaling(stage)))
            elif stage.settings.do == "decode":
                rows += self._decoding(stage, transformer if self._keeps else 0.0)
        return rows

    def _row(self, phase: str, weights: float, activations: float) -> PhaseMemory:
        process = PROCESS if self.place.is_process else 0
        return PhaseMemory(phase, round(weights), round(activations), process)

    # --- weights

    def _placed(self, parameters: float, stored: int, dtype: str, component: str) -> float:
        """What weights occupy: their file's mapped pages, or a copy in another dtype."""
        wanted = self.dtypes[component]
        mapped = self.place.is_process and STORED.get(dtype) == wanted
        return stored if mapped else parameters * ITEM_BYTES[wanted]

    def _part(self, name: str, component: str) -> float:
        part = self.parts.get(name)
        if part is None:
            return 0.0
        return self._placed(part.parameters, part.bytes, part.dtypes[0][0], component)

    def _transformer(self) -> float:
        if (way := self.streamed.get("transformer")) is not None:
            passing = passing_transformer(self.plan, self.dtypes["transformer"])
            return passing.held(way, self.place.is_process) * self._own_share
        return self._whole_transformer() * self._own_share

    def _whole_transformer(self) -> float:
        whole = self._part("transformer", "transformer")
        header, how = self.plan.headers["checkpoint"], block_quantisation(self.plan.settings)
        if how.at_load or stored_kinds(header):
            names = [name for name in header.tensors if component_of(name) == "transformer"]
            whole = held_bytes(header, names, how, ITEM_BYTES[self.dtypes["transformer"]])
        return whole

    @property
    def _own_share(self) -> float:
        """Of the transformer's weights those of the streams that are sampled."""
        if len(self.plan.streams) == 2:
            return 1.0
        config = self.plan.transformer
        parts = [parameter_count(Transformer.declare(config, s)) for s in (self.plan.streams, BOTH)]
        return parts[0] / parts[1]

    def _loading(self, placed: float) -> PhaseMemory:
        """While weights are converted, the pages of the file that were read count too.

        Of a streamed transformer only what is no block is read, and that is little.
        """
        if "transformer" in self.streamed:
            passing = passing_transformer(self.plan, self.dtypes["transformer"])
            return self._row("load transformer", passing.outside * self._own_share, 0)
        part = self.parts["transformer"]
        as_stored = STORED.get(part.dtypes[0][0]) == self.dtypes["transformer"]
        if (
            self.place.is_process
            and as_stored
            and not block_quantisation(self.plan.settings).at_load
        ):
            return self._row("load transformer", 0, 0)  # pages are read when they are used
        read = part.bytes if self.place.is_process else 0
        return self._row("load transformer", placed, read)

    def _loras(self, stage: StagePlan) -> float:
        size = ITEM_BYTES[self.dtypes["transformer"]]
        roles = []
        if "user" in stage.settings.loras:
            roles += [role for role in self.plan.headers if role.startswith("lora.")]
        if "distilled" in stage.settings.loras:
            roles += [role for role in self.plan.headers if role == "distilled_lora"]
        return size * sum(_values(self.plan.headers[role]) for role in roles)

    def _text(self) -> float:
        """The language model, or what follows it once it is gone."""
        names = ("text projections", "text connectors")
        return max(self._tower(), sum(self._part(name, "connectors") for name in names))

    def _tower(self) -> float:
        if (way := self.streamed.get("text_encoder")) is not None:
            passing = passing_text(self.plan, self.dtypes["text_encoder"])
            return passing.held(way, self.place.is_process)
        tensors = tower_tensors(self.plan.files["text_encoder"])
        values = sum(info.size for info in tensors.values())
        # Of a mapped table of words only the rows of the prompt are read.
        read = {name: info for name, info in tensors.items() if not name.endswith(WORDS)}
        stored = sum(info.stop - info.start for info in read.values())
        dtype = next((info.dtype for info in tensors.values()), "BF16")
        tower = self._placed(values, stored, dtype, "text_encoder")
        how = text_quantisation(self.plan.settings)
        if how.at_load:
            header = Header(self.plan.files["text_encoder"], tensors, {}, 0, 0)
            tower = held_bytes(header, tensors, how, ITEM_BYTES[self.dtypes["text_encoder"]])
        return tower

    def _upsampler(self, stage: StagePlan) -> float:
        header = self.plan.headers[stage.settings.upscaler]
        values, size = _values(header), ITEM_BYTES[self.dtypes["upsampler"]]
        stored = sum(info.stop - info.start for info in header.tensors.values())
        return values * size + (stored if self.place.is_process else 0)

    # --- activations

    def _sampling(self, stage: StagePlan) -> float:
        config, tokens = self.plan.transformer, call_tokens(self.plan, stage)
        size = ITEM_BYTES[self.dtypes["transformer"]]
        prompts = 2 if self.plan.needs_negative else 1
        contexts = (
            prompts * text_tokens(self.plan) * (config.video.width + config.audio.width) * size
        )
        values = tokens.video * config.video.width + tokens.audio * config.audio.width
        return BLOCK_COPIES * stacked_passes(stage, tokens.both) * values * size + contexts + SMALL

    def _upscaling(self, stage: StagePlan) -> float:
        config = upsampler_config(self.plan.headers[stage.settings.upscaler])
        per_element = Measured(self.place).activation_bytes(self.dtypes["upsampler"])
        return SMALL + per_element * config.mid_channels * stage.tokens

    def _encoding(self, stage: StagePlan) -> float:
        """As decoding the same pixels: the encoder mirrors the decoder."""
        given = stage_conditions(self.plan, stage)
        whole = any(condition.kind != "image" for condition in given)
        grid = (stage.grid[0] if whole else 1, *stage.grid[1:])
        return SMALL + self._decoded(grid, None)

    @property
    def _keeps(self) -> bool:
        """Whether the transformer stays while the clip is decoded; auto is for sweeps."""
        return str(self.plan.settings.keep_loaded).lower() == "true"

    def _decoding(self, stage: StagePlan, kept: float) -> list[PhaseMemory]:
        rows = []
        if stage.settings.audio_from not in (None, "input"):
            weights = self._part("audio VAE decoder", "audio_vae")
            weights += self._part("vocoder", "vocoder")
            rows.append(self._row("audio decode", kept + weights, self._sound()))
        if stage.settings.video_from not in (None, "input"):
            weights = self._part("video VAE decoder", "video_vae")
            activations = self._decoded(self._grid, self.tiling)
            activations += ENCODER if self.place.is_process else 0
            rows.append(self._row("video decode", kept + weights, activations))
        return rows

    @property
    def _grid(self) -> Grid:
        return self.plan.decoded_grid

    def _decoded(self, grid: Grid, tiling: Tiling | None) -> float:
        config, dtype = decoder_config(self.plan.header_of("video_vae")), self.dtypes["video_vae"]
        return decode_memory(config, grid, Measured(self.place), dtype).of(tiling)

    def _sound(self) -> float:
        config: Any = vocoder_config(self.plan.header_of("audio_vae"))
        generators = [config] if isinstance(config, GeneratorConfig) else vars(config).values()
        widest = max(
            _widest(generator, self.plan.frames / self.plan.fps)
            for generator in generators
            if isinstance(generator, GeneratorConfig)
        )
        copies = UNFOLDED_SOUND_COPIES if self.place.unfolds else CONVOLUTION_COPIES
        return SMALL + copies * widest * 4


BOTH = ("video", "audio")


def _values(header: Header) -> int:
    return sum(info.size for info in header.tensors.values())


def _widest(config: GeneratorConfig, seconds: float) -> float:
    """Elements of the largest activation of a vocoder."""
    frames = seconds * config.rate / config.hop
    stages = range(1, len(config.rates) + 1)
    return max(config.channels / 2**i * frames * math.prod(config.rates[:i]) for i in stages)
