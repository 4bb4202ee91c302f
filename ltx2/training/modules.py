"""The parts of a model as objectives train them, and training states put back into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ltx2.errors import UserError
from ltx2.models.audio_vae import AudioDecoder, AudioEncoder
from ltx2.models.audio_vae_config import AudioVaeConfig
from ltx2.models.gemma3 import Gemma3
from ltx2.models.gemma_config import GemmaConfig
from ltx2.models.transformer import Transformer
from ltx2.models.transformer_config import TransformerConfig
from ltx2.models.upsampler import LatentUpsampler, UpsamplerConfig
from ltx2.models.video_vae import VideoDecoder, VideoEncoder
from ltx2.models.video_vae_config import VideoDecoderConfig, VideoEncoderConfig
from ltx2.models.vocoder import Generator, GeneratorConfig
from ltx2.nn.module import Param, slots
from ltx2.pipelines.components.text import declare_connectors, declare_features
from ltx2.training.checkpoint import load_state
from ltx2.training.parameters import initialise

AVERAGE, MASTER, FROZEN = "average.", "master.", "frozen."
# Of first values, by part and module.
SEEDS: Mapping[str, Mapping[str, int]] = {
    "video": {"encoder": 0, "decoder": 1},
    "audio": {"encoder": 0, "decoder": 1},
    "vocoder": {"vocoder": 3},
    "upsampler": {"upsampler": 4},
    "flow": {
        "transformer": 21, "gemma": 11, "features": 12, "video_connector": 13,
        "audio_connector": 14,
    },
}  # fmt: skip
# Registers stand beside features of about this deviation.
REGISTER_STD, REGISTER_SEED = 0.5, 5
Architecture = Mapping[str, Any]
Modules = dict[str, Any]
Parts = dict[str, Modules]


def declare(architecture: Architecture, gemma_config: Mapping[str, Any]) -> Parts:
    """Every part with its modules, all tensors placeholders.

    `architecture`: a model file's metadata sections, with `upsampler` for an upsampler file's.
    """
    parts = {name: make(architecture) for name, make in _DECLARE.items()}
    return parts | {"flow": declare_flow(architecture, gemma_config)}


def declare_part(architecture: Architecture, part: str) -> Modules:
    """One of video, audio, vocoder, upsampler, with first values."""
    return with_first_values(_DECLARE[part](architecture), part)


def declare_flow(architecture: Architecture, gemma_config: Mapping[str, Any]) -> Modules:
    """Transformer, language model, projections and connectors: what flow matching trains."""
    section = _section(architecture, "transformer")
    gemma = GemmaConfig.from_metadata(gemma_config)
    features, _ = declare_features(section, gemma.feature_width)
    connectors = declare_connectors(section)
    return {
        "transformer": Transformer.declare(TransformerConfig.from_metadata(dict(section))),
        "gemma": Gemma3.declare(gemma),
        "features": features,
        "video_connector": connectors["video"],
        "audio_connector": connectors["audio"],
    }


def with_first_values(modules: Modules, part: str) -> Modules:
    """The declared modules of a part, their placeholders replaced by seeded first values."""
    for name, module in modules.items():
        initialise(module, SEEDS[part][name])
        if name.endswith("_connector"):
            generator = torch.Generator().manual_seed(REGISTER_SEED)
            shape = module.learnable_registers.shape
            module.learnable_registers = REGISTER_STD * torch.randn(shape, generator=generator)
    return modules


@torch.no_grad()
def adopt(modules: Mapping[str, Any], state_path: Path, averaged: bool = True) -> dict[str, Any]:
    """Put a training state's tensors into `modules` in float32; returns the state's facts.

    `averaged` takes the moving averages, otherwise the last values. What the state does not hold
    (statistics and whatever else was not trained, in states that lack it) stays as it is.
    Raises UserError for a damaged file, a foreign one, or one of other shapes.
    """
    tensors, facts = load_state(state_path)
    first = AVERAGE if averaged else MASTER
    taken, expected = 0, []
    for key, module in modules.items():
        for slot in list(slots(module)):
            if not isinstance(slot.value, Param | torch.Tensor):
                continue
            name = f"{key}.{slot.name}"
            expected.append(name)
            stored = tensors.get(first + name, tensors.get(FROZEN + name))
            if stored is None:
                continue
            if tuple(stored.shape) != tuple(slot.value.shape):
                raise UserError(
                    f"{state_path} is of another architecture: '{name}' is {list(stored.shape)}"
                    f" instead of {list(slot.value.shape)}"
                )
            slot.replace(stored.float())
            taken += 1
    if not taken:
        held = sorted(n.removeprefix(first) for n in tensors if n.startswith(first))
        raise UserError(
            f"{state_path} holds none of the {len(expected)} tensors wanted, such as"
            f" '{expected[0]}', but {len(held)} others, such as '{(held or ['none'])[0]}';"
            " give the state of the right objective"
        )
    return facts


def vocoder_config(architecture: Architecture) -> GeneratorConfig:
    """Of a file without bandwidth extension."""
    audio = AudioVaeConfig.from_metadata(dict(_section(architecture, "audio_vae")))
    section = _section(architecture, "vocoder")
    rate = int(section.get("output_sampling_rate", audio.mel.sample_rate))
    return GeneratorConfig.from_metadata(dict(section), audio.mel.bins, rate, amp=False)


def _video(architecture: Architecture) -> Modules:
    vae = dict(_section(architecture, "vae"))
    return {
        "encoder": VideoEncoder.declare(VideoEncoderConfig.from_metadata(vae)),
        "decoder": VideoDecoder.declare(VideoDecoderConfig.from_metadata(vae)),
    }


def _audio(architecture: Architecture) -> Modules:
    config = AudioVaeConfig.from_metadata(dict(_section(architecture, "audio_vae")))
    return {"encoder": AudioEncoder.declare(config), "decoder": AudioDecoder.declare(config)}


def _vocoder(architecture: Architecture) -> Modules:
    return {"vocoder": Generator.declare(vocoder_config(architecture))}


def _upsampler(architecture: Architecture) -> Modules:
    config = UpsamplerConfig.from_metadata(dict(_section(architecture, "upsampler")))
    return {"upsampler": LatentUpsampler.declare(config)}


_DECLARE: Mapping[str, Callable[[Architecture], Modules]] = {
    "video": _video, "audio": _audio, "vocoder": _vocoder, "upsampler": _upsampler,
}  # fmt: skip


def _section(architecture: Architecture, name: str) -> Mapping[str, Any]:
    section = architecture.get(name)
    if not isinstance(section, Mapping):
        held = ", ".join(sorted(architecture)) or "nothing"
        raise UserError(f"the architecture has no section '{name}' (it has {held})")
    return section
