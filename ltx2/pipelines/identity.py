"""What a file, a device and this package's numerics are, for the keys of stage results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ltx2.weights.header import header_hash, read_header

CHUNK = 1 << 22
# Parts of the package whose code decides what a stage computes.
NUMERICS = ("ops.py", "backends", "nn", "models", "diffusion", "weights", "media", "pipelines")

FileIdentity = Callable[[Path], str]


def digest(value: Any) -> str:
    """SHA-256 of plain values, dataclasses and sequences; equal values, equal digests."""
    text = json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        # Keys of different types may read the same: 1 and "1".
        return {f"{type(key).__name__}:{key}": _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


@cache
def numerics_version() -> str:
    """Digest of the source code that computes: another version of it, other results."""
    root = Path(__file__).parent.parent
    parts = (root / name for name in NUMERICS)
    files = (f for part in parts for f in ([part] if part.is_file() else part.rglob("*.py")))
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    path = Path(path).resolve()
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return digest([(f.relative_to(path).as_posix(), content_hash(f)) for f in files])
    stat = path.stat()
    return _content_hash(str(path), stat.st_size, stat.st_mtime_ns)


@cache
def _content_hash(path: str, _size: int, _time: int) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def weights_identity(path: Path) -> str:
    """A weight file by header, size and time, without reading a tensor; a folder by its files.

    Small files beside the weights, such as a tokenizer, count with their whole content.
    """
    path = path.resolve()
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return digest([(f.relative_to(path).as_posix(), weights_identity(f)) for f in files])
    if path.suffix != ".safetensors":
        return content_hash(path)
    stat = path.stat()
    return _header_identity(str(path), stat.st_size, stat.st_mtime_ns)


@cache
def _header_identity(path: str, size: int, time: int) -> str:
    return digest([header_hash(read_header(path)), size, time])


def device_identity(backend: Any) -> dict[str, Any]:
    """What of a backend results depend on: framework, version, kind of device; not its number."""
    facts = dict(backend.describe())
    facts["device"] = str(facts["device"]).partition(":")[0]
    return facts
