"""Weights that other programs on this machine have already fetched from the Hugging Face Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

INDEX = "model.safetensors.index.json"


def cache_folder() -> Path:
    """The Hub's cache, as its environment variables say."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def cached(repo: str, name: str) -> tuple[Path, ...]:
    """Where file `name` of `repo` stands in the cache; the whole snapshot for an empty name.

    The revision that `main` was last seen at comes first, then the newest. Snapshots that lack
    shards are left out.
    """
    folder = cache_folder() / f"models--{repo.replace('/', '--')}"
    snapshots = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
    snapshots.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    main = folder / "refs" / "main"
    latest = main.read_text().strip() if main.is_file() else ""
    snapshots.sort(key=lambda path: path.name != latest)
    found = (path / name if name else path for path in snapshots)
    return tuple(path for path in found if path.exists() and is_whole(path))


def is_whole(path: Path) -> bool:
    """Whether a folder has every shard that its index lists; a file always is."""
    if not path.is_dir():
        return True
    try:
        shards = set(json.loads((path / INDEX).read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return any(path.glob("*.safetensors"))
    return all((path / shard).is_file() for shard in shards)
