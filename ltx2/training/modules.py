"""The parts of a model as objectives train them, and training states put back into them."""

from __future__ import annotations

from collections.abc import Mapping
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

# Module names within each part, as the objectives' `modules` have them.
PARTS: Mapping[str, tuple[str, ...]] = {
    "video": ("encoder", "decoder"),
    "audio": ("encoder", "decoder"),
    "vocoder": ("vocoder",),
    "upsampler": ("upsampler",),
    "flow": ("transformer", "gemma", "features", "video_connector", "audio_connector"),
}
AVERAGE, MASTER, FROZEN = "average.", "master.", "frozen."
Parts = dict[str, dict[str, Any]]


def declare(architecture: Mapping[str, Any], gemma_config: Mapping[str, Any]) -> Parts:
    """Every part with its modules, all tensors placeholders.

    `architecture`: a model file's metadata sections, with `upsampler` for an upsampler file's.
    """
    section, vae = _section(architecture, "transformer"), _section(architecture, "vae")
    gemma = GemmaConfig.from_metadata(gemma_config)
    audio = AudioVaeConfig.from_metadata(_section(architecture, "audio_vae"))
    vocoder = _section(architecture, "vocoder")
    rate = int(vocoder.get("output_sampling_rate", audio.mel.sample_rate))
    features, _ = declare_features(section, gemma.feature_width)
    connectors = declare_connectors(section)
    upsampler = UpsamplerConfig.from_metadata(dict(_section(architecture, "upsampler")))
    return {
        "video": {
            "encoder": VideoEncoder.declare(VideoEncoderConfig.from_metadata(vae)),
            "decoder": VideoDecoder.declare(VideoDecoderConfig.from_metadata(vae)),
        },
        "audio": {"encoder": AudioEncoder.declare(audio), "decoder": AudioDecoder.declare(audio)},
        "vocoder": {
            "vocoder": Generator.declare(
                GeneratorConfig.from_metadata(vocoder, audio.mel.bins, rate, amp=False)
            )
        },
        "upsampler": {"upsampler": LatentUpsampler.declare(upsampler)},
        "flow": {
            "transformer": Transformer.declare(TransformerConfig.from_metadata(section)),
            "gemma": Gemma3.declare(gemma),
            "features": features,
            "video_connector": connectors["video"],
            "audio_connector": connectors["audio"],
        },
    }


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
            if stored.shape != tuple(slot.value.shape):
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


def _section(architecture: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = architecture.get(name)
    if not isinstance(section, Mapping):
        held = ", ".join(sorted(architecture)) or "nothing"
        raise UserError(f"the architecture has no section '{name}' (it has {held})")
    return section
