"""One file of the cache: a safetensors file whose header holds a checksum over everything.

Arrays can be written piece by piece: the checksum's place in the header is filled in at the end.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

FORMAT = "ltx2 cache 1"
CHUNK = 1 << 22
MAX_HEADER = 10_000_000
_BLANK = "0" * 64
_NAMES = {"float32": "F32", "uint16": "U16", "float64": "F64", "int64": "I64", "uint8": "U8"}
_DTYPES = {name: np.dtype(dtype) for dtype, name in _NAMES.items()}


class EntryWriter:
    """Writes an entry's arrays one after another, each in parts along its first axis."""

    def __init__(
        self,
        path: Path,
        key: str,
        kind: str,
        arrays: Mapping[str, tuple[tuple[int, ...], str]],
        about: dict[str, Any],
    ) -> None:
        self._path, self._left = path, 0
        tensors: dict[str, Any] = {}
        for name, (shape, dtype) in arrays.items():
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            span = [self._left, self._left + size]
            tensors[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": span}
            self._left += size
        told = {"format": FORMAT, "key": key, "kind": kind, "about": json.dumps(about)}
        self._metadata, self._tensors = told, tensors
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        header = _header(self._metadata | {"sha256": _BLANK}, self._tensors)
        self._file = self._path.open("wb")
        self._file.write(header)
        self._sum = hashlib.sha256(header)
        return self

    def write(self, part: np.ndarray) -> None:
        """The next values, in the order and dtype that were announced."""
        assert self._file is not None
        data = np.ascontiguousarray(part).data.cast("B")
        self._sum.update(data)
        self._file.write(data)
        self._left -= len(data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        with self._file as file:
            if error is None:
                assert self._left == 0, f"{self._left} announced bytes were not written"
                told = self._metadata | {"sha256": self._sum.hexdigest()}
                file.seek(0)
                file.write(_header(told, self._tensors))


def _header(metadata: dict[str, str], tensors: dict[str, Any]) -> bytes:
    text = json.dumps({"__metadata__": metadata} | tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@dataclass(frozen=True)
class DiskEntry:
    """An entry that was checked. Its pages stay readable even if the file is deleted."""

    kind: str
    about: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def array(self, name: str) -> np.ndarray | None:
        """The array of that name, read when it is used."""
        return self.arrays.get(name)


class Damaged(Exception):
    """A file that is no intact entry."""


def read_entry(path: Path, key: str, check: bool = True) -> DiskEntry:
    """Map the entry at `path`. Raises Damaged unless it is intact and that of `key`.

    `check` false trusts the data: it was checked before and is unchanged.
    """
    try:
        metadata, tensors, start = read_head(path)
        if metadata["key"] != key:
            raise Damaged(f"{path.name} is the entry of another key")
        if check:
            _check(path, metadata, tensors, start)
        about = json.loads(metadata["about"])
        arrays = {name: _mapped(path, start, tensor) for name, tensor in tensors.items()}
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise Damaged(f"{path.name}: {type(error).__name__}: {error}") from None
    return DiskEntry(metadata["kind"], about, arrays)


def read_head(path: Path) -> tuple[dict[str, str], dict[str, Any], int]:
    """Metadata, tensors and the byte where data begins; ValueError or KeyError when damaged."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER:
            raise ValueError("its header is too long")
        tensors = json.loads(file.read(length))
    metadata = tensors.pop("__metadata__")
    if metadata["format"] != FORMAT:
        raise ValueError(f"format {metadata['format']}")
    return metadata, tensors, 8 + length


def _check(path: Path, metadata: dict[str, str], tensors: dict[str, Any], start: int) -> None:
    blank = {name: value for name, value in metadata.items() if name != "sha256"}
    total = hashlib.sha256(_header(blank | {"sha256": _BLANK}, tensors))
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK):
            total.update(chunk)
    if total.hexdigest() != metadata["sha256"]:
        raise Damaged(f"{path.name}: its checksum does not match")


def _mapped(path: Path, start: int, tensor: dict[str, Any]) -> np.ndarray:
    begin, end = tensor["data_offsets"]
    dtype, shape = _DTYPES[tensor["dtype"]], tuple(tensor["shape"])
    if begin == end:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", start + begin, shape)
