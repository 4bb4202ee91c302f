"""Filling a declared module from safetensors files: check everything first, then read.

The walk over the module's fields gives the expected tensors (`ltx2.nn.module`), the header gives
the present ones. Missing names and wrong shapes are errors; extra names are counted and logged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ltx2.errors import UserError
from ltx2.nn.fp8 import Fp8Linear
from ltx2.nn.layers import Linear
from ltx2.nn.module import Param, Slot, params, slots
from ltx2.ops import Array
from ltx2.weights.header import Header, TensorInfo, read_scalar
from ltx2.weights.quantise import UNPACK, UNPACKED, Quantisation, is_in_block
from ltx2.weights.quantise_stored import (
    FLOATS,
    FP8,
    QUANTISATION_TENSORS,
    StoredLayers,
    problem,
    scale_name,
    stored_kind,
)

log = logging.getLogger(__name__)


class Backend(Protocol):
    """What loading needs of a backend object."""

    @property
    def kind(self) -> str: ...
    def open(self, path: str) -> Any: ...
    def array(self, host: np.ndarray, dtype: str = "fp32") -> Array: ...
    def place(self, x: Array, dtype: str, kind: str = "plain") -> Array: ...
    def place_codes(self, x: Array) -> Array: ...
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
        if reason := _problem(header, slot, name):
            wrong.append(reason)
        found.append(Found(slot, header, name, info))
    _refuse(header, what, missing, wrong)
    _report_extras(header, what, own, found, prefixes)
    return found


def _problem(header: Header, slot: Slot, name: str) -> str | None:
    """Why this tensor cannot be loaded, or None."""
    info, shape = header.tensors[name], slot.value.shape
    kind = stored_kind(header, name)
    if kind not in (None, "fp8") and not is_in_block(slot.name):
        named = "NVFP4" if kind == "nvfp4" else "packed words"
        return f"'{name}' is quantised as {named}, which only layers of the blocks may be"
    if kind is not None:
        return problem(header, name, shape)
    if info.dtype not in FLOATS:
        return f"'{name}' has dtype {info.dtype}"
    if info.shape != shape:
        return f"'{name}' {list(info.shape)} instead of {list(shape)}"
    return None


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


@dataclass
class OpenFiles:
    """The file objects of a backend, each opened once."""

    backend: Any
    _files: dict[str, Any] = field(default_factory=dict)

    def __call__(self, header: Header) -> Any:
        path = str(header.path)
        if path not in self._files:
            self._files[path] = self.backend.open(path)
        return self._files[path]


@dataclass
class Filling:
    """Where the tensors of a declared module come from, and in which form they are held.

    `sources`: what `match` found, by identity of the placeholder, which copies of a module share.
    """

    sources: dict[int, Found]
    backend: Any
    dtype: str
    quantisation: Quantisation = UNPACKED

    def __post_init__(self) -> None:
        self._stored = StoredLayers(self.backend, self.dtype)

    @classmethod
    def of(
        cls, found: Sequence[Found], backend: Any, dtype: str, quantisation: Quantisation
    ) -> Filling:
        """A filling from what `match` found."""
        return cls({id(item.slot.value): item for item in found}, backend, dtype, quantisation)

    def fill(self, module: Any, open_file: Callable[[Header], Any]) -> None:
        """Replace every placeholder in `module`; layer by layer, so that little is held twice."""
        for slot in list(slots(module)):
            if isinstance(slot.value, Linear):
                self._fill_layer(slot, open_file)
        for slot in params(module):
            slot.replace(self._tensor(slot.value, slot.name, open_file))

    def _fill_layer(self, slot: Slot, open_file: Callable[[Header], Any]) -> None:
        """Replace a whole layer if its weight is or becomes quantised."""
        item = self.sources.get(id(slot.value.weight))
        if item is None or not is_in_block(item.slot.name):
            return
        name, chosen = item.slot.name.removesuffix(".weight"), self.quantisation
        kind = stored_kind(item.header, item.name)
        if kind is None and not (chosen.at_load and chosen.takes(name)):
            return
        if kind == "fp8" and chosen.mode == UNPACK:
            return  # `read_tensor` unpacks it
        bias, shape = slot.value.bias, slot.value.weight.shape
        if bias is not None:
            bias = self._tensor(bias, f"{name}.bias", open_file)
        file = open_file(item.header)
        if kind is None:
            weight = self.backend.place(file.get(item.name), self.dtype)
            slot.replace(chosen.made(weight, bias))
            return
        layer = self._stored.read(file, item.header, item.name, shape, bias)
        slot.replace(chosen.held(layer, name, self.backend, self.dtype))

    def _tensor(self, param: Param, name: str, open_file: Callable[[Header], Any]) -> Array:
        dtype, item = param.dtype or self.dtype, self.sources.get(id(param))
        if item is not None:
            value = read_tensor(open_file(item.header), item.header, item.name, self.backend)
        elif param.default is not None:
            value = self.backend.array(param.default())
        else:
            raise UserError(f"'{name}' was not filled")
        return self.backend.place(value, dtype, param.kind)


def fill(
    module: Any,
    found: Sequence[Found],
    backend: Backend,
    dtype: str,
    quantisation: Quantisation = UNPACKED,
) -> Any:
    """Read the matched tensors into `module`, all in `dtype` (or the dtype a `Param` pins).

    `quantisation` keeps layers of the blocks in few bits.
    """
    Filling.of(found, backend, dtype, quantisation).fill(module, OpenFiles(backend))
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
