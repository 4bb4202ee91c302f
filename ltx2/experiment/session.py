"""What a process keeps from one run to the next: loaded models, and stores of results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ltx2.errors import UserError, nearest
from ltx2.experiment.cache.store import DiskStore
from ltx2.pipelines.identity import content_hash, weights_identity
from ltx2.pipelines.keeper import Keeping
from ltx2.pipelines.resident import Resident, resident_mode
from ltx2.pipelines.settings import CacheSettings, Settings

MODES, WEIGHTS = ("on", "off", "refresh"), ("header", "content")


@dataclass
class Session:
    """One per process that makes several runs."""

    _resident: Resident = field(default_factory=Resident)
    _stores: dict[tuple[object, ...], DiskStore] = field(default_factory=dict)

    def resident(self, settings: Settings) -> Resident | None:
        """Where models are kept, if the settings want that."""
        mode = resident_mode(settings.keep_loaded)
        if mode == "false":
            self._resident.parts.clear()
            return None
        self._resident.mode = mode
        return self._resident

    def keeping(self, cache: CacheSettings) -> Keeping:
        """Store of results for `cache`; the same settings share one."""
        check_cache(cache)
        weights = content_hash if cache.weights == "content" else weights_identity
        store = None
        if cache.mode != "off":
            key = (cache.folder, cache.max_gb, cache.mode, cache.steps)
            if key not in self._stores:
                self._stores[key] = open_store(cache)
            store = self._stores[key]
        return Keeping(store, weights, cache.media_mb * 2**20)


def open_store(cache: CacheSettings) -> DiskStore:
    """The store that `cache` describes."""
    folder = Path(cache.folder).expanduser()
    return DiskStore(folder, cache.max_gb * 1e9, cache.mode == "refresh", cache.steps)


def check_cache(cache: CacheSettings) -> None:
    """Raise UserError for a value that means nothing."""
    for key, value, known in (("mode", cache.mode, MODES), ("weights", cache.weights, WEIGHTS)):
        if value not in known:
            hint = nearest(value, known)
            raise UserError(f"cache.{key}={value} is unknown{hint}; use {', '.join(known)}")
    if not cache.max_gb > 0:
        raise UserError(f"cache.max_gb={cache.max_gb:g} must be more than 0; cache=off keeps none")
    if not cache.media_mb >= 0:
        raise UserError(f"cache.media_mb={cache.media_mb:g} must be 0 (no frames) or more")
