"""Putting LoRAs on a transformer and taking them off again.

`match_lora` works on a declared tree too, so a LoRA is checked before any weight is read.
`apply_loras` states the whole set that shall be active: applying again replaces the previous set,
and an unfused set leaves the base layers untouched, so stages can switch without drift.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ltx2.errors import UserError
from ltx2.nn.fp8 import Fp8Linear, FusedFp8Linear
from ltx2.nn.layers import Linear
from ltx2.nn.lora import Factors, Fused, FusedLinear, LoraLinear, fuse
from ltx2.nn.module import Slot, slots
from ltx2.nn.quant import PackedLinear, QuantisedLinear
from ltx2.weights.build import Backend, read_tensor
from ltx2.weights.checkpoint import identify
from ltx2.weights.header import Header
from ltx2.weights.lora_file import LoraFile, Pair, read_lora, reference_factors

__all__ = [
    "LoraFile", "Target", "apply_loras", "check_generation", "match_lora", "read_lora",
    "reference_factors", "remove_loras",
]  # fmt: skip

log = logging.getLogger(__name__)

# diffusers' names of layers at the top of the transformer; the other names are the file's own.
DIFFUSERS = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}


@dataclass(frozen=True)
class Target:
    """A layer of the transformer and the pair that changes it."""

    slot: Slot
    pair: Pair


def match_lora(module: Any, lora: LoraFile, allow_partial: bool = False) -> list[Target]:
    """Find the layer of `module` (declared or loaded) for each pair, and check its shape.

    Raises UserError when no pair fits, when a shape differs, and, unless `allow_partial`, when any
    pair or tensor of the file finds no place.
    """
    found = list(slots(module))
    layers = {slot.name: slot for slot in found if isinstance(slot.value, Linear | QuantisedLinear)}
    layers |= {slot.name: slot for slot in found if isinstance(slot.value, LoraLinear)}
    flat = {name.replace(".", "_"): name for name in layers}
    targets: dict[str, Target] = {}
    unmatched: list[str] = []
    for pair in lora.pairs:
        name = _layer_name(pair.module, layers, flat)
        if name is None:
            unmatched.append(pair.module)
        elif name in targets:
            raise UserError(f"{lora.name} has two pairs for '{name}'")
        else:
            targets[name] = Target(layers[name], pair)
    _check_shapes(lora, targets)
    _check_coverage(lora, targets, unmatched, layers, allow_partial)
    return list(targets.values())


def _layer_name(name: str, layers: dict[str, Slot], flat: dict[str, str]) -> str | None:
    head, dot, tail = name.partition(".")
    renamed = f"{DIFFUSERS.get(head, head)}{dot}{tail}"
    return next((n for n in (name, renamed, flat.get(name)) if n in layers), None)


def _base(layer: Linear | QuantisedLinear | LoraLinear) -> Linear | QuantisedLinear:
    return layer.base if isinstance(layer, LoraLinear) else layer


def _shape(layer: Linear | QuantisedLinear | LoraLinear) -> tuple[int, ...]:
    """(out, in)."""
    base = _base(layer)
    return base.shape if isinstance(base, QuantisedLinear) else tuple(base.weight.shape)


def _check_shapes(lora: LoraFile, targets: dict[str, Target]) -> None:
    wrong = [
        f"'{name}' {list(t.pair.shape)} instead of {list(_shape(t.slot.value))}"
        for name, t in targets.items()
        if t.pair.shape != _shape(t.slot.value)
    ]
    if wrong:
        raise UserError(
            f"{lora.name} was made for a model of other sizes; {len(wrong)} of {len(lora.pairs)}"
            f" pairs do not fit: {_listing(wrong)}"
        )


def _check_coverage(
    lora: LoraFile,
    targets: dict[str, Target],
    unmatched: list[str],
    layers: dict[str, Slot],
    allow_partial: bool,
) -> None:
    if not targets:
        ours = next(iter(layers), "no linear layer")
        theirs = lora.pairs[0].module if lora.pairs else lora.text_side[0]
        raise UserError(
            f"{lora.name} changes nothing: none of its {len(lora.pairs)} pairs names a layer of"
            f" this transformer (it has '{theirs}', the transformer '{ours}')"
        )
    rest = [*unmatched, *lora.unknown]
    if rest and not allow_partial:
        raise UserError(
            f"{lora.name} fits only in part: {len(targets)} of {len(lora.pairs)} pairs match,"
            f" {len(unmatched)} pairs and {len(lora.unknown)} other tensors do not:"
            f" {_listing(rest)}; set allow_partial to use the rest"
        )
    log.info(
        "%s: %d of %d pairs match, rank %s",
        lora.name, len(targets), len(lora.pairs), ", ".join(map(str, lora.ranks)),
    )  # fmt: skip
    if rest:
        log.warning("%s: %d entries not used: %s", lora.name, len(rest), _listing(rest))
    if lora.text_side:
        log.info("%s: left out, text side: %s", lora.name, _listing(list(lora.text_side)))


def _listing(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_generation(lora: LoraFile, model: Header) -> None:
    """Warn when a LoRA says it is for another generation; 2.0 and 2.3 share names and shapes."""
    ours = identify(model).generation
    if "unknown" not in (lora.generation, ours) and lora.generation != ours:
        log.warning(
            "%s is for LTX-%s, the model is LTX-%s: it loads, but was not trained for this model",
            lora.name, lora.generation, ours,
        )  # fmt: skip


def apply_loras(
    module: Any,
    loras: Sequence[tuple[LoraFile, float]],
    backend: Backend,
    dtype: str,
    fused: bool = False,
    allow_partial: bool = False,
) -> None:
    """Make exactly `loras` (file, strength) active on a loaded `module`; an empty list removes all.

    `fused` adds them into the weights: no cost per step, but they stay until the model is loaded
    again. `dtype` is that of the module's weights. Everything is checked before anything changes.
    """
    for lora, strength in loras:
        if not math.isfinite(strength):
            raise UserError(f"{lora.name}: strength {strength} is not a number")
    matched = [(lora, s, match_lora(module, lora, allow_partial)) for lora, s in loras]
    if fused:
        _check_fusable(target.slot for _, _, targets in matched for target in targets)
    remove_loras(module)
    stacks: dict[str, tuple[Slot, list[_Request]]] = {}
    for lora, strength, targets in matched:
        file = backend.open(str(lora.header.path))
        for target in targets if strength != 0 else ():
            _, stack = stacks.setdefault(target.slot.name, (target.slot, []))
            stack.append(_Request(file, lora.header, target.pair, strength))
    for slot, stack in stacks.values():
        layer = _base(slot.value)
        slot.replace((_fuse if fused else _join)(layer, stack, backend, dtype))


@dataclass(frozen=True)
class _Request:
    """A pair to be read when its layer's turn comes, so that few factors are in memory at once."""

    file: Any
    header: Header
    pair: Pair
    strength: float

    def read(self, backend: Backend, dtype: str) -> Factors:
        down, up = (
            backend.place(read_tensor(self.file, self.header, name, backend), dtype)
            for name in (self.pair.down, self.pair.up)
        )
        return Factors(down, up, self.strength * self.pair.factor)


