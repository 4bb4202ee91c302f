"""Getting the files that a run lacks: `download=true` and `ltx2 pull`."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ltx2.errors import MissingFile, UserError
from ltx2.media.atomic import check_writable
from ltx2.pipelines.files import Wanted, download_target, name_on_hub, wanted_files
from ltx2.pipelines.presets import with_release
from ltx2.pipelines.settings import Settings
from ltx2.weights.hub import RemoteFile, fetch, is_offline, listing, missing_bytes, remote_file
from ltx2.weights.hub_cache import is_whole

log = logging.getLogger(__name__)

# Of a repository that is a text encoder: weights and the small files beside them.
_TEXT_ENCODER_FILES = (".json", ".safetensors")
_SECONDS_BETWEEN_LINES = 30.0
# Room that must stay free on the disk.
_MARGIN_BYTES = 100_000_000


@dataclass(frozen=True)
class Transfer:
    """One file of the Hub and where it goes."""

    file: RemoteFile
    target: Path

    @property
    def bytes_left(self) -> int:
        return missing_bytes(self.file, self.target)


def download(settings: Settings) -> list[Path]:
    """Fetch what `settings` need and this machine lacks; returns the new files.

    Raises UserError before the first byte when there is no room or no way to get a file.
    """
    settings = with_release(settings)
    lacking = [w for w in wanted_files(settings) if w.found is None or not is_whole(w.found)]
    if not lacking:
        return []
    _check_obtainable(settings, lacking)
    folder = check_writable(Path(settings.paths.models).expanduser())
    files = {repo: listing(repo) for repo in {want.file.source for want in lacking}}
    found = [i for want in lacking for i in transfers(want, files[want.file.source], folder)]
    found = [item for item in found if item.bytes_left]
    _check_room(found)
    with _progress(sum(item.bytes_left for item in found)) as progress:
        for item in found:
            progress.begin(item.file.path)
            fetch(item.file, item.target, progress.advance)
    return [item.target for item in found]


def transfers(want: Wanted, files: dict[str, RemoteFile], folder: Path) -> list[Transfer]:
    """What makes up a wanted file or folder, out of the `files` of its repository."""
    name, target = name_on_hub(want.file), download_target(want.file, folder)
    if name:
        file = remote_file(files, want.file.source, name)
        if want.file.sha256 not in (None, file.digest):
            raise UserError(
                f"{file.name} on the Hub is not the file that model.files.{want.role} describes:"
                f" its sha256 is {file.digest}, not {want.file.sha256}"
            )
        return [Transfer(file, target)]
    chosen = [f for f in files.values() if f.path.endswith(_TEXT_ENCODER_FILES)]
    # Small files first: a folder without its index would look complete after one shard.
    chosen.sort(key=lambda file: (file.path.endswith(".safetensors"), file.path))
    return [Transfer(file, target / file.path) for file in chosen if "/" not in file.path]


def _check_obtainable(settings: Settings, lacking: list[Wanted]) -> None:
    for want in lacking:
        if not want.file.source:
            named = want.file.file or "no file is configured"
            raise MissingFile(
                f"model={settings.model.name}: {want.role} ({named}) was not found and has no"
                " source to download it from; give a path that exists"
            )
    if is_offline():
        names = ", ".join(want.file.file for want in lacking)
        raise MissingFile(
            f"HF_HUB_OFFLINE is set and {len(lacking)} needed file(s) are not on this machine:"
            f" {names}; unset it, or put them into {settings.paths.models}"
        )


def _check_room(found: list[Transfer]) -> None:
    """Raise UserError unless the disk holds all that is still to come."""
    if not found:
        return
    # All targets stand below the models folder but those with an absolute path of their own.
    needed: dict[int, tuple[int, Path]] = {}
    for item in found:
        parent = next(path for path in item.target.parents if path.exists())
        disk = parent.stat().st_dev
        needed[disk] = (needed.get(disk, (0, parent))[0] + item.bytes_left, parent)
    for total, parent in needed.values():
        free = shutil.disk_usage(parent).free - _MARGIN_BYTES
        if total > free:
            raise UserError(
                f"the download needs {total / 1e9:.1f} GB and {parent} has {max(free, 0) / 1e9:.1f}"
                f" GB free: {(total - free) / 1e9:.1f} GB are missing; make room or set"
                " paths.models=FOLDER on another disk"
            )


class Progress(Protocol):
    """Told which file is running and how many bytes have come."""

    def begin(self, name: str) -> None: ...

    def advance(self, count: int) -> None: ...


@contextmanager
def _progress(total: int) -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield Lines(total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Terminal(bar, bar.add_task("", total=total))


@dataclass(frozen=True)
class _Terminal:
    bar: Any
    task: Any

    def begin(self, name: str) -> None:
        self.bar.update(self.task, description=name)

    def advance(self, count: int) -> None:
        self.bar.advance(self.task, count)


class Lines:
    """Log lines instead of a bar: one per file, and one per half minute with speed and ETA."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._began = self._told = time.monotonic()

    def begin(self, name: str) -> None:
        log.info("downloading %s (%s of %s)", name, _gb(self._done), _gb(self._total))

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._told < _SECONDS_BETWEEN_LINES:
            return
        self._told = now
        speed = max(self._done, 1) / (now - self._began)
        left = (self._total - self._done) / speed
        log.info(
            "%s of %s, %.1f MB/s, about %.0f min left",
            _gb(self._done), _gb(self._total), speed / 1e6, left / 60,
        )  # fmt: skip


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
