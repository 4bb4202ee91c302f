"""Safetensors files written by hand: altered copies of small ones, and large ones of no content."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np

from ltx2.weights.header import ITEM_BITS, read_header

Raw = dict[str, tuple[str, tuple[int, ...], bytes]]  # name -> dtype, shape, data


def read_raw(path: Path) -> tuple[Raw, dict[str, str]]:
    """All tensors of a small file as bytes, and its metadata."""
    header = read_header(path)
    data = path.read_bytes()[header.data_start :]
    raw = {n: (i.dtype, i.shape, data[i.start : i.stop]) for n, i in header.tensors.items()}
    return raw, dict(header.metadata)


def write_raw(path: Path, raw: Raw, metadata: dict[str, str] | None = None) -> Path:
    """Write tensors given as bytes, whatever their dtype says."""
    sizes = {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in raw.items()}
    with path.open("wb") as file:
        file.write(_header_bytes(sizes, metadata or {}))
        for _, _, data in raw.values():
            file.write(data)
    return path


def write_sparse(
    path: Path, shapes: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> Path:
    """A file of full length whose data section takes no room on the disk."""
    sizes = {
        name: (dtype, shape, math.prod(shape) * ITEM_BITS[dtype] // 8)
        for name, (dtype, shape) in shapes.items()
    }
    start = _header_bytes(sizes, metadata)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + sum(size for _, _, size in sizes.values()))
    return path


def _header_bytes(
    sizes: dict[str, tuple[str, tuple[int, ...], int]], metadata: dict[str, str]
) -> bytes:
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, (dtype, shape, size) in sizes.items():
        offsets = [position, position + size]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def f32(values: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """One float32 tensor for `write_raw`."""
    values = np.asarray(values, "<f4")
    return "F32", values.shape, values.tobytes()
