"""How quantised weights stand in files: recognised, checked and read, layer by layer.

fp8: e4m3 with one scale or none (spec loading.md 5, 6); nvfp4 (8); and what `ltx2.ops.quantise`
packs: int8, int4 and mxfp8 as 32-bit words with `.scales` and, but for mxfp8, `.biases`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ltx2.nn.fp8 import Fp8Linear
from ltx2.nn.quant import NVFP4_GROUP, NvFp4Linear, PackedLinear, QuantisedLinear, tiled_shape
from ltx2.ops import Array
from ltx2.weights.header import Header, read_scalar

FLOATS = ("F16", "BF16", "F32", "F64")
FP8 = "F8_E4M3"
# What stands beside a quantised weight and belongs to it.
QUANTISATION_TENSORS = (
    "weight_scale", "weight_scale_2", "input_scale", "comfy_quant", "scales", "biases",
)  # fmt: skip
GROUPS = (32, 64, 128)
MXFP8_GROUP = 32


def scale_name(name: str) -> str:
    """Where the scale of a quantised weight stands: `x.weight` -> `x.weight_scale`."""
    return f"{name}_scale"


def beside(name: str, what: str) -> str:
    """The tensor `what` of the layer that `x.weight` belongs to."""
    return name.removesuffix("weight") + what


def stored_kind(header: Header, name: str) -> str | None:
    """fp8, nvfp4, packed or mxfp8; None for a tensor of plain values."""
    dtype, tensors = header.tensors[name].dtype, header.tensors
    if dtype == FP8:
        return "fp8"
    if dtype == "U8" and scale_name(name) in tensors:
        return "nvfp4"
    scales = tensors.get(beside(name, "scales"))
    if dtype == "U32" and scales is not None:
        return "mxfp8" if scales.dtype == "U8" else "packed"
    return None


def companions(header: Header, name: str) -> list[str]:
    """The arrays that are read together with the weight `name`; single numbers are not."""
    names = {
        "nvfp4": (scale_name(name),),
        "packed": (beside(name, "scales"), beside(name, "biases")),
        "mxfp8": (beside(name, "scales"),),
    }.get(stored_kind(header, name) or "", ())
    return [n for n in names if n in header.tensors]


def problem(header: Header, name: str, shape: tuple[int, ...]) -> str | None:
    """Why the quantised tensor `name` does not represent values of `shape`, or None."""
    info, kind = header.tensors[name], stored_kind(header, name)
    if kind == "fp8":
        return _fp8_problem(header, name, shape)
    if len(shape) != 2:
        return f"'{name}' is quantised as {kind}, which only a matrix can be"
    out, width = shape
    if kind == "nvfp4":
        expected = {name: (out, width // 2), scale_name(name): tiled_shape(out, width // 16)}
        if width % NVFP4_GROUP or f"{name}_scale_2" not in header.tensors:
            return f"'{name}' is incomplete as NVFP4 (no weight_scale_2, or {width} inputs)"
    else:
        found = packing(header, name, shape)
        if found is None:
            held = f"{list(info.shape)} for {list(shape)}"
            return f"'{name}' {held} is packed in no known way (int8, int4, mxfp8)"
        expected = dict.fromkeys(companions(header, name), (out, width // found[1]))
    for part, size in expected.items():
        if header.tensors[part].shape != size:
            return f"'{part}' {list(header.tensors[part].shape)} instead of {list(size)}"
    return None


def _fp8_problem(header: Header, name: str, shape: tuple[int, ...]) -> str | None:
    info, scale = header.tensors[name], header.tensors.get(scale_name(name))
    if info.shape != shape:
        return f"'{name}' {list(info.shape)} instead of {list(shape)}"
    if scale is not None and scale.size != 1:
        return f"'{name}' has one fp8 scale per block {list(scale.shape)}, which is not supported"
    # Plain casts have no scales at all; that of the activations shows that one is lost.
    if scale is None and beside(name, "input_scale") in header.tensors:
        return f"'{name}' is float8 without its scale '{scale_name(name)}'; download it again"
    return None


def packing(header: Header, name: str, shape: tuple[int, ...]) -> tuple[str, int] | None:
    """(mode, group) of a packed weight, from its shapes; None if they fit nothing known."""
    out, width = shape
    info, scales = header.tensors[name], header.tensors[beside(name, "scales")]
    if len(info.shape) != 2 or len(scales.shape) != 2 or not scales.shape[1]:
        return None
    group = width // scales.shape[1]
    bits = 32 * info.shape[1] / width
    if stored_kind(header, name) == "mxfp8":
        return ("mxfp8", group) if (bits, group) == (8, MXFP8_GROUP) else None
    if beside(name, "biases") not in header.tensors or group not in GROUPS or info.shape[0] != out:
        return None
    mode = {8.0: "int8", 4.0: "int4"}.get(bits)
    return None if mode is None else (mode, group)


@dataclass
class StoredLayers:
    """Reads quantised layers onto a backend, their offsets and biases in `dtype`.

    `files` are given at every call, since streamed blocks come from memory; single numbers are
    read from the files themselves, once.
    """

    backend: Any
    dtype: str
    _numbers: dict[tuple[str, str], float | None] = field(default_factory=dict)

    def read(
        self, file: Any, header: Header, name: str, shape: tuple[int, ...], bias: Array | None
    ) -> QuantisedLinear:
        """The layer whose weight `name` stands for values of `shape`."""
        kind = stored_kind(header, name)
        weight = self.backend.place_codes(file.get(name))
        if kind == "fp8":
            scale = self._number(header, scale_name(name))
            activations = self._number(header, beside(name, "input_scale"))
            return Fp8Linear(weight, 1.0 if scale is None else scale, activations, bias)
        if kind == "nvfp4":
            whole = self._number(header, f"{name}_scale_2")
            assert whole is not None
            scales = self.backend.place_codes(file.get(scale_name(name)))
            return NvFp4Linear(weight, scales, whole, bias)
        found = packing(header, name, shape)
        assert found is not None
        scales = file.get(beside(name, "scales"))
        if kind == "mxfp8":
            return PackedLinear(weight, self.backend.place_codes(scales), None, bias, *found)
        offsets = self.backend.place(file.get(beside(name, "biases")), self.dtype)
        scales = self.backend.place(scales, self.dtype)
        return PackedLinear(weight, scales, offsets, bias, *found)

    def _number(self, header: Header, name: str) -> float | None:
        key = str(header.path), name
        if key not in self._numbers:
            present = name in header.tensors
            self._numbers[key] = read_scalar(header, name) if present else None
        return self._numbers[key]
