"""Which layers of a model are kept in few bits, and making them while the weights are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ltx2 import ops
from ltx2.errors import UserError, nearest
from ltx2.nn.fp8 import Fp8Linear
from ltx2.nn.layers import Linear
from ltx2.nn.quant import PackedLinear, QuantisedLinear
from ltx2.ops import Array
from ltx2.weights.header import Header
from ltx2.weights.quantise_stored import (
    GROUPS,
    MXFP8_GROUP,
    QUANTISATION_TENSORS,
    companions,
    stored_kind,
)

# none: as the file has them; unpack: quantised files in the dtype of the component.
AS_STORED, UNPACK = "none", "unpack"
PACKED = ("int8", "int4", "mxfp8")
MODES = (AS_STORED, UNPACK, "fp8", "fp8-cast", *PACKED)
DEFAULT_GROUP = 64
# Of packed words the shapes alone do not tell 8 bits from 4: counted as 8.
VALUES_PER_ITEM = {"nvfp4": 2, "packed": 4, "mxfp8": 4}
# Layers of the blocks of a transformer and of a language model; all others keep their dtype.
BLOCKS = re.compile(r"(^|\.)(transformer_blocks|layers)\.\d+\.")
# A few hundred values per block, on which all heads depend.
ALWAYS_KEPT = ("*.to_gate_logits",)


@dataclass(frozen=True)
class Quantisation:
    """How the linear layers of a model's blocks are held in memory.

    `mode` as in `MODES`. `group` inputs share a scale (int8, int4). Layers whose name matches one
    of `keep` stay as the file has them. `multiplies`: float8 layers round activations too.
    """

    mode: str = AS_STORED
    group: int = DEFAULT_GROUP
    keep: tuple[str, ...] = ()
    multiplies: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            hint = nearest(self.mode, MODES)
            raise UserError(f"quantisation '{self.mode}' is unknown{hint}; use {', '.join(MODES)}")
        if self.group not in GROUPS:
            sizes = ", ".join(map(str, GROUPS))
            raise UserError(f"quant.group_size={self.group} is not one of {sizes}")

    @property
    def inputs_per_scale(self) -> int:
        """What the inputs of a layer must be a multiple of."""
        return {"mxfp8": MXFP8_GROUP, "int8": self.group, "int4": self.group}.get(self.mode, 1)

    @property
    def at_load(self) -> bool:
        """Whether weights are quantised while they are read."""
        return self.mode not in (AS_STORED, UNPACK)

    def bits(self, item: int) -> float:
        """Bits per weight with its share of the scales, which have `item` bytes each."""
        scales = {"int8": 16 * item / self.group, "int4": 16 * item / self.group, "mxfp8": 8 / 32}
        return (4 if self.mode == "int4" else 8) + scales.get(self.mode, 0.0)

    def takes(self, layer: str) -> bool:
        """Whether it decides about `layer`, such as `transformer_blocks.0.attn1.to_q`."""
        if self.mode == UNPACK:
            return True
        return is_in_block(layer) and not any(
            fnmatchcase(layer, pattern) for pattern in (*ALWAYS_KEPT, *self.keep)
        )

    def quantised(self, weight: Array, bias: Array | None) -> Linear | QuantisedLinear:
        """A layer with `weight` (out, in) in this mode; a plain one if its width does not fit."""
        if weight.shape[1] % self.inputs_per_scale:
            return Linear(weight, bias)
        layer: QuantisedLinear
        if self.mode in PACKED:
            layer = PackedLinear.quantised(weight, bias, self.mode, self.inputs_per_scale)
            packed = (layer.weight, layer.scales, layer.biases)
            ops.evaluate(*(x for x in packed if x is not None))
            return layer
        cast = self.mode == "fp8-cast"
        layer = Fp8Linear.cast(weight, bias) if cast else Fp8Linear.requantised(weight, None, bias)
        ops.evaluate(layer.weight)
        return layer

    def held(self, layer: QuantisedLinear, name: str, backend: Any, dtype: str) -> Any:
        """What becomes of a layer `name` that the file has quantised."""
        is_so = self.mode == AS_STORED or (self.mode == "fp8" and isinstance(layer, Fp8Linear))
        if is_so or not self.takes(name):
            return self._multiplying(layer)
        weight = backend.place(layer.dequantised(), dtype)
        if self.mode == UNPACK:
            return Linear(weight, layer.bias)
        return self.made(weight, layer.bias)

    def made(self, weight: Array, bias: Array | None) -> Any:
        """The layer of a plain weight that this mode takes."""
        return self._multiplying(self.quantised(weight, bias))

    def _multiplying(self, layer: Linear | QuantisedLinear) -> Linear | QuantisedLinear:
        if self.multiplies and isinstance(layer, Fp8Linear):
            layer.multiplies = True
        return layer


STORED = Quantisation()
UNPACKED = Quantisation(UNPACK)


def is_in_block(layer: str) -> bool:
    """Whether `layer` belongs to a block, so that it may stay quantised in memory."""
    return BLOCKS.search(layer) is not None


def held_bytes(header: Header, names: Iterable[str], how: Quantisation, item: int) -> int:
    """Bytes that the tensors `names` take in memory; `item`: those of a value that is not packed.

    The names of scales may be among them; they count with their weights.
    """
    total = 0.0
    for name in names:
        if name.endswith(QUANTISATION_TENSORS):
            continue
        info, kind = header.tensors[name], stored_kind(header, name)
        layer = name.removesuffix(".weight")
        values = info.size * VALUES_PER_ITEM.get(kind or "", 1)
        taken = how.mode != AS_STORED and how.takes(layer)
        if kind is not None and not taken:
            parts = [header.tensors[n] for n in (name, *companions(header, name))]
            total += sum(part.stop - part.start for part in parts)
        elif taken and how.at_load and name.endswith(".weight") and len(info.shape) == 2:
            total += values * how.bits(item) / 8
        else:
            total += values * item
    return round(total)


def check_patterns(given: Quantisation, layers: Iterable[str], key: str) -> None:
    """Refuse patterns of `keep` that match none of `layers`; `key` names the setting."""
    names = [layer for layer in layers if is_in_block(layer)]
    for pattern in given.keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = names[0] if names else "none"
            raise UserError(
                f"quant.keep: '{pattern}' matches no layer that {key}={given.mode} quantises;"
                f" layers are named like '{shown}'"
            )
