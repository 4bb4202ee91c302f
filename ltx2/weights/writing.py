"""Safetensors files written tensor by tensor: whatever their size, little of it is in memory."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ltx2.errors import UserError
from ltx2.media.atomic import check_writable, replacing
from ltx2.weights.header import ITEM_BITS, Header

_CHUNK = 1 << 24


@dataclass(frozen=True)
class Piece:
    """A tensor to be written: its dtype as safetensors names it, and where its bytes come from.

    `header` and `stored` tell the tensor of a file that it is a copy of, if it is one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[bytes]]
    header: Header | None = None
    stored: str = ""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BITS[self.dtype] // 8


def copied(header: Header, name: str, new_name: str = "") -> Piece:
    """A tensor as it stands in another file, byte for byte."""
    info = header.tensors[name]

    def chunks() -> Iterator[bytes]:
        left = info.stop - info.start
        with header.path.open("rb") as file:
            file.seek(header.data_start + info.start)
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise UserError(f"{header.path} became shorter while it was read")
                left -= len(chunk)
                yield chunk

    return Piece(new_name or name, info.dtype, info.shape, chunks, header, name)


def write_file(path: Path, pieces: Iterable[Piece], metadata: dict[str, str]) -> Path:
    """Write `pieces` under `path`, which appears when it is complete. Raises UserError.

    Tensors stand in the order safetensors itself writes: wide dtypes first, then by name.
    """
    ordered = sorted(pieces, key=lambda piece: (-ITEM_BITS[piece.dtype], piece.name))
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for piece in ordered:
        if piece.name in entries:
            raise UserError(f"{path.name} would hold two tensors named '{piece.name}'")
        offsets = [position, position + piece.bytes]
        entries[piece.name] = {
            "dtype": piece.dtype, "shape": list(piece.shape), "data_offsets": offsets,
        }  # fmt: skip
        position += piece.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    _check_room(check_writable(path.parent), 8 + len(text) + position)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for piece in ordered:
            written = sum(file.write(chunk) for chunk in piece.chunks())
            assert written == piece.bytes, piece.name
    return path


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the file needs {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free:"
            f" {(needed - free) / 1e9:.1f} GB are missing; make room or choose another folder"
        )
