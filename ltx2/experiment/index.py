"""outputs/index.sqlite: one row per run, for questions over many runs.

It only repeats what the folders of the runs hold, so `rebuild` can make it again from them, and
nothing that happens to it fails a run.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ltx2.experiment.trackers.base import RunInfo, is_private, run_name, shareable

log = logging.getLogger(__name__)

T = TypeVar("T")
NAME = "index.sqlite"
VERSION = 1
BUSY_SECONDS = 2.0
_NOT_RUNS = {"cache", "wandb", "mlflow", "latents"}
_NETWORK_DISKS = ("nfs", "cifs", "smb", "lustre", "beegfs", "gpfs", "9p", "fuse.sshfs", "ceph")
_warned: set[Path] = set()


@dataclass(frozen=True)
class Row:
    """What the index knows of a run.

    `folder` is relative to the outputs folder (absolute for a run elsewhere) and the key: a run
    repeated in the same folder replaces the row. `size` is `width x height x frames`, `device`
    `backend device_name`; metrics, values and phases are tables. `phases` has the seconds of the
    phases that were computed, not reused. Times are ISO 8601 UTC.
    """

    folder: str
    run: str
    cell: str | None
    sweep: str | None
    name: str
    status: str
    started: str | None
    finished: str | None = None
    seconds: float | None = None
    model: str | None = None
    pipeline: str | None = None
    prompt: str | None = None
    seed: int | None = None
    size: str | None = None
    device: str | None = None
    metrics: dict[str, Any] | None = None
    values: dict[str, Any] | None = None
    phases: dict[str, float] | None = None
    error: str | None = None


COLUMNS = tuple(item.name for item in fields(Row))
_TABLES = ("metrics", "values", "phases")
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_SCHEMA = f"CREATE TABLE IF NOT EXISTS runs ({_NAMES}, PRIMARY KEY (folder))"
_INSERT = f"INSERT OR REPLACE INTO runs ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"


def begun(outputs: Path, run: RunInfo, config: dict[str, Any]) -> Row:
    """The row of a run that begins."""
    private = is_private(config)
    return Row(
        folder=_relative(run.folder, outputs),
        run=run.run,
        cell=run.cell,
        sweep=run.sweep,
        name=run.name,
        status="running",
        started=run.started,
        model=config.get("model", {}).get("name"),
        pipeline=config.get("pipeline", {}).get("name"),
        prompt=None if private else config.get("prompt"),
        seed=config.get("seed"),
        values=shareable(run.values) if private else run.values,
    )


def ended(row: Row, record: dict[str, Any]) -> Row:
    """`row` with what the run's record says."""
    size, device = record.get("size"), record.get("device", {})
    reused = {s["name"] for s in record.get("stages", []) if s.get("action") == "reused"}
    phases = {p["phase"]: p["seconds"] for p in record.get("phases", [])}
    return replace(
        row,
        status=record["status"],
        finished=record.get("finished"),
        seconds=record.get("seconds"),
        seed=record.get("seed", row.seed),
        size=size and f"{size['width']}x{size['height']}x{record.get('frames')}",
        device=" ".join(str(device[k]) for k in ("backend", "device_name") if k in device) or None,
        metrics=record.get("metrics"),
        phases={name: seconds for name, seconds in phases.items() if name not in reused},
        error=record.get("error"),
    )


def write(outputs: str | Path, *rows: Row) -> bool:
    """Put rows in; whether that went well. Warns once per index, never raises for its state."""
    return _guarded(Path(outputs), lambda db: _put(db, rows), False, "BEGIN IMMEDIATE")


def query(outputs: str | Path, where: str = "", *parameters: Any) -> list[Row]:
    """The rows that satisfy an SQL condition with `?` for the parameters, newest first.

    An index that is missing or corrupted is made from the folders first.
    """
    outputs = Path(outputs)
    if not (outputs / NAME).exists() and outputs.is_dir():
        rebuild(outputs)
    text = f"SELECT {_NAMES} FROM runs {where and 'WHERE ' + where} ORDER BY started DESC, folder"

    def read(db: sqlite3.Connection) -> list[Row]:
        return [_row(values) for values in db.execute(text, parameters)]

    return _guarded(outputs, read, [])


def timings(outputs: str | Path, limit: int = 20, **equal: Any) -> dict[str, float]:
    """Median seconds of each phase over the newest completed runs with `equal` columns.

    Such as timings("outputs", model="pocket", pipeline="two_stage", size="128x128x17").
    """
    unknown = set(equal) - set(COLUMNS)
    assert not unknown, f"no such columns: {unknown}"
    given = {key: value for key, value in equal.items() if value is not None}
    where = " AND ".join(["status = 'completed'", *(f'"{key}" = ?' for key in given)])
    seconds: dict[str, list[float]] = {}
    for row in query(outputs, where, *given.values())[:limit]:
        for phase, value in (row.phases or {}).items():
            seconds.setdefault(phase, []).append(value)
    return {phase: statistics.median(values) for phase, values in seconds.items()}


