"""A model of random weights in the released format: any sizes, every component, its own Gemma."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.models.audio_vae import AudioDecoder, AudioEncoder
from ltx2.models.gemma3 import Gemma3
from ltx2.models.gemma_config import GemmaConfig
from ltx2.models.transformer import Transformer
from ltx2.models.upsampler import LatentUpsampler, UpsamplerConfig
from ltx2.models.video_vae import VideoDecoder, VideoEncoder
from ltx2.models.video_vae_config import VideoDecoderConfig, VideoEncoderConfig
from ltx2.models.vocoder import Generator
from ltx2.nn.module import params
from ltx2.pipelines.components.audio import audio_config, vocoder_config
from ltx2.pipelines.components.text import declare_connectors, declare_features
from ltx2.pipelines.components.transformer import transformer_config
from ltx2.pipelines.components.video import vae_section
from ltx2.weights.header import Header, read_header

POCKET = Path(__file__).parents[1] / "ltx2" / "pocket"
TRANSFORMER = "model.diffusion_model."
# What a medium model has other than the pocket: 0.2 G parameters, convolutions four times wider.
LATENT, TEXT = 32, 512
MEDIUM: dict[str, Any] = {
    "transformer": {
        "num_layers": 8,
        "num_attention_heads": 16,
        "attention_head_dim": 64,
        "cross_attention_dim": 1024,
        "audio_num_attention_heads": 16,
        "audio_attention_head_dim": 32,
        "audio_cross_attention_dim": 512,
        "in_channels": LATENT,
        "out_channels": LATENT,
        "caption_channels": TEXT,
        "connector_num_attention_heads": 8,
        "connector_attention_head_dim": 64,
    },
    "vae": {"latent_channels": LATENT, "decoder_base_channels": 64},
    "vocoder": {"upsample_initial_channel": 384},
}
GEMMA: dict[str, Any] = {
    "hidden_size": TEXT,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "layer_types": ["sliding_attention", "full_attention"] * 4,
}


def write_medium(folder: Path) -> list[str]:
    """The medium model's files in `folder`; the settings that a run needs to use it."""
    folder.mkdir(parents=True, exist_ok=True)
    source = read_header(POCKET / "ltx-2-pocket.safetensors")
    config = copy.deepcopy(source.config)
    for section, values in MEDIUM.items():
        config[section] |= values
    _write_gemma(folder / "gemma")
    metadata = source.metadata | {"config": json.dumps(config)}
    path = folder / "medium.safetensors"
    _write(path, _shapes(Header(path, {}, metadata, 0, 0)), metadata)
    upscaler = folder / "medium-upscaler.safetensors"
    given = read_header(POCKET / "ltx-2-pocket-spatial-upscaler-x2.safetensors")
    sizes = given.config | {"in_channels": LATENT, "mid_channels": 256}
    network = LatentUpsampler.declare(UpsamplerConfig.from_metadata(sizes))
    shapes = {slot.name: slot.value.shape for slot in params(network)}
    _write(upscaler, shapes, given.metadata | {"config": json.dumps(sizes)})
    return [
        f"model.files.checkpoint.file={path}",
        f"model.files.text_encoder.file={folder / 'gemma'}",
        f"model.files.spatial_upscaler.file={upscaler}",
    ]


def _shapes(header: Header) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what the metadata of `header` asks for."""
    section = header.config["transformer"]
    features, _ = declare_features(section, TEXT * (GEMMA["num_hidden_layers"] + 1))
    connectors = declare_connectors(section)
    trees: dict[str, Any] = {
        TRANSFORMER: Transformer.declare(transformer_config(header)),
        "text_embedding_projection.": features,
        f"{TRANSFORMER}video_embeddings_connector.": connectors["video"],
        f"{TRANSFORMER}audio_embeddings_connector.": connectors["audio"],
        "vae.encoder.": VideoEncoder.declare(VideoEncoderConfig.from_metadata(vae_section(header))),
        "vae.decoder.": VideoDecoder.declare(VideoDecoderConfig.from_metadata(vae_section(header))),
        "audio_vae.encoder.": AudioEncoder.declare(audio_config(header)),
        "audio_vae.decoder.": AudioDecoder.declare(audio_config(header)),
        "vocoder.": Generator.declare(vocoder_config(header)),  # type: ignore[arg-type]
    }
    shapes = {}
    for prefix, tree in trees.items():
        for slot in params(tree, prefix):
            # Both halves of a VAE share one set of statistics, which stands beside them.
            name = slot.name.replace("encoder.per_channel", "per_channel")
            shapes[name.replace("decoder.per_channel", "per_channel")] = slot.value.shape
    return shapes


def _write_gemma(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in (POCKET / "gemma").glob("*.json"):
        shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= GEMMA
    (folder / "config.json").write_text(json.dumps(config))
    model = Gemma3.declare(GemmaConfig.from_metadata(config))
    shapes = {f"language_model.model.{slot.name}": slot.value.shape for slot in params(model)}
    _write(folder / "model.safetensors", shapes, {"format": "pt"})


def _write(path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> None:
    """Random bfloat16 tensors that keep activations near one."""
    draw = np.random.default_rng(0)
    entries: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        offsets = [position, position + size]
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": offsets}
        position += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(_tensor(name, shape, draw))


def _tensor(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> bytes:
    value = draw.standard_normal(shape, np.float32)
    if "std" in name or (len(shape) == 1 and "norm" in name):
        value = 1 + 0.1 * value
    elif len(shape) > 1:
        value /= math.sqrt(math.prod(shape[1:]))
    # The upper half of a float32 is a bfloat16.
    return (np.ascontiguousarray(value).view(np.uint32) >> 16).astype("<u2").tobytes()
