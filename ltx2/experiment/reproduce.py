"""A run read back: from its folder, or from the record inside its clip; and what is other here.

The settings of a record are plain tables. What only says where a run was written and how it was
watched is left out of them: it is chosen anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.errors import MissingFile, UserError
from ltx2.experiment.cell import VOLATILE
from ltx2.media.reading import read_comment

RECORD, CONFIG = "run.json", "config.yaml"
CLIPS = ("video.mp4", "video.webm", "video.gif", "video", "audio.wav")
# Tables whose keys are numbers, which JSON can only keep as texts.
_BY_NUMBER = ("schedule", "by_sigma")
# Versions that cannot change a number of the other framework's runs, or of any.
_FRAMEWORKS = ("torch", "mlx")
_NO_NUMBERS = ("hydra-core", "python")
BACKENDS = ("ltx2.backends.torch.TorchBackend", "ltx2.backends.mlx.MlxBackend")


@dataclass(frozen=True)
class Run:
    """A run as it was read; `record` is empty while it runs, and after it was killed.

    `folder` is None where only the clip is at hand, `settings` where they were left out of it.
    """

    source: Path
    folder: Path | None
    record: dict[str, Any]
    settings: dict[str, Any] | None
    clip: Path | None

    @property
    def status(self) -> str:
        return str(self.record.get("status", "running or killed"))


def load_run(source: str | Path) -> Run:
    """The run of a folder, of a clip, or of a run.json or config.yaml.

    A clip's own record counts; a clip without one is looked up in the run.json beside it. Raises
    UserError, or MissingFile, for anything else.
    """
    path = Path(source)
    if not path.exists():
        raise MissingFile(f"{path} does not exist; name a run's folder or a clip")
    if path.name in (RECORD, CONFIG):
        return _from_folder(path, path.parent)
    if path.is_dir():
        if (path / RECORD).exists() or (path / CONFIG).exists():
            return _from_folder(path, path)
        if path.name == "video" and (path.parent / RECORD).exists():
            return _from_folder(path, path.parent)
        raise UserError(f"{path} is no run's folder: it has neither {RECORD} nor {CONFIG}")
    return _from_clip(path)


def _from_folder(source: Path, folder: Path) -> Run:
    record = _json_file(folder / RECORD) if (folder / RECORD).exists() else {}
    settings = _settings_file(folder / CONFIG) if (folder / CONFIG).exists() else None
    if settings is None and not record.get("private"):
        settings = record.get("settings")
    named = [str(name) for name in (record.get("files") or {}).values()]
    candidates = [folder / name for name in (*named, *CLIPS) if not name.endswith("frames.png")]
    clip = next((path for path in candidates if path.exists()), None)
    return Run(source, folder, record, _checked(settings, source), clip)


def _from_clip(path: Path) -> Run:
    record = _commented(path)
    if record is None:
        if (path.parent / RECORD).exists():
            run = _from_folder(path, path.parent)
            if run.clip is not None and run.clip.resolve() == path.resolve():
                return run
        raise UserError(
            f"{path} holds no record: it was not made by ltx2, or the program that wrote it left"
            " the comment out; name the run's folder instead"
        )
    settings = None if record.get("private") else record.get("settings")
    beside = path.parent
    own = (beside / RECORD).exists() and _json_file(beside / RECORD).get("run") == record.get("run")
    if own and (beside / CONFIG).exists():
        settings = _settings_file(beside / CONFIG)
    return Run(path, beside if own else None, record, _checked(settings, path), path)


def _commented(path: Path) -> dict[str, Any] | None:
    """The record in the comment tag; None without one."""
    text = read_comment(path)
    try:
        record = None if text is None else json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "versions" in record else None


def _json_file(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); the run cannot be told from it"
        ) from None
    if not isinstance(record, dict):
        raise UserError(f"{path} is not the record of a run")
    return record


def _settings_file(path: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not the config.yaml of a run ({reason})") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} is not the config.yaml of a run")
    return settings


def _checked(settings: Any, source: Path) -> dict[str, Any] | None:
    if settings is None:
        return None
    if not isinstance(settings, dict) or not isinstance(settings.get("pipeline"), dict):
        raise UserError(f"{source}: its record has no settings that could be run")
    return _with_numbers(settings)


def _with_numbers(value: Any, by_number: bool = False) -> Any:
    """Settings whose tables by noise level have numbers as keys again."""
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        _number(key) if by_number else str(key): _with_numbers(item, key in _BY_NUMBER)
        for key, item in value.items()
    }


def _number(key: Any) -> Any:
    try:
        return float(key)
    except (TypeError, ValueError):
        return key


def repeatable(run: Run) -> dict[str, Any]:
    """The settings that make the run again, with the folders of the record that exist here.

    Raises UserError where the record has none, or names a backend that is not of this package.
    """
    if run.settings is None:
        hidden = "was made with output.private=true" if run.record.get("private") else "has none"
        raise UserError(
            f"{run.source} cannot be repeated: its record {hidden}; give the run's folder, whose"
            f" {CONFIG} has all settings"
        )
    target = (run.settings.get("backend") or {}).get("_target_")
    if target not in BACKENDS:
        raise UserError(f"{run.source}: its record names the backend {target}, which is unknown")
    kept = {key: value for key, value in run.settings.items() if key not in VOLATILE}
    paths = run.settings.get("paths") or {}
    kept["paths"] = {
        key: folder
        for key, folder in paths.items()
        if isinstance(folder, str) and Path(folder).expanduser().is_dir()
    }
    return kept


@dataclass(frozen=True)
class Difference:
    """A dotted key and its value on either side; None where a side lacks it."""

    key: str
    first: Any
    second: Any


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Keys whose values differ between two nested tables, in the order of the first."""
    a, b = flat(first), flat(second)
    keys = dict.fromkeys((*a, *b))
    return [Difference(k, a.get(k), b.get(k)) for k in keys if a.get(k) != b.get(k)]


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested table; lists of tables count by index, other lists are values."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def environment(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record can change numbers though the settings are equal."""
    backend = (record.get("device") or {}).get("backend")
    idle = {name for name in _FRAMEWORKS if name != backend} | set(_NO_NUMBERS)
    versions = {k: v for k, v in (record.get("versions") or {}).items() if k not in idle}
    # The framework's version is among the versions.
    device = {k: v for k, v in (record.get("device") or {}).items() if k != "version"}
    return {
        "versions": versions,
        "device": device,
        "dtypes": record.get("dtypes") or {},
        "weights": {row["role"]: dict(row) for row in record.get("weights") or []},
    }


def environment_lines(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One line per difference that may change the result, weights left out."""
    a, b = environment(recorded), environment(here)
    if a["device"].get("backend") != b["device"].get("backend"):
        names = [side["device"].get("backend") for side in (a, b)]
        return [f"the run was made with backend={names[0]}, not {names[1]}: its pixels will differ"]
    return [
        f"{part}.{item.key} was {item.first} in the run, is {item.second} here"
        for part in ("versions", "device", "dtypes")
        for item in differences(a[part], b[part])
    ]


def other_weights(
    recorded: Mapping[str, Any], here: Iterable[Mapping[str, Any]], chosen: Iterable[str] = ()
) -> list[str]:
    """One line per file that is not the recorded one; roles of `chosen` are meant to differ."""
    rows = {row["role"]: row for row in recorded.get("weights") or []}
    lines = []
    for row in here:
        known = rows.get(row["role"])
        if known is None or row["role"] in set(chosen):
            continue
        if any(known.get(key) != row.get(key) for key in ("bytes", "header_sha256")):
            lines.append(
                f"{row['role']}: {row['name']} is not the file of the run"
                f" ({known.get('name')}, {known.get('bytes')} bytes; here {row.get('bytes')})"
            )
    return lines
