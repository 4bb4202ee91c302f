"""Small transformers and inputs for the tests: real metadata at toy size, weights by a formula."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.models.latents import VideoScale, audio_positions, video_positions
from ltx2.models.transformer import Stream, Transformer
from ltx2.models.transformer_config import STREAMS, TransformerConfig
from ltx2.nn.module import params

DATA = Path(__file__).parent / "data"
FILES = {"2.0": "ltx-2-19b-config", "2.3": "ltx-2.3-22b-config", "2.5": "ltx-2.3-22b-config"}
SWITCHES_25 = {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
TINY = {
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 8,
    "cross_attention_dim": 64,
    "audio_cross_attention_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
    "audio_in_channels": 16,
    "audio_out_channels": 16,
    "caption_channels": 24,
}
GRID, AUDIO_TOKENS, TEXT_TOKENS = (3, 2, 2), 5, 7


def metadata(generation: str, **changes: Any) -> dict[str, Any]:
    """The published `transformer` metadata of 2.0, 2.3 or 2.5, with `changes`."""
    section = json.loads((DATA / f"{FILES[generation]}.json").read_text())["transformer"]
    return section | (SWITCHES_25 if generation == "2.5" else {}) | changes


def wave(name: str, shape: tuple[int, ...], base: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """The deterministic fill of the specification's golden vectors."""
    count = int(np.prod(shape))
    j, c = np.arange(count, dtype=np.float64), zlib.crc32(name.encode()) % 1000
    values = base + scale * np.sin(0.731 * j + 0.113 * c + 0.0007 * j * j / count * c)
    return values.astype(np.float32).reshape(shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return wave(name, shape, 1.0, 0.2)
    if len(shape) == 1:
        return wave(name, shape, 0.0, 0.1)
    if "table" in name or "keyframes" in name:
        return wave(name, shape, 0.0, 0.3)
    return wave(name, shape, 0.0, 1.6 / np.sqrt(shape[-1]))


def tiny_transformer(backend, generation: str, dtype: str = "fp32", streams=STREAMS, **changes):
    """A filled two-block transformer; `changes` go into the metadata."""
    config = TransformerConfig.from_metadata(metadata(generation, **TINY | changes))
    return filled(Transformer.declare(config, streams), backend, dtype)


def filled(module, backend, dtype: str = "fp32"):
    for slot in params(module):
        value = backend.array(weight(slot.name, slot.value.shape))
        slot.replace(backend.place(value, dtype, slot.value.kind))
    return module


def streams(backend, transformer, sigmas=(0.8, 0.8), masks=(None, None), dtype="fp32"):
    """The video and audio input of the golden vectors; masks (T,) or None for ones."""
    counts = int(np.prod(GRID)), AUDIO_TOKENS
    positions = video_positions(GRID, 24.0, VideoScale()), audio_positions(AUDIO_TOKENS)
    projected = transformer.config.caption_projection
    built = []
    for k, (name, context) in enumerate((("video", "vctx"), ("audio", "actx"))):
        stream = transformer.config.stream(name)
        width = stream.caption if projected else stream.width
        raw = backend.array(wave(f"in.{context}", (1, TEXT_TOKENS, width)), dtype)
        pair = [None, None]
        if getattr(transformer, ("", "audio_")[k] + "patchify_proj") is not None:
            pair[k] = raw
        mask = np.ones(counts[k]) if masks[k] is None else np.asarray(masks[k])
        built.append(
            Stream(
                latent=backend.array(wave(f"in.{name}", (1, counts[k], stream.in_channels)), dtype),
                timesteps=(mask * sigmas[k]).astype(np.float32)[None],
                sigma=np.array([sigmas[k]], np.float32),
                positions=positions[k],
                context=transformer.project_context(*pair)[k],
                keyframes_mask=(np.arange(counts[0]) < 4)[None] * 1.0 if name == "video" else None,
            )
        )
    return built
