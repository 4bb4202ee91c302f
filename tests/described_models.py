"""Released models as files of full length without data, made of what the documentation says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from checkpoint_files import write_sparse
from conftest import GOLDEN
from test_inspect import DATA, TRANSFORMER, conditioning_shapes, declared_shapes

from ltx2.models.gemma3 import Gemma3
from ltx2.models.gemma_config import GemmaConfig
from ltx2.models.upsampler import LatentUpsampler, UpsamplerConfig
from ltx2.nn.module import params
from ltx2.nn.quant import tiled_shape
from ltx2.weights.header import Header

Shapes = dict[str, tuple[str, tuple[int, ...]]]
CONFIGS = {"2.0": "ltx-2-19b", "2.3": "ltx-2.3-22b"}
# Spec of Gemma 3 12B.
GEMMA = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 3840, "num_hidden_layers": 48, "intermediate_size": 15360,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
        "vocab_size": 262208, "sliding_window": 1024, "query_pre_attn_scalar": 256,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
}  # fmt: skip
# Linear layers of the inner blocks, which quantised files hold in few bits; gates stay.
LINEAR = re.compile(
    rf"{re.escape(TRANSFORMER)}transformer_blocks\.(\d+)\.\w+\.(to_[qkv]|to_out\.0|net\.0\.proj|net\.2)\.weight"
)


def checkpoint(path: Path, generation: str, stored: str = "bf16") -> None:
    """The single file of a generation: bf16, fp8 (one scale per layer) or fp4 (NVFP4)."""
    text = json.dumps(json.loads((DATA / f"{CONFIGS[generation]}-config.json").read_text()))
    metadata = {"config": text} | ({"model_version": "2.3.0"} if generation == "2.3" else {})
    shapes = declared_shapes(Header(path, {}, metadata, 0, 0))
    shapes |= conditioning_shapes() if generation == "2.0" else {}
    entries: Shapes = {}
    for name, shape in shapes.items():
        table = name.startswith(TRANSFORMER) and "scale_shift_table" in name
        layer = LINEAR.fullmatch(name)
        if stored == "bf16" or layer is None or not 2 < int(layer[1]) < 46:
            entries[name] = ("F32" if table else "BF16", shape)
        else:
            entries |= _quantised(name, shape, stored)
    write_sparse(path, entries, metadata)


def _quantised(name: str, shape: tuple[int, ...], stored: str) -> Shapes:
    out, width = shape
    if stored == "fp8":
        return {
            name: ("F8_E4M3", shape),
            f"{name}_scale": ("F32", ()),
            f"{name.removesuffix('weight')}input_scale": ("F32", ()),
        }
    return {
        name: ("U8", (out, width // 2)),
        f"{name}_scale": ("F8_E4M3", tiled_shape(out, width // 16)),
        f"{name}_scale_2": ("F32", ()),
    }


def gemma(folder: Path) -> None:
    """The text encoder of 2.0 and 2.3 in two shards; its tokenizer is a small one."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GEMMA))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((GOLDEN / "checkpoints/gemma-3-tiny" / name).read_bytes())
    slots = list(params(Gemma3.declare(GemmaConfig.from_metadata(GEMMA))))
    entries = {f"language_model.model.{s.name}": ("BF16", s.value.shape) for s in slots}
    names = list(entries)
    shards = {"model-1.safetensors": names[:300], "model-2.safetensors": names[300:]}
    for shard, held in shards.items():
        write_sparse(folder / shard, {name: entries[name] for name in held}, {})
    index = {name: shard for shard, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def upscaler(path: Path, **config: object) -> None:
    """A latent upsampler of the released width."""
    slots = params(LatentUpsampler.declare(UpsamplerConfig.from_metadata(config)))
    entries = {slot.name: ("BF16", slot.value.shape) for slot in slots}
    write_sparse(path, entries, {"config": json.dumps(config)})


def distilled_lora(path: Path, generation: str) -> None:
    """Rank 384 over the linear layers of the blocks."""
    text = (DATA / f"{CONFIGS[generation]}-config.json").read_text()
    shapes = declared_shapes(Header(path, {}, {"config": text}, 0, 0))
    entries: Shapes = {}
    for name, shape in shapes.items():
        if LINEAR.fullmatch(name):
            stem = name.removeprefix("model.").removesuffix(".weight")
            entries[f"{stem}.lora_A.weight"] = ("BF16", (384, shape[1]))
            entries[f"{stem}.lora_B.weight"] = ("BF16", (shape[0], 384))
    write_sparse(path, entries, {})


def split_model(folder: Path, training: str) -> None:
    """LTX-2.5's files under their published names: the small ones that stand for them."""
    tiny = GOLDEN / "checkpoints"
    names = {
        f"diffusion_models/ltx-2.5-22b-{training}-transformer-bf16":
            "ltx-2.5-tiny/diffusion_models/ltx-2.5-tiny-transformer",
        "text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16":
            "ltx-2.5-tiny/text_encoders/gemma4-tiny-with-proj",
        "vae/ltx-2.5-video-vae-bf16": "ltx-2.5-tiny/vae/ltx-2.5-tiny-video-vae",
        "vae/ltx-2.5-audio-vae-bf16": "ltx-2.5-tiny/vae/ltx-2.5-tiny-audio-vae",
        "latent_upscale_models/ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0":
            "spatial-upscaler-x2-tiny",
        "loras/ltx-2.5-22b-distilled-lora-450-bf16": "distilled-lora-tiny",
        "model_patches/ltx-2.5-duration-head-bf16":
            "ltx-2.5-tiny/model_patches/ltx-2.5-tiny-duration-head",
    }  # fmt: skip
    for released, small in names.items():
        target = folder / f"{released}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(tiny / f"{small}.safetensors")
