"""Cells written down in a file: one prompt per line, or a YAML list of prompts and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltx2.errors import UserError
from ltx2.pipelines.prompts import read_prompts, read_text

Table = dict[str, Any]


def read_cells(path: Path) -> list[Table]:
    """One table of dotted keys per cell. Raises UserError that names the file and the entry.

    A text in the list is a prompt. Nested tables are dotted keys, unless their keys are numbers.
    """
    if path.suffix.lower() == ".txt":
        return [{"prompt": entry.prompt} for entry in read_prompts(path)]
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(f"sweep.cells={path} must end in .yaml, .yml or .txt")
    entries = _parsed(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"sweep.cells={path} is not a list of cells; begin each with '- ', as '- seed: 3'"
        )
    return [_table(entry, f"{path}, entry {i}") for i, entry in enumerate(entries, 1)]


def _parsed(path: Path) -> Any:
    import yaml

    text = read_text(path, "sweep.cells file")
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise UserError(f"{path}{line}: not YAML ({error.problem or error.context})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None


def _table(entry: Any, where: str) -> Table:
    if isinstance(entry, str):
        return {"prompt": entry.strip()}
    if not isinstance(entry, dict) or not entry:
        raise UserError(f"{where}: {entry!r} is neither a prompt nor a table such as {{seed: 3}}")
    return _flat(entry, "", where)


def _flat(values: dict[Any, Any], prefix: str, where: str) -> Table:
    flat: Table = {}
    for key, value in values.items():
        if not isinstance(key, str) or not key or set(key) & set(" =,'\"()[]{}"):
            raise UserError(f"{where}: {key!r} is not the name of a setting")
        full = f"{prefix}{key}"
        nested = isinstance(value, dict) and value and all(isinstance(k, str) for k in value)
        for name, item in (_flat(value, f"{full}.", where) if nested else {full: value}).items():
            if name in flat:
                raise UserError(f"{where}: {name} is given twice")
            if not _is_plain(item):
                raise UserError(f"{where}: {name}: a {type(item).__name__} is no setting")
            flat[name] = item
    return flat


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    return value is None or isinstance(value, str | int | float | bool)
