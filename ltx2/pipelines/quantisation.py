"""What of a run is held in few bits: the settings, checked before a weight is read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.models.transformer import Transformer
from ltx2.nn.layers import Linear
from ltx2.nn.module import slots
from ltx2.pipelines.components.gemma import read_gemma
from ltx2.pipelines.components.transformer import transformer_config
from ltx2.pipelines.settings import Settings
from ltx2.weights.header import Header
from ltx2.weights.quantise import DEFAULT_GROUP, MODES, Quantisation, check_patterns, is_in_block
from ltx2.weights.quantise_stored import stored_kind

log = logging.getLogger(__name__)

# Modes whose layers take LoRAs into their weights: unpacked, or quantised anew.
FUSABLE = ("unpack", "fp8", "fp8-cast")


def block_quantisation(settings: Settings) -> Quantisation:
    """How the blocks of the transformer are held."""
    given = settings.quant
    return _quantisation(settings, given.blocks, given.fp8_matmul)


def text_quantisation(settings: Settings) -> Quantisation:
    """How the layers of the text encoder are held."""
    return _quantisation(settings, settings.quant.text, False)


def _quantisation(settings: Settings, mode: str, multiplies: bool) -> Quantisation:
    given = settings.quant
    group = DEFAULT_GROUP if given.group_size is None else given.group_size
    keep = tuple(given.keep) if mode not in ("none", "unpack") else ()
    return Quantisation(mode, group, keep, multiplies)


def check_quantisation(
    settings: Settings, files: dict[str, Path], headers: dict[str, Header]
) -> None:
    """Raise UserError for a mode, pattern or option that is unknown, or has no effect."""
    given = settings.quant
    modes = {"quant.blocks": given.blocks, "quant.text": given.text}
    for key, mode in modes.items():
        if mode not in MODES:
            hint = nearest(mode, MODES)
            raise UserError(f"{key}={mode} is unknown{hint}; use {', '.join(MODES)}")
    if given.group_size is not None and not {"int8", "int4"} & set(modes.values()):
        raise UserError(
            f"quant.group_size={given.group_size} has no effect without int8 or int4 in"
            " quant.blocks or quant.text; drop it"
        )
    blocks, text = block_quantisation(settings), text_quantisation(settings)
    if given.keep and not (blocks.at_load or text.at_load):
        raise UserError("quant.keep has no effect where nothing is quantised at load; drop it")
    checkpoint = headers["checkpoint"]
    stored = stored_kinds(checkpoint)
    _check_layers(settings, files, checkpoint)
    _check_unpacking(settings, files, stored)
    _check_products(settings, checkpoint, stored)
    _check_fusing(settings, stored)


def _check_products(settings: Settings, checkpoint: Header, stored: set[str]) -> None:
    mode = settings.quant.blocks
    there = "fp8" in stored if mode == "none" else mode in ("fp8", "fp8-cast")
    if settings.quant.fp8_matmul and not there:
        raise UserError(
            f"quant.fp8_matmul=true multiplies float8 layers, of which {checkpoint.path.name} with"
            f" quant.blocks={mode} has none; use a float8 file or quant.blocks=fp8"
        )


def _check_unpacking(settings: Settings, files: dict[str, Path], stored: set[str]) -> None:
    if settings.quant.blocks == "unpack" and not stored:
        raise UserError(
            f"quant.blocks=unpack: {files['checkpoint'].name} is not quantised; use none, or a"
            f" mode that quantises it: {', '.join(MODES[2:])}"
        )


def _check_layers(settings: Settings, files: dict[str, Path], checkpoint: Header) -> None:
    """What is quantised at load must have layers that can be, and that `keep` speaks of."""
    chosen = {
        "quant.blocks": (block_quantisation(settings), lambda: _transformer(checkpoint)),
        "quant.text": (text_quantisation(settings), lambda: text_widths(files)),
    }
    made = {key: (how, widths()) for key, (how, widths) in chosen.items() if how.at_load}
    for key, (how, widths) in made.items():
        _check_widths(how, widths, key)
    if made:
        key, (how, _) = next(iter(made.items()))
        check_patterns(how, [name for _, widths in made.values() for name in widths], key)


def _check_widths(how: Quantisation, widths: dict[str, int], key: str) -> None:
    taken = {name: width for name, width in widths.items() if how.takes(name)}
    unfit = [name for name, width in taken.items() if width % how.inputs_per_scale]
    told = f"no multiple of {how.inputs_per_scale} inputs"
    if taken and len(unfit) == len(taken):
        raise UserError(
            f"{key}={how.mode}: '{unfit[0]}' and all other layers have {told}, which share a scale;"
            " use a smaller quant.group_size or fp8"
        )
    if unfit:
        log.info("%s: %d of %d layers stay, with %s", key, len(unfit), len(taken), told)


def _transformer(checkpoint: Header) -> dict[str, int]:
    return _widths(Transformer.declare(transformer_config(checkpoint)))


def text_widths(files: dict[str, Path]) -> dict[str, int]:
    """Inputs of the linear layers of the text encoder, by name; empty without one."""
    return _widths(read_gemma(files["text_encoder"]).declare()) if "text_encoder" in files else {}


def _widths(module: Any) -> dict[str, int]:
    """Inputs of the linear layers of a declared module, by name."""
    found = (slot for slot in slots(module) if isinstance(slot.value, Linear))
    return {slot.name: slot.value.weight.shape[1] for slot in found}


def stored_kinds(header: Header) -> set[str]:
    """How the weights of a file's blocks are quantised: fp8, nvfp4, packed, mxfp8."""
    kinds = {
        stored_kind(header, name)
        for name in header.tensors
        if name.endswith(".weight") and is_in_block(name)
    }
    return {kind for kind in kinds if kind is not None}


def _check_fusing(settings: Settings, stored: set[str]) -> None:
    fused = next((name for name, lora in settings.lora.items() if lora.fused), None)
    mode = settings.quant.blocks
    fits = stored <= {"fp8"} if mode == "none" else mode in FUSABLE
    if fused is not None and not fits:
        how = f"quant.blocks={mode}" if mode != "none" else f"a file quantised as {min(stored)}"
        raise UserError(
            f"lora.{fused}.fused=true cannot be added to the weights of {how};"
            f" set lora.{fused}.fused=false, which runs it beside them"
        )


def check_device(settings: Settings, backend: Any) -> None:
    """Raise UserError for what this backend or device cannot do."""
    if settings.quant.fp8_matmul and not backend.has_fp8_products:
        told = backend.describe()
        raise UserError(
            f"quant.fp8_matmul=true needs a CUDA device of compute capability 8.9 or later, not"
            f" {told['backend']} on {told['device_name']}; set it to false"
        )
