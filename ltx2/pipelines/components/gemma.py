"""A Gemma directory: config.json, one or several safetensors files, tokenizer files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltx2.errors import MissingFile, UserError
from ltx2.models.gemma3 import Gemma3
from ltx2.models.gemma_config import GemmaConfig, check_family
from ltx2.models.tokenizer import check_tokenizer_files
from ltx2.weights import build
from ltx2.weights.header import Header, read_header

INDEX = "model.safetensors.index.json"
WHAT = "Gemma text encoder"
# Multimodal files of older and newer libraries, then text-only ones.
PREFIXES = build.Prefixes(("language_model.model.", "model.language_model.", "model."))


@dataclass(frozen=True)
class GemmaDirectory:
    """What the small files of a Gemma directory say; no tensor has been read."""

    path: Path
    config: GemmaConfig
    version: str | None  # `gemma_version`, which only LTX's own fine-tunes declare
    shards: tuple[Header, ...]

    def match(self, model: Gemma3) -> list[build.Found]:
        """Pair the placeholders of `model` with tensors, each in the file that holds it."""
        homes = {name: shard for shard in self.shards for name in shard.tensors}
        tensors = {name: shard.tensors[name] for name, shard in homes.items()}
        whole = replace(self.shards[0], path=self.path, tensors=tensors)
        found = build.match(model, whole, PREFIXES, WHAT)
        return [replace(item, header=homes[item.name]) for item in found]


def read_gemma_directory(path: Path) -> GemmaDirectory:
    """Read config and headers. Raises UserError (one line) for anything missing or unusable."""
    path = Path(path)
    if not path.exists():
        raise MissingFile(f"{path} does not exist; it must be the Gemma 3 directory")
    if not path.is_dir():
        raise UserError(
            f"{path.name} is a file: packed Gemma 4 text encoders (LTX-2.5) are not built yet;"
            " LTX-2 and LTX-2.3 need a Gemma 3 directory"
        )
    raw = _read_json(path / "config.json", "download the whole Gemma repository")
    try:
        check_family(raw)
        config = GemmaConfig.from_metadata(raw)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path / 'config.json'} is not a Gemma 3 config ({reason})") from None
    check_tokenizer_files(path)
    shards = tuple(read_header(file) for file in _weight_files(path))
    return GemmaDirectory(path, config, raw.get("gemma_version"), shards)


def load_gemma(directory: GemmaDirectory, backend: Any, dtype: str) -> Gemma3:
    """The text tower, checked completely and then read piece by piece, one layer after another."""
    model = Gemma3.declare(directory.config)
    found = directory.match(model)
    pieces: dict[str, list[build.Found]] = {}
    for item in found:
        name = item.slot.name
        piece = ".".join(name.split(".")[:2]) if name.startswith("layers.") else "rest"
        pieces.setdefault(piece, []).append(item)
    for piece, items in pieces.items():
        if piece != "rest":
            build.fill(model.layers[int(piece.partition(".")[2])], items, backend, dtype)
    return build.fill(model, pieces["rest"], backend, dtype)


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; {remedy}")
    return content
