"""Writing a checkpoint whose blocks are quantised; it loads without the one it was made from."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.nn.fp8 import Fp8Linear
from ltx2.nn.layers import Linear
from ltx2.nn.quant import PackedLinear
from ltx2.ops import Array
from ltx2.weights.build import read_tensor
from ltx2.weights.checkpoint import component_of
from ltx2.weights.header import ITEM_BITS, Header, read_bytes, read_header
from ltx2.weights.quantise import Quantisation, is_in_block
from ltx2.weights.quantise_stored import FLOATS, beside, scale_name, stored_kind

log = logging.getLogger(__name__)

# Key of the metadata that says how a file is quantised.
METADATA = "quantization"
# Of which the blocks are quantised.
COMPONENTS = ("transformer", "language model")
FLOAT_NAMES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
ALIGNMENT = 8

Progress = Callable[[str, int, int], None]  # what, done, of how many


@dataclass(frozen=True)
class _Entry:
    """A tensor to be written, and the tensor of the source that it comes from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str

    @property
    def size(self) -> int:
        return math.prod(self.shape) * ITEM_BITS[self.dtype] // 8


def save_quantised(
    header: Header,
    path: Path,
    how: Quantisation,
    backend: Any,
    dtype: str = "bf16",
    progress: Progress | None = None,
) -> Path:
    """Write `header`'s file to `path` with the layers of its blocks quantised as `how` says.

    Everything else is copied byte for byte. `dtype` is what weights are rounded to first, and that
    of scales in int8 and int4. One layer at a time is in memory, and the file appears when it is
    complete. Raises UserError for a mode that quantises nothing, or a file that is quantised.
    """
    path = Path(path)
    _check(header, path, how)
    chosen = frozenset(name for name in header.tensors if _is_chosen(header, name, how))
    if not chosen:
        raise UserError(f"{header.path.name} has no layers in blocks that could be quantised")
    entries = [e for name in header.tensors for e in _entries(header, name, chosen, how, dtype)]
    metadata = header.metadata | {METADATA: json.dumps(_description(how))}
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(_header_bytes(entries, metadata))
            for done, data in enumerate(_data(header, entries, chosen, how, (backend, dtype))):
                file.write(data)
                if progress is not None:
                    progress("tensor", done + 1, len(entries))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    log.info("%s: %d layers as %s, of %s", path.name, len(chosen), how.mode, header.path.name)
    return path


def _check(header: Header, path: Path, how: Quantisation) -> None:
    if not how.at_load:
        raise UserError(
            f"'{how.mode}' quantises nothing; use fp8, fp8-cast, int8, int4 or mxfp8 to save a"
            " quantised file"
        )
    if path.resolve() == header.path.resolve():
        raise UserError(f"{path} is the file that is read; give another name")
    weights = (n for n in header.tensors if is_in_block(n) and n.endswith(".weight"))
    quantised = [name for name in weights if stored_kind(header, name)]
    if quantised:
        raise UserError(
            f"{header.path.name} is quantised already ('{quantised[0]}'); start from the bf16 file"
        )


def _is_chosen(header: Header, name: str, how: Quantisation) -> bool:
    info = header.tensors[name]
    is_matrix = name.endswith(".weight") and len(info.shape) == 2 and info.dtype in FLOATS
    held = component_of(name) in COMPONENTS and how.takes(_layer(name))
    return is_matrix and held and info.shape[1] % how.inputs_per_scale == 0


def _layer(name: str) -> str:
    """Layer names begin where the component does, which files put behind prefixes of their own."""
    cut = max(name.find("transformer_blocks."), 0) or max(name.find("layers."), 0)
    return name[cut:].removesuffix(".weight")


def _description(how: Quantisation) -> dict[str, Any]:
    made: dict[str, Any] = {"mode": how.mode, "keep": list(how.keep)}
    return made | ({"group_size": how.group} if how.mode in ("int8", "int4") else {})


