"""The finished model that a LoRA or a fine-tuning starts from: trained here, or any checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ltx2.backends.torch import TorchBackend
from ltx2.models.latents import AudioTiming, VideoScale
from ltx2.models.transformer import Transformer
from ltx2.pipelines.components.audio import load_audio_encoder
from ltx2.pipelines.components.gemma import load_gemma
from ltx2.pipelines.components.text import (
    check_text_files,
    load_connectors,
    load_features,
    projections_file,
)
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.components.video import load_video_encoder
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.settings import Settings
from ltx2.training.parameters import Leaves
from ltx2.training.text import TextPath
from ltx2.training.workshop import Workshop
from ltx2.weights.header import Header, header_hash

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """Transformer, text path and encoders without gradients; `identity` tells bases apart.

    `header` is that of the checkpoint, None for a model that was trained here.
    """

    transformer: Transformer
    text: TextPath
    encoders: tuple[Any, Any]
    scale: VideoScale
    timing: AudioTiming
    identity: str
    header: Header | None = None


def base_of(workshop: Workshop) -> Base:
    """The checkpoint that the settings name, or the parts trained in train.folder."""
    if workshop.base is not None:
        return from_checkpoint(workshop.base, workshop.settings.train.dtype)
    modules = workshop.finished("flow")
    encoders = [workshop.finished(part)["encoder"] for part in ("video", "audio")]
    Leaves.of(modules, workshop.settings.train.dtype, _never)
    return Base(
        modules["transformer"],
        workshop.text_path(modules, trains_gemma=False),
        (encoders[0], encoders[1]),
        workshop.scale,
        workshop.timing,
        str({part: facts["step"] for part, facts in workshop.states.items()}),
    )


def from_checkpoint(settings: Settings, dtype: str) -> Base:
    """Every part of a checkpoint's files, in one dtype on the CPU."""
    plan, backend = make_plan(settings), TorchBackend(device="cpu")
    header = plan.headers["checkpoint"]
    files = check_text_files(plan.files["text_encoder"], header)
    section, width = header.config["transformer"], files.config.feature_width
    connectors = load_connectors(header, backend, dtype)
    tokenizer = files.tokenizer()
    text = TextPath(
        tokenizer,
        load_gemma(files, backend, dtype),
        load_features(section, projections_file(files, header), width, backend, dtype),
        connectors["video"],
        connectors["audio"],
        sequence=tokenizer.limit,
        trains_gemma=False,
    )
    encoders = (
        load_video_encoder(plan.header_of("video_vae"), backend, "fp32"),
        load_audio_encoder(plan.header_of("audio_vae"), backend, "fp32"),
    )
    transformer = load_transformer(header, backend, dtype)
    identity = header_hash(header)
    return Base(transformer, text, encoders, plan.scale, plan.audio_timing, identity, header)


def _never(name: str) -> bool:
    return False