def rebuild(outputs: str | Path) -> int:
    """Make the index again from the run.json files below `outputs`; how many runs there are.

    Rows of folders that are gone go too; rows of runs that still run stay.
    """
    outputs = Path(outputs)
    rows = list(_found(outputs))

    def again(db: sqlite3.Connection) -> bool:
        for (folder,) in db.execute("SELECT folder FROM runs").fetchall():
            if not (outputs / folder).is_dir():
                db.execute("DELETE FROM runs WHERE folder = ?", (folder,))
        db.execute("DELETE FROM runs WHERE status != 'running'")
        return _put(db, rows)

    _guarded(outputs, again, False, "BEGIN IMMEDIATE")
    return len(rows)


def _put(db: sqlite3.Connection, rows: tuple[Row, ...] | list[Row]) -> bool:
    db.executemany(_INSERT, [_values(row) for row in rows])
    return True


def _values(row: Row) -> list[Any]:
    table = asdict(row)
    for name in _TABLES:
        if table[name] is not None:
            table[name] = json.dumps(table[name], ensure_ascii=False)
    return list(table.values())


def _row(values: tuple[Any, ...]) -> Row:
    table = dict(zip(COLUMNS, values, strict=True))
    for name in _TABLES:
        if table[name] is not None:
            table[name] = json.loads(table[name])
    return Row(**table)


def _relative(folder: Path, outputs: Path) -> str:
    folder, outputs = folder.resolve(), outputs.resolve()
    inside = folder.is_relative_to(outputs)
    return (folder.relative_to(outputs) if inside else folder).as_posix()


def _found(outputs: Path) -> Iterator[Row]:
    """A row for every readable run.json below `outputs`."""
    for folder, names, files in os.walk(outputs):
        names[:] = sorted(n for n in names if n not in _NOT_RUNS and not n.startswith("."))
        if "run.json" not in files:
            continue
        names.clear()
        place = Path(folder)
        try:
            record = json.loads((place / "run.json").read_text(encoding="utf-8"))
            run = _info(place, record)
            yield ended(begun(outputs, run, record.get("settings", {})), record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.debug("%s is left out: %s", place / "run.json", error)


def _info(folder: Path, record: dict[str, Any]) -> RunInfo:
    """A run as its record tells of it; records of old lack some of it."""
    values, settings = record.get("values", {}), record.get("settings", {})
    name = run_name(settings, values) if {"pipeline", "seed"} <= set(settings) else folder.name
    run, cell, sweep = record.get("run", ""), record.get("cell"), record.get("sweep")
    return RunInfo(run, cell, sweep, name, folder, (), values, record.get("started"))  # type: ignore[arg-type]


def _guarded(
    outputs: Path, work: Callable[[sqlite3.Connection], T], otherwise: T, begin: str = "BEGIN"
) -> T:
    """`work` in a transaction; a corrupted index is put aside and made anew, once."""
    path = outputs / NAME
    try:
        try:
            return _transaction(path, work, begin)
        except sqlite3.DatabaseError as error:
            if not _corrupted(error):
                raise
            _put_aside(path, error)
            rebuild(outputs)
            return _transaction(path, work, begin)
    except (sqlite3.Error, OSError) as error:
        if "no such column" in str(error) or "syntax error" in str(error):
            raise
        if path not in _warned:
            _warned.add(path)
            log.warning("%s cannot be used, runs go on without it: %s", path, error)
        return otherwise


def _corrupted(error: sqlite3.DatabaseError) -> bool:
    """Not a database, damaged, or of another version; a lock or a missing right is none of it."""
    return type(error) is sqlite3.DatabaseError


def _transaction(path: Path, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
        if not _on_network_disk(path):
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        _begin(db, begin)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if begin != "BEGIN" and version == 0:
                db.execute(_SCHEMA)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"its version is {version}, not {VERSION}")
            result = work(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return result


def _begin(db: sqlite3.Connection, begin: str) -> None:
    """Begin, again if the disk's own locking fails for a moment."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute(begin)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _put_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(f"{NAME}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    log.warning("%s: %s; kept as %s, made anew from the runs", path, error, aside.name)
    for ending in ("", "-wal", "-shm"):
        part = path.with_name(path.name + ending)
        if part.exists():
            part.replace(aside.with_name(aside.name + ending))


def _on_network_disk(path: Path) -> bool:
    """Whether the write-ahead log, which needs shared memory, must not be used (Linux only)."""
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return False
    text = mounts.read_text(encoding="utf-8", errors="replace")
    return _disk_kind(str(path.parent.resolve()), text).startswith(_NETWORK_DISKS)


def _disk_kind(folder: str, mounts: str) -> str:
    """The kind of the file system that holds `folder`, by the lines of /proc/mounts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        place, disk = line.split()[1:3]
        inside = folder == place or folder.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, disk
    return kind
