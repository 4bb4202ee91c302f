"""Trained modules as files of the released formats: monolith, upsampler, LoRA, Gemma directory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltx2.errors import UserError
from ltx2.nn.module import Param, slots
from ltx2.pipelines.components.text import CONNECTORS, PROJECTION
from ltx2.pipelines.components.transformer import PREFIXES
from ltx2.training.modules import Parts
from ltx2.weights.header import Header
from ltx2.weights.writing import Piece, copied, write_file

STORED = {"bf16": ("BF16", torch.bfloat16), "fp32": ("F32", torch.float32)}
# Added to what the network computes: released files keep them in float32.
WIDE = "scale_shift_table"
# Sections of the architecture that are no part of a model file's `config`.
OUTSIDE = ("model_version", "upsampler", "gemma")
STATISTICS = "per_channel_statistics."
UNUSED = f"vae.{STATISTICS}"
# Deviation of the latent within clips, as a share of that between them; nothing reads it.
WITHIN = 0.1
LANGUAGE_MODEL = "language_model.model."
LORA_PREFIX = "diffusion_model."


def write_monolith(
    path: Path,
    architecture: Mapping[str, Any],
    parts: Parts,
    dtype: str = "bf16",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """All parts but upsampler and language model in one file. Raises UserError if any is unfilled.

    The latent statistics are the decoders': encoders train without. `facts` becomes the JSON
    metadata `training`.
    """
    flow, video, audio = parts["flow"], parts["video"], parts["audio"]
    transformer = PREFIXES.own[0]
    tensors = {
        **_named(flow["transformer"], transformer),
        **_named(flow["features"], PROJECTION),
        **_named(flow["video_connector"], CONNECTORS["video"][0]),
        **_named(flow["audio_connector"], CONNECTORS["audio"][0]),
        **_halves(video, "vae."),
        **_unused_statistics(video["decoder"]),
        **_halves(audio, "audio_vae."),
        **_named(parts["vocoder"]["vocoder"], "vocoder."),
    }
    config = {name: section for name, section in architecture.items() if name not in OUTSIDE}
    return _write(path, tensors, dtype, _metadata(architecture, config, facts))


def write_upsampler(
    path: Path,
    architecture: Mapping[str, Any],
    parts: Parts,
    dtype: str = "bf16",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """The latent upsampler in a file of its own, its config at the top level of the metadata."""
    tensors = _named(parts["upsampler"]["upsampler"], "")
    metadata = _metadata(architecture, architecture["upsampler"], facts)
    return _write(path, tensors, dtype, metadata)


def write_lora(
    path: Path,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    dtype: str = "bf16",
    facts: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Low-rank factors under the official names.

    `factors`: layer of the transformer -> (down (r, in), up (out, r)), any alpha / r multiplied
    into `up`, since such files have none. `metadata`: such as `reference_downscale_factor`.
    """
    tensors = {}
    for layer, (down, up) in factors.items():
        tensors[f"{LORA_PREFIX}{layer}.lora_A.weight"] = down
        tensors[f"{LORA_PREFIX}{layer}.lora_B.weight"] = up
    return _write(path, tensors, dtype, {"format": "pt", **_training(facts), **(metadata or {})})


def write_changed(path: Path, header: Header, transformer: Any) -> Path:
    """A copy of a checkpoint's file with another transformer; dtypes and the rest stay."""
    tensors = _named(transformer, PREFIXES.own[0])
    kinds = {kind: name for name, (kind, _) in STORED.items()}
    pieces = [copied(header, name) for name in header.tensors.keys() - tensors.keys()]
    for name, tensor in tensors.items():
        stored = header.tensors[name].dtype
        if stored not in kinds:
            raise UserError(
                f"{header.path.name} holds '{name}' as {stored}; only checkpoints in"
                f" {' or '.join(kinds)} can be fine-tuned whole: train a LoRA"
            )
        pieces.append(_piece(name, tensor, kinds[stored]))
    return write_file(path, pieces, header.metadata)