def read_factors(
    lora: LoraFile, pair: Pair, strength: float, backend: Backend, dtype: str
) -> Factors:
    """The factors of one pair, with the user's strength and the file's alpha in it."""
    file = backend.open(str(lora.header.path))
    return _Request(file, lora.header, pair, strength).read(backend, dtype)


def _check_fusable(targets: Iterable[Slot]) -> None:
    for slot in targets:
        base = _base(slot.value)
        if isinstance(base, QuantisedLinear) and not isinstance(base, Fp8Linear):
            kind = base.mode if isinstance(base, PackedLinear) else "nvfp4"
            raise UserError(
                f"LoRAs cannot be fused into '{slot.name}', which is quantised as {kind}; run them"
                " beside it (fused=false), or use float8 or unquantised weights"
            )


def _join(
    base: Linear | QuantisedLinear, stack: list[_Request], backend: Backend, dtype: str
) -> LoraLinear:
    layer = LoraLinear.join(base, [request.read(backend, dtype) for request in stack])
    return LoraLinear(base, backend.place(layer.down, dtype), backend.place(layer.up, dtype))


def _fuse(
    base: Linear | QuantisedLinear, stack: list[_Request], backend: Backend, dtype: str
) -> FusedLinear | FusedFp8Linear:
    # The reference adds in bfloat16 where the weights are bfloat16, on MPS in float32.
    exact = dtype != "bf16" or backend.kind == "mps"
    factors = [request.read(backend, "fp32" if exact else "bf16") for request in stack]
    if isinstance(base, Fp8Linear):
        return base.fused(factors)
    assert isinstance(base, Linear), "checked before"
    layer = fuse(base, factors)
    return FusedLinear(backend.place(layer.weight, dtype), layer.bias)


def remove_loras(module: Any) -> None:
    """Put the base layers back. Raises UserError when LoRAs were fused into the weights."""
    found = list(slots(module))
    fused = sum(isinstance(slot.value, Fused) for slot in found)
    if fused:
        raise UserError(
            f"LoRAs are fused into {fused} layers and cannot be taken out again;"
            " load the transformer again, or do not fuse"
        )
    for slot in found:
        if isinstance(slot.value, LoraLinear):
            slot.replace(slot.value.base)
