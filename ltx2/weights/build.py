"""Filling a declared module from safetensors files: check everything first, then read.

The walk over the module's fields gives the expected tensors (`ltx2.nn.module`), the header gives
the present ones. Missing names and wrong shapes are errors; extra names are counted and logged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ltx2.errors import UserError
from ltx2.nn.fp8 import Fp8Linear
from ltx2.nn.module import Param, Slot, params
from ltx2.ops import Array
from ltx2.weights.header import Header, TensorInfo, read_scalar

log = logging.getLogger(__name__)

FLOATS = ("F16", "BF16", "F32", "F64")
FP8 = "F8_E4M3"
# What stands beside a quantised weight and belongs to it.
QUANTISATION_TENSORS = ("weight_scale", "weight_scale_2", "input_scale", "comfy_quant")


class Backend(Protocol):
    """What loading needs of a backend object."""

    @property
    def kind(self) -> str: ...
    def open(self, path: str) -> Any: ...
    def array(self, host: np.ndarray, dtype: str = "fp32") -> Array: ...
    def place(self, x: Array, dtype: str, kind: str = "plain") -> Array: ...
    def decode_fp8(self, x: Array) -> Array: ...


@dataclass(frozen=True)
class Prefixes:
    """Where a component's tensors stand in a file.

    `own`: accepted prefixes of the component, the first one present wins. `shared`: fields that
    stand elsewhere, such as the VAE statistics: field name -> accepted prefixes.
    `ignored`: prefixes below `own` that belong to another component.
    """

    own: tuple[str, ...]
    shared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """One tensor to read: where it goes, from which file, under which name."""

    slot: Slot
    header: Header
    name: str
    info: TensorInfo


def present_prefix(header: Header, accepted: Sequence[str]) -> str | None:
    """The first accepted prefix under which `header` has any tensor."""
    for prefix in accepted:
        if any(name.startswith(prefix) for name in header.tensors):
            return prefix
    return None


def match(module: Any, header: Header, prefixes: Prefixes, what: str) -> list[Found]:
    """Pair every placeholder of `module` with a tensor of `header`.

    Raises UserError with a listing when names are missing, shapes differ or a dtype is unknown.
    """
    own = present_prefix(header, prefixes.own)
    if own is None:
        raise UserError(
            f"{header.path.name} does not hold {what}: no tensor begins with '{prefixes.own[0]}'"
            f" ({_first(header)})"
        )
    roots = {name: present_prefix(header, p) or p[0] for name, p in prefixes.shared.items()}
    found: list[Found] = []
    missing: list[str] = []
    wrong: list[str] = []
    for slot in params(module):
        name = _file_name(slot.name, own, roots)
        info = header.tensors.get(name)
        if info is None:
            if slot.value.default is None:
                missing.append(name)
            continue
        if problem := _problem(header, name, info, slot.value):
            wrong.append(problem)
        found.append(Found(slot, header, name, info))
    _refuse(header, what, missing, wrong)
    _report_extras(header, what, own, found, prefixes)
    return found


def _problem(header: Header, name: str, info: TensorInfo, param: Param) -> str | None:
    """Why this tensor cannot be loaded, or None."""
    if info.dtype == "U8" and scale_name(name) in header.tensors:
        return f"'{name}' is quantised as NVFP4, which is not supported (use a bf16 or fp8 file)"
    if info.dtype not in (*FLOATS, FP8):
        return f"'{name}' has dtype {info.dtype}"
    if info.shape != param.shape:
        return f"'{name}' {list(info.shape)} instead of {list(param.shape)}"
    scale = header.tensors.get(scale_name(name)) if info.dtype == FP8 else None
    if scale is not None and scale.size != 1:
        return f"'{name}' has one fp8 scale per block {list(scale.shape)}, which is not supported"
    return None


def scale_name(name: str) -> str:
    """Where the scale of a quantised weight stands: `x.weight` -> `x.weight_scale`."""
    return f"{name}_scale"


def _file_name(name: str, own: str, roots: dict[str, str]) -> str:
    head, _, tail = name.partition(".")
    return f"{roots[head]}{tail}" if head in roots else f"{own}{name}"


def _first(header: Header) -> str:
    names = sorted(header.tensors)
    return f"{len(names)} tensors, first '{names[0]}'" if names else "no tensors at all"


def _refuse(header: Header, what: str, missing: list[str], wrong: list[str]) -> None:
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing: " + _listing(missing))
    if wrong:
        problems.append(f"{len(wrong)} tensors do not fit: " + _listing(wrong))
    if problems:
        raise UserError(
            f"{header.path.name} does not fit its own metadata as {what}: " + "; ".join(problems)
        )


def _listing(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _report_extras(
    header: Header, what: str, own: str, found: list[Found], prefixes: Prefixes
) -> None:
    used = {f.name for f in found}
    scales = {f.name.removesuffix("weight") + s for f in found for s in QUANTISATION_TENSORS}
    others = tuple(own + i for i in prefixes.ignored)
    others += tuple(p for accepted in prefixes.shared.values() for p in accepted)
    extras = Counter(
        ".".join(name.split(".")[:3])
        for name in header.tensors.keys() - used - scales
        if name.startswith(own) and not name.startswith(others)
    )
    if extras:
        listing = ", ".join(f"{prefix} ({count})" for prefix, count in sorted(extras.items()))
        log.info(
            "%s: %d tensors not used by %s: %s", header.path.name, extras.total(), what, listing
        )


def fill(module: Any, found: Sequence[Found], backend: Backend, dtype: str) -> Any:
    """Read the matched tensors into `module`, all in `dtype` (or the dtype a `Param` pins)."""
    files: dict[str, Any] = {}
    for item in found:
        path = str(item.header.path)
        if path not in files:
            files[path] = backend.open(path)
        param: Param = item.slot.value
        value = read_tensor(files[path], item.header, item.name, backend)
        item.slot.replace(backend.place(value, param.dtype or dtype, param.kind))
    for slot in params(module):
        param = slot.value
        if param.default is None:
            raise UserError(f"'{slot.name}' was not filled")
        value = backend.array(param.default())
        slot.replace(backend.place(value, param.dtype or dtype, param.kind))
    return module


def read_tensor(file: Any, header: Header, name: str, backend: Backend) -> Array:
    """One tensor in its stored precision; fp8 weights come back as float32, times their scale."""
    value = file.get(name)
    if header.tensors[name].dtype != FP8:
        return value
    value = backend.decode_fp8(value)
    if scale_name(name) in header.tensors:
        value = value * file.get(scale_name(name))
    return value


def read_fp8_linear(header: Header, name: str, backend: Backend, dtype: str) -> Fp8Linear:
    """The layer `name` with its weight left in float8; the bias in `dtype`.

    Raises UserError when the weight is not stored as scaled float8.
    """
    info = header.tensors.get(f"{name}.weight")
    if info is None or info.dtype != FP8 or f"{name}.weight_scale" not in header.tensors:
        raise UserError(f"{header.path.name}: '{name}' is not a scaled float8 layer")
    file = backend.open(str(header.path))
    bias = f"{name}.bias"
    activation = f"{name}.input_scale"
    return Fp8Linear(
        file.get(f"{name}.weight"),
        read_scalar(header, f"{name}.weight_scale"),
        read_scalar(header, activation) if activation in header.tensors else None,
        backend.place(file.get(bias), dtype) if bias in header.tensors else None,
    )


def load(
    module: Any, header: Header, prefixes: Prefixes, backend: Backend, dtype: str, what: str
) -> Any:
    """Check `module` against `header`, then read it. Returns the filled module."""
    return fill(module, match(module, header, prefixes, what), backend, dtype)