def write_gemma(
    folder: Path,
    gemma_config: Mapping[str, Any],
    tower: Any,
    dtype: str = "bf16",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """`model.safetensors` of a Gemma 3 directory: the text tower and an untrained vision tower.

    Generic loaders want every tensor of the config's architecture to be there. The small files
    come from `ltx2.pocket.tokenizer_files`.
    """
    tensors = _named(tower, LANGUAGE_MODEL) | dict(_vision(gemma_config))
    metadata = {"format": "pt", **_training(facts)}
    return _write(folder / "model.safetensors", tensors, dtype, metadata)


def _named(module: Any, prefix: str, without: str | None = None) -> dict[str, Tensor]:
    """Tensors of a module under their names in the file, but those that begin with `without`.

    Raises UserError for placeholders, except those whose value is fixed.
    """
    found = {}
    for slot in slots(module):
        value, name = slot.value, prefix + slot.name
        if without is not None and slot.name.startswith(without):
            continue
        if isinstance(value, Param):
            if value.default is None:
                raise UserError(f"'{name}' was never trained or set; adopt a state that holds it")
            value = torch.from_numpy(value.default())
        if isinstance(value, Tensor):
            found[name] = value
    return found


def _halves(part: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Encoder and decoder; the statistics once, from the decoder."""
    tensors = _named(part["decoder"].per_channel_statistics, f"{prefix}{STATISTICS}")
    for half in ("encoder", "decoder"):
        tensors |= _named(part[half], f"{prefix}{half}.", without=STATISTICS)
    return tensors


def _unused_statistics(decoder: Any) -> dict[str, Tensor]:
    """What released files hold beside mean and deviation, and no code reads."""
    std = decoder.per_channel_statistics.std.float()
    within = torch.full_like(std, WITHIN)
    return {
        f"{UNUSED}channel": torch.arange(len(std), dtype=torch.float32),
        f"{UNUSED}mean-of-stds": within,
        f"{UNUSED}mean-of-stds_over_std-of-means": within / std,
    }


def _vision(config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Untrained projector and vision tower of the config's sizes."""
    rng = torch.Generator().manual_seed(0)
    vision, text = config["vision_config"], config["text_config"]["hidden_size"]
    width, inner, patch = (vision[f"{n}_size"] for n in ("hidden", "intermediate", "patch"))
    places = (vision["image_size"] // patch) ** 2
    yield "multi_modal_projector.mm_input_projection_weight", torch.zeros(width, text)
    yield "multi_modal_projector.mm_soft_emb_norm.weight", torch.zeros(width)
    root = "vision_tower.vision_model."

    def matrix(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng) * 0.1

    def linear(name: str, out: int, inward: int) -> Iterator[tuple[str, Tensor]]:
        yield f"{root}{name}.weight", matrix(out, inward)
        yield f"{root}{name}.bias", torch.zeros(out)

    def norm(name: str) -> Iterator[tuple[str, Tensor]]:
        yield f"{root}{name}.weight", torch.ones(width)
        yield f"{root}{name}.bias", torch.zeros(width)

    def mlp(name: str) -> Iterator[tuple[str, Tensor]]:
        yield from linear(f"{name}.fc1", inner, width)
        yield from linear(f"{name}.fc2", width, inner)

    yield f"{root}embeddings.patch_embedding.weight", matrix(width, 3, patch, patch)
    yield f"{root}embeddings.patch_embedding.bias", torch.zeros(width)
    yield f"{root}embeddings.position_embedding.weight", matrix(places, width)
    for index in range(vision["num_hidden_layers"]):
        layer = f"encoder.layers.{index}"
        yield from norm(f"{layer}.layer_norm1")
        yield from norm(f"{layer}.layer_norm2")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{name}", width, width)
        yield from mlp(f"{layer}.mlp")
    yield f"{root}head.probe", matrix(1, 1, width)
    yield f"{root}head.attention.in_proj_weight", matrix(3 * width, width)
    yield f"{root}head.attention.in_proj_bias", torch.zeros(3 * width)
    yield from linear("head.attention.out_proj", width, width)
    yield from norm("head.layernorm")
    yield from mlp("head.mlp")
    yield from norm("post_layernorm")


def _metadata(
    architecture: Mapping[str, Any], config: Mapping[str, Any], facts: Mapping[str, Any] | None
) -> dict[str, str]:
    return {
        "format": "pt",
        "config": json.dumps(config),
        "model_version": str(architecture["model_version"]),
        **_training(facts),
    }


def _training(facts: Mapping[str, Any] | None) -> dict[str, str]:
    return {"training": json.dumps(facts, sort_keys=True)} if facts else {}


def _write(path: Path, tensors: Mapping[str, Tensor], dtype: str, metadata: dict[str, str]) -> Path:
    if dtype not in STORED:
        raise UserError(f"dtype={dtype} cannot be exported; use {' or '.join(STORED)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_file(path, [_piece(n, x, dtype) for n, x in tensors.items()], metadata)


def _piece(name: str, tensor: Tensor, dtype: str) -> Piece:
    if not torch.isfinite(tensor).all():
        raise UserError(f"'{name}' holds NaN or Inf; export an earlier state")
    kind, stored = STORED["fp32" if WIDE in name else dtype]

    def chunks() -> Iterator[bytes]:
        value = tensor.detach().to("cpu", stored).contiguous()
        yield value.reshape(-1).view(torch.uint8).numpy().tobytes()

    return Piece(name, kind, tuple(tensor.shape), chunks)
