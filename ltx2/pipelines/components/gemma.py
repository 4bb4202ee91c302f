"""Gemma text encoders: a directory (config, safetensors files, tokenizer) or one packed file.

A packed file (LTX-2.5) holds the config as metadata, the small files as byte tensors and the text
projections beside the language model. Source: spec text.md section 11.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltx2.errors import MissingFile, UserError
from ltx2.models.gemma3 import Gemma3
from ltx2.models.gemma4 import Gemma4
from ltx2.models.gemma4_config import Gemma4Config
from ltx2.models.gemma_config import GemmaConfig
from ltx2.models.gemma_tower import GemmaTower
from ltx2.models.tokenizer import (
    FILES,
    PromptTokenizer,
    check_tokenizer_files,
    sequence_length,
)
from ltx2.weights import build
from ltx2.weights.header import Header, read_bytes, read_header
from ltx2.weights.quantise import UNPACKED, Quantisation
from ltx2.weights.streaming import Streaming, stream_blocks

INDEX = "model.safetensors.index.json"
WHAT = "Gemma text encoder"
# Multimodal files of older and newer libraries, then text-only and packed ones.
PREFIXES = build.Prefixes(("language_model.model.", "model.language_model.", "model."))
PACKED_CONFIG = "gemma_config"
# Names of the packed small files: the tokenizer has its own.
PACKED = {name: f"hf_asset__{name}" for name in FILES} | {"tokenizer.json": "tokenizer_json"}


@dataclass(frozen=True)
class GemmaFiles:
    """What the small files and headers of a text encoder say; no tensor has been read."""

    path: Path
    config: GemmaConfig | Gemma4Config
    version: str | None  # `gemma_version`, which only LTX's own fine-tunes declare
    shards: tuple[Header, ...]

    @property
    def family(self) -> str:
        """Such as "Gemma 3"."""
        return "Gemma 4" if isinstance(self.config, Gemma4Config) else "Gemma 3"

    def declare(self) -> Gemma3 | Gemma4:
        """The text tower with placeholders for tensors."""
        config = self.config
        if isinstance(config, Gemma4Config):
            return Gemma4.declare(config)
        return Gemma3.declare(config)

    def match(self, model: GemmaTower) -> list[build.Found]:
        """Pair the placeholders of `model` with tensors, each in the file that holds it."""
        homes = {name: shard for shard in self.shards for name in shard.tensors}
        tensors = {name: shard.tensors[name] for name, shard in homes.items()}
        whole = replace(self.shards[0], path=self.path, tensors=tensors)
        found = build.match(model, whole, PREFIXES, WHAT)
        return [replace(item, header=homes[item.name]) for item in found]

    def tokenizer(self) -> PromptTokenizer:
        """The tokenizer. Raises UserError if it is unusable."""
        if self.path.is_dir():
            return PromptTokenizer.from_directory(self.path)
        tokenizer, config = (_packed_text(self.shards[0], name) for name in FILES)
        return PromptTokenizer.from_texts(tokenizer, config, str(self.path))

    @property
    def sequence(self) -> int:
        """Tokens of a context. Raises UserError if the tokenizer's config is unusable."""
        name = FILES[1]
        if self.path.is_dir():
            config = _read_json(self.path / name, "download it again")
        else:
            config = _json(
                _packed_text(self.shards[0], name), f"{self.path}: '{name}'", "get it again"
            )
        return sequence_length(config, str(self.path))


def is_packed(header: Header) -> bool:
    """Whether a file is a whole text encoder."""
    return PACKED_CONFIG in header.metadata


