"""Prompts from files: lists for many runs, and the negative prompt.

Text files hold one prompt per line. YAML files hold a list whose items are a prompt or a mapping
with `prompt` and settings of that run, nested or with dotted keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltx2.errors import MissingFile, UserError

Value = str | int | float | bool | None | list[Any]

DATA = Path(__file__).parent.parent / "data"
NEGATIVE_PROMPT = DATA / "negative_prompt.txt"
COMMENT = "#"
_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)


@dataclass(frozen=True)
class PromptEntry:
    """One prompt and the settings that only its run gets, by dotted key."""

    prompt: str
    overrides: dict[str, Value] = field(default_factory=dict)


def read_prompts(path: Path) -> list[PromptEntry]:
    """The prompts of a .txt, .yaml or .yml file. Raises UserError, with the line where it can."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".yaml", ".yml"):
        raise UserError(f"prompt file {path} must end in .txt, .yaml or .yml")
    text = read_text(path, "prompt file")
    entries = list(map(PromptEntry, _lines(text))) if suffix == ".txt" else _from_yaml(text, path)
    if not entries:
        raise UserError(f"prompt file {path} holds no prompt")
    return entries


def negative_prompt(path: Path | None = None) -> str:
    """The lines of `path`, by default of our own list, as one line; lines with # are comments."""
    path = NEGATIVE_PROMPT if path is None else Path(path)
    lines = _lines(read_text(path, "negative prompt file"))
    if not lines:
        raise UserError(f"negative prompt file {path} is empty; for none give negative_prompt=''")
    return " ".join(lines)


def read_text(path: Path, what: str) -> str:
    """A UTF-8 file, with or without byte order mark. Raises UserError naming `what` and line."""
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise MissingFile(f"{what} {path} {problem}; give the path of a text file")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{what} {path}, line {line}: not UTF-8; save the file as UTF-8") from None


def _lines(text: str) -> list[str]:
    """Those that are neither blank nor comments."""
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith(COMMENT)]


def _from_yaml(text: str, path: Path) -> list[PromptEntry]:
    import yaml

    loader = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return []
        if not isinstance(root, yaml.SequenceNode):
            raise _wrong(path, root, "must be a list; begin each prompt with '- '")
        return [_entry(loader, node, path) for node in root.value]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = error.problem or error.context
        raise UserError(f"prompt file {path}{line}: not YAML ({problem})") from None
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"prompt file {path}: not YAML ({reason})") from None
    finally:
        if loader is not None:
            loader.dispose()


def _entry(loader: Any, node: Any, path: Path) -> PromptEntry:
    try:
        _check_keys(node, path)
        value = loader.construct_object(node, deep=True)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # such as a date with a month 13
        raise _wrong(path, node, f"cannot be read ({error}); write texts in quotes") from None
    if isinstance(value, str):
        return PromptEntry(value.strip())
    if not isinstance(value, dict):
        raise _wrong(path, node, f"{value!r} is no text; write it in quotes")
    if "prompt" not in value:
        raise _wrong(path, node, f"no 'prompt' beside {', '.join(map(repr, value)) or 'nothing'}")
    prompt = value.pop("prompt")
    if not isinstance(prompt, str):
        raise _wrong(path, node, f"prompt: {prompt!r} is no text; write it in quotes")
    return PromptEntry(prompt.strip(), _flat(value, "", path, node))


def _flat(values: dict[Any, Any], prefix: str, path: Path, node: Any) -> dict[str, Value]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Value] = {}
    for key, value in values.items():
        full = f"{prefix}{key}"
        if not isinstance(key, str) or not _KEY.fullmatch(full):
            raise _wrong(path, node, f"{full!r} is not the name of a setting")
        if isinstance(value, dict) and not value:
            raise _wrong(path, node, f"{full} is an empty mapping; leave it out")
        inner = _flat(value, f"{full}.", path, node) if isinstance(value, dict) else {full: value}
        for name in flat.keys() & inner.keys():
            raise _wrong(path, node, f"{name} is given twice")
        if not isinstance(value, dict) and not _is_plain(value):
            kind = type(value).__name__
            raise _wrong(path, node, f"{full}: a {kind} is no setting; write it in quotes")
        flat |= inner
    return flat


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def _check_keys(node: Any, path: Path) -> None:
    """Refuse a key that stands twice in one mapping: YAML would keep the last one silently."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name is not None and name in seen:
            raise _wrong(path, key, f"{name} is given twice")
        seen.add(name)
        _check_keys(value, path)


def _wrong(path: Path, node: Any, problem: str) -> UserError:
    return UserError(f"prompt file {path}, line {node.start_mark.line + 1}: {problem}")
