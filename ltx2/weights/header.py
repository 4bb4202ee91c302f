"""Safetensors headers: every name, shape, dtype and the metadata, without reading a tensor.

The format: 8 bytes little-endian header length, JSON header, data. Source: safetensors format page.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.errors import MissingFile, UserError

ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64,
}  # fmt: skip
MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class TensorInfo:
    """dtype as safetensors names it, shape, and the byte range within the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """Contents of one file's header; the data section begins at byte `data_start`."""

    path: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    file_size: int
    data_start: int

    @cached_property
    def config(self) -> dict[str, Any]:
        """The `config` metadata as a dictionary. Raises UserError when absent or not JSON."""
        text = self.metadata.get("config")
        if text is None:
            raise UserError(
                f"{self.path.name} has no 'config' in its metadata, so its architecture is unknown;"
                " use a file in the official LTX-2 format (a LoRA belongs under lora, not model)"
            )
        try:
            config = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{self.path.name}: metadata 'config' is not JSON ({error})") from None
        if not isinstance(config, dict):
            raise UserError(f"{self.path.name}: metadata 'config' is not a JSON object")
        return config

    @property
    def model_version(self) -> tuple[int, ...]:
        """Leading integers of `model_version` ("2.3.0" -> (2, 3, 0)); empty when absent."""
        parts = self.metadata.get("model_version", "").replace("-", ".").split(".")
        numbers: list[int] = []
        for part in parts:
            if not part.isdigit():
                break
            numbers.append(int(part))
        return tuple(numbers)


def read_header(path: str | Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises MissingFile, or UserError for a file that is truncated, corrupt or not safetensors.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFile(f"{path} does not exist; check the path or paths.models")
    if path.is_dir():
        raise UserError(f"{path} is a folder; a .safetensors file is needed")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
        if not 2 <= length <= MAX_HEADER or start[8:] != b"{":
            raise _not_safetensors(path, size, start)
        if 8 + length > size:
            raise _truncated(path, size, 8 + length)
        raw = start[8:] + file.read(length - 1)
    try:
        entries = json.loads(raw)
        metadata = {str(k): str(v) for k, v in (entries.pop("__metadata__", None) or {}).items()}
        tensors = {name: _entry(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path.name} has a corrupt safetensors header ({reason})") from None
    header = Header(path, tensors, metadata, size, 8 + length)
    _check_ranges(header)
    return header


def _not_safetensors(path: Path, size: int, start: bytes) -> UserError:
    hints = {b"version": "a Git LFS pointer; fetch the file itself", b"<": "a web page",
             b"PK": "a zip or .pt file; a .safetensors file is needed"}  # fmt: skip
    hint = next((f": it looks like {h}" for s, h in hints.items() if start.startswith(s)), "")
    return UserError(f"{path.name} ({size} bytes) is not a safetensors file{hint}")


def _truncated(path: Path, size: int, needed: int) -> UserError:
    return UserError(
        f"{path.name} is truncated: it has {size} bytes, its header promises {needed};"
        " download it again"
    )


def _entry(entry: dict[str, Any]) -> TensorInfo:
    start, stop = (int(n) for n in entry["data_offsets"])
    return TensorInfo(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), start, stop)


def _check_ranges(header: Header) -> None:
    """The tensors must fill the data section without holes, as the format demands."""
    end = max((info.stop for info in header.tensors.values()), default=0)
    if header.data_start + end > header.file_size:
        raise _truncated(header.path, header.file_size, header.data_start + end)
    position = 0
    for name, info in sorted(header.tensors.items(), key=lambda i: (i[1].start, i[1].stop)):
        bits = ITEM_BITS.get(info.dtype)
        told = None if bits is None else info.size * bits // 8
        held = info.stop - info.start
        if info.start != position or held < 0 or told not in (None, held):
            raise UserError(
                f"{header.path.name} is corrupt: '{name}' {info.dtype} {list(info.shape)} stands"
                f" at bytes {info.start} to {info.stop}, expected from {position}"
                + ("" if told is None else f" to {position + told}")
            )
        position = info.stop
    if header.data_start + position != header.file_size:
        raise UserError(
            f"{header.path.name} is corrupt: {header.file_size - header.data_start - position}"
            " bytes after its last tensor belong to nothing; download it again"
        )


def header_hash(header: Header) -> str:
    """SHA-256 of names, shapes, dtypes, offsets and metadata; no tensor is read."""
    content = {
        "metadata": header.metadata,
        "tensors": {n: [t.dtype, t.shape, t.start, t.stop] for n, t in header.tensors.items()},
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_bytes(header: Header, name: str) -> bytes:
    """The stored bytes of a tensor, such as a text file packed as one."""
    info = header.tensors[name]
    with header.path.open("rb") as file:
        file.seek(header.data_start + info.start)
        return file.read(info.stop - info.start)


def read_scalar(header: Header, name: str) -> float:
    """The value of a one-element tensor, such as a LoRA's alpha or an fp8 scale."""
    info = header.tensors[name]
    if info.size != 1 or info.dtype not in ("F16", "BF16", "F32", "F64"):
        raise UserError(
            f"{header.path.name}: '{name}' is {info.dtype} {list(info.shape)}, not one float"
        )
    raw = read_bytes(header, name)
    if info.dtype == "BF16":
        return float(np.frombuffer(b"\0\0" + raw, "<f4")[0])
    return float(np.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[info.dtype])[0])
