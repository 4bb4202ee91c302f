"""Reading the header of a LoRA file: which layers it changes, at which rank and scale.

Three ways of naming are understood: the official one (`diffusion_model.x.lora_A.weight`), the one
of PEFT and diffusers (`transformer.x.lora_A.weight`), and `x.lora_down.weight` with `x.alpha`, with
dots or, after `lora_unet_`, with underscores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.errors import UserError
from ltx2.weights.checkpoint import LORA, describe_kind, identify
from ltx2.weights.header import Header, read_header, read_scalar
from ltx2.weights.quantise_stored import FLOATS

PREFIXES = (
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.",
    "lora_unet_", "lora_transformer_",
)  # fmt: skip
# Layers of the text side, which pipelines leave as they are; the distilled LoRAs name one of them.
TEXT_SIDE = (
    "text_embedding_projection.", "video_embeddings_connector.", "audio_embeddings_connector.",
    "embeddings_connector.", "connectors.",
)  # fmt: skip
UPS = ("B", "up")


@dataclass(frozen=True)
class Pair:
    """One changed layer: `module` in the file's words without prefix, the two tensor names.

    `shape` is (out, in) of the layer; `factor` is alpha / rank, 1 where the file has no alpha.
    """

    module: str
    down: str
    up: str
    rank: int
    shape: tuple[int, int]
    factor: float


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file's header.

    `text_side`: layers outside the transformer, left out; `unknown`: tensors that are no factors.
    """

    header: Header
    pairs: tuple[Pair, ...]
    text_side: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.header.path.name

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur, ascending; nearly always one."""
        return tuple(sorted({pair.rank for pair in self.pairs}))

    @property
    def generation(self) -> str:
        """ "2.0", "2.3", "2.5" or "unknown", from metadata or file name."""
        return identify(self.header).generation

    @property
    def reference_downscale_factor(self) -> int:
        """How much smaller than the video an in-context reference is, per side."""
        return self.told_downscale_factor or 1

    @property
    def told_downscale_factor(self) -> int | None:
        """`reference_downscale_factor`; None where the metadata does not tell it."""
        return self._whole("reference_downscale_factor", "reference_spatial_scale_factor")

    @property
    def reference_temporal_scale_factor(self) -> int:
        """Frames of the video per frame of an in-context reference."""
        return self._whole("reference_temporal_scale_factor") or 1

    def _whole(self, *keys: str) -> int | None:
        for key in keys:
            text = self.header.metadata.get(key)
            if text is None:
                continue
            if not text.isdigit() or int(text) < 1:
                raise UserError(f"{self.name}: metadata '{key}' is '{text}', not a whole number")
            return int(text)
        return None


def read_lora(path: str | Path) -> LoraFile:
    """Read the header of a LoRA file and pair its factors; no factor is read.

    Raises UserError for a file of another kind, for halves of pairs and for shapes that do not fit.
    """
    header = read_header(path)
    halves: dict[str, dict[str, str]] = {}
    others: set[str] = set()
    for name in header.tensors:
        found = LORA.search(name)
        if found is None:
            others.add(name)
            continue
        side = "up" if re.split(r"[_.]", found[1])[-1] in UPS else "down"
        if side in halves.setdefault(name[: found.start()], {}):
            raise UserError(f"{header.path.name} has two adapters for '{name[: found.start()]}'")
        halves[name[: found.start()]][side] = name
    if not halves:
        raise UserError(
            f"{header.path.name} was given as a LoRA but is {describe_kind(header)}:"
            f" none of its {len(header.tensors)} tensors is a low-rank factor"
        )
    pairs = [_pair(header, module, half) for module, half in halves.items()]
    is_text = [pair.module.startswith(TEXT_SIDE) for pair in pairs]
    return LoraFile(
        header,
        tuple(pair for pair, text in zip(pairs, is_text, strict=True) if not text),
        tuple(pair.module for pair, text in zip(pairs, is_text, strict=True) if text),
        tuple(sorted(others - {f"{module}.alpha" for module in halves})),
    )


def _pair(header: Header, stem: str, half: dict[str, str]) -> Pair:
    if len(half) != 2:
        raise UserError(f"{header.path.name}: '{stem}' has only its {next(iter(half))} factor")
    down, up = header.tensors[half["down"]].shape, header.tensors[half["up"]].shape
    for name in half.values():
        if header.tensors[name].dtype not in FLOATS:
            raise UserError(
                f"{header.path.name}: '{name}' has dtype {header.tensors[name].dtype}; the factors"
                " of a LoRA are F16, BF16 or F32"
            )
    if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
        raise UserError(
            f"{header.path.name}: the factors of '{stem}' do not fit each other:"
            f" down {list(down)}, up {list(up)}"
        )
    module, rank = _strip(stem), down[0]
    factor = _factor(header, stem, module, rank)
    return Pair(module, half["down"], half["up"], rank, (up[0], down[1]), factor)


def _strip(stem: str) -> str:
    """The layer's name without the prefixes that writers put before it."""
    while prefix := next((p for p in PREFIXES if stem.startswith(p)), None):
        stem = stem.removeprefix(prefix)
    return stem


def _factor(header: Header, stem: str, module: str, rank: int) -> float:
    """alpha / rank from an alpha tensor or PEFT's metadata; 1 without either, as official files."""
    if f"{stem}.alpha" in header.tensors:
        return read_scalar(header, f"{stem}.alpha") / rank
    config = _peft_config(header)
    alpha = config.get("lora_alpha")
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith(f".{pattern}"):
            alpha = value
    if alpha is None:
        return 1.0
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _peft_config(header: Header) -> dict[str, Any]:
    text = header.metadata.get("lora_adapter_metadata")
    if text is None:
        return {}
    try:
        return {k.removeprefix("transformer."): v for k, v in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{header.path.name}: metadata 'lora_adapter_metadata' is not a JSON object ({error})"
        ) from None


def reference_factors(loras: Sequence[LoraFile]) -> tuple[int, int]:
    """(spatial, temporal) scale of the reference that these LoRAs were trained with; 1 if none.

    Raises UserError when two of them disagree.
    """

    def common(key: str) -> int:
        told = {lora.name: getattr(lora, key) for lora in loras}
        different = {name: value for name, value in told.items() if value != 1}
        if len(set(different.values())) > 1:
            listing = ", ".join(f"{name} has {value}" for name, value in different.items())
            raise UserError(f"LoRAs disagree about {key}: {listing}; use only one of them")
        return next(iter(different.values()), 1)

    return common("reference_downscale_factor"), common("reference_temporal_scale_factor")