def _entries(
    header: Header, name: str, chosen: frozenset[str], how: Quantisation, dtype: str
) -> Iterator[_Entry]:
    """What stands in the new file for the tensor `name`."""
    info = header.tensors[name]
    if name not in chosen:
        yield _Entry(name, info.dtype, info.shape, name)
        return
    out, width = info.shape
    if how.mode in ("fp8", "fp8-cast"):
        yield _Entry(name, "F8_E4M3", info.shape, name)
        if how.mode == "fp8":
            yield _Entry(scale_name(name), "F32", (), name)
        return
    bits = 4 if how.mode == "int4" else 8
    yield _Entry(name, "U32", (out, width * bits // 32), name)
    groups, scale = (out, width // how.inputs_per_scale), FLOAT_NAMES[dtype]
    yield _Entry(beside(name, "scales"), "U8" if how.mode == "mxfp8" else scale, groups, name)
    if how.mode != "mxfp8":
        yield _Entry(beside(name, "biases"), scale, groups, name)


def _data(
    header: Header,
    entries: list[_Entry],
    chosen: frozenset[str],
    how: Quantisation,
    place: tuple[Any, str],
) -> Iterator[bytes]:
    """The bytes of `entries` in their order; parts of one layer follow each other."""
    backend, dtype = place
    file, known, made = backend.open(str(header.path)), "", {}
    cast_biases = {beside(name, "bias") for name in chosen} if how.mode == "fp8-cast" else set()
    for entry in entries:
        if entry.source in chosen:
            if known != entry.source:
                weight = read_tensor(file, header, entry.source, backend)
                layer = how.quantised(backend.place(weight, dtype), None)
                known, made = entry.source, _parts(layer, entry.source)
            data = _bytes(made[entry.name], entry.dtype)
        elif entry.name in cast_biases:
            bias = backend.place(file.get(entry.name), "fp32")
            cast = Fp8Linear.cast(bias[None], bias).bias
            data = _bytes(cast, entry.dtype)
        else:
            data = read_bytes(header, entry.name)
        assert len(data) == entry.size, f"{entry.name}: {len(data)} bytes instead of {entry.size}"
        yield data


def _parts(layer: Any, name: str) -> dict[str, Any]:
    assert not isinstance(layer, Linear)
    if isinstance(layer, PackedLinear):
        parts = {name: layer.weight, beside(name, "scales"): layer.scales}
        return parts | {beside(name, "biases"): layer.biases}
    return {name: layer.weight, scale_name(name): np.float32(layer.weight_scale)}


def _bytes(value: Array, dtype: str) -> bytes:
    """Little-endian bytes; values are exact in `dtype`."""
    if isinstance(value, np.float32):
        return value.tobytes()
    host = ops.to_numpy(value)
    if dtype == "BF16":
        return (host.view("<u4") >> 16).astype("<u2").tobytes()
    return (host.astype({"F16": "<f2", "F32": "<f4"}[dtype]) if dtype in FLOATS else host).tobytes()


def _header_bytes(entries: list[_Entry], metadata: dict[str, str]) -> bytes:
    told: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for entry in entries:
        offsets = [position, position + entry.size]
        told[entry.name] = {
            "dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets,
        }  # fmt: skip
        position += entry.size
    text = json.dumps(told, ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def save_quantised_folder(
    folder: Path, target: Path, how: Quantisation, backend: Any, dtype: str = "bf16"
) -> Path:
    """`save_quantised` for a text encoder's folder: every file of it, the new ones in `target`.

    Names of files stay, so that an index of shards stays true; the folder appears when it is
    complete. Raises UserError as that does, and for a target that holds anything.
    """
    folder, target = Path(folder), Path(target)
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} is not empty; name a new folder")
    files = sorted(item for item in folder.iterdir() if item.is_file())
    headers = {f: read_header(f) for f in files if f.suffix == ".safetensors"}
    chosen = {f for f, h in headers.items() if any(_is_chosen(h, n, how) for n in h.tensors)}
    for header in headers.values():
        _check(header, target, how)
    if not chosen:
        raise UserError(f"{folder} has no layers in blocks that could be quantised")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for file in files:
            if file in chosen:
                save_quantised(headers[file], partial / file.name, how, backend, dtype)
            else:
                shutil.copy2(file, partial / file.name)
        if target.is_dir():
            target.rmdir()
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
