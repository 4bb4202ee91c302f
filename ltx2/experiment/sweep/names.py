"""Names of sweeps and of the folders of their cells."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

SLUG_LENGTH = 60
NAME_LENGTH = 40
# Overrides that change how a sweep is run, not what it consists of.
_HOW = re.compile(
    r"\+*(paths|cache|logger|preview|plan|download|debug|keep_loaded"
    r"|sweep\.(order|max_failures|dry_run|optimize\.(trials|batch)))[.=@]"
)


def slug(text: str) -> str:
    """`text` as a folder name of at most `SLUG_LENGTH` characters; other texts, other names."""
    name = _readable(text)
    if name == text and len(name) <= SLUG_LENGTH:
        return name or "default"
    return f"{name[: SLUG_LENGTH - 9].strip('-.')}-{_digest(text)}"


def sweep_id(name: str, keys: Iterable[str], overrides: Iterable[str]) -> str:
    """A readable beginning and a hash of the task overrides: the same sweep, the same id."""
    kept = sorted(text for text in overrides if not _HOW.match(text))
    readable = _readable(name or "-".join(keys))[:NAME_LENGTH].strip("-.,")
    return f"{readable or 'sweep'}-{_digest(chr(10).join(kept))}"


def cell_folder(index: int, values: Mapping[str, str]) -> str:
    """`003-seed=1,lora.user.strength=0.5`: the position that was typed, then what varies."""
    text = ",".join(f"{key}={value}" for key, value in values.items())
    return f"{index:03d}-{slug(text)}"[:SLUG_LENGTH].rstrip("-.,")


def _readable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.,=_-]+", "-", text).strip("-.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