def read_gemma(path: Path) -> GemmaFiles:
    """Read config and headers. Raises UserError (one line) for anything missing or unusable."""
    path = Path(path)
    if not path.exists():
        raise MissingFile(
            f"{path} does not exist; it must be the Gemma 3 directory, or LTX-2.5's text encoder"
        )
    if path.is_dir():
        raw = _read_json(path / "config.json", "download the whole Gemma repository")
        files = _files(path, path / "config.json", raw, ())
        check_tokenizer_files(path)
        return replace(files, shards=tuple(read_header(file) for file in _weight_files(path)))
    header = read_header(path)
    if not is_packed(header):
        raise UserError(
            f"{path.name} has no '{PACKED_CONFIG}' in its metadata, so it is no packed text"
            " encoder; give LTX-2.5's text encoder file, or the folder of the Gemma model"
        )
    raw = _json(header.metadata[PACKED_CONFIG], f"{path.name}: '{PACKED_CONFIG}'", "get it again")
    files = _files(path, path, raw, (header,))
    for name in FILES:
        _check_packed(header, name)
    return files


def _files(path: Path, source: Path, raw: dict[str, Any], shards: tuple[Header, ...]) -> GemmaFiles:
    try:
        config = read_config(raw)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{source} has no usable Gemma config ({reason})") from None
    return GemmaFiles(path, config, raw.get("gemma_version"), shards)


def read_config(raw: dict[str, Any]) -> GemmaConfig | Gemma4Config:
    """The architecture of either family. Raises UserError for any other."""
    if str(raw.get("model_type")).startswith("gemma4_unified"):
        return Gemma4Config.from_metadata(raw)
    return GemmaConfig.from_metadata(raw)


def load_gemma(
    files: GemmaFiles,
    backend: Any,
    dtype: str,
    quantisation: Quantisation = UNPACKED,
    streaming: Streaming | None = None,
) -> Any:
    """The text tower, checked completely and then read piece by piece, one layer after another.

    `quantisation` says which layers are held in few bits: none, unless it is given. With
    `streaming` the weights of its layers are read when a layer runs.
    """
    model = files.declare()
    found = files.match(model)
    if streaming is not None:
        model.streamed = True
        filling = build.Filling.of(found, backend, dtype, quantisation)
        return stream_blocks(model, "layers", filling, streaming)
    pieces: dict[str, list[build.Found]] = {}
    for item in found:
        name = item.slot.name
        piece = ".".join(name.split(".")[:2]) if name.startswith("layers.") else "rest"
        pieces.setdefault(piece, []).append(item)
    for piece, items in pieces.items():
        if piece != "rest":
            layer = model.layers[int(piece.partition(".")[2])]
            build.fill(layer, items, backend, dtype, quantisation)
    return build.fill(model, pieces["rest"], backend, dtype)


def _check_packed(header: Header, name: str) -> None:
    if PACKED[name] in header.metadata:
        return
    info = header.tensors.get(PACKED[name])
    if info is None or info.dtype not in ("U8", "I8"):
        problem = "does not hold" if info is None else f"has as {info.dtype}"
        raise UserError(f"{header.path.name} {problem} '{PACKED[name]}'; download it again")


def _packed_text(header: Header, name: str) -> str:
    key = PACKED[name]
    if key in header.metadata:
        return header.metadata[key]
    try:
        return read_bytes(header, key).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{header.path.name}: '{key}' is not text ({error.reason})") from None


def _weight_files(path: Path) -> list[Path]:
    """The files that the index names, else `model.safetensors`, else all there are."""
    if (path / INDEX).is_file():
        index = _read_json(path / INDEX, "download it again")
        names = index.get("weight_map")
        if not isinstance(names, dict) or not names:
            raise UserError(f"{path / INDEX} has no 'weight_map'; download it again")
        files = sorted(set(names.values()))
        missing = [name for name in files if not (path / name).is_file()]
        if missing:
            raise UserError(
                f"{path} lacks {len(missing)} of the {len(files)} files in {INDEX},"
                f" first '{missing[0]}'; download the rest"
            )
        return [path / name for name in files]
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(f"{path} has no .safetensors file; download the Gemma weights into it")
    return files


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFile(f"{path.parent} has no {path.name}; {remedy}")
    return _json(path.read_text(encoding="utf-8"), str(path), remedy)


def _json(text: str, what: str, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{what} is not JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{what} is not a JSON object; {remedy}")
    return content
