"""`ltx2 options [GROUP]`: the config groups, their options and keys, each with a line of help."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import textwrap
import types
import typing
from typing import Any

from ltx2.app.groups import config_folders, defaults, describe_option, group_options, groups
from ltx2.errors import UserError, nearest
from ltx2.pipelines.catalogue import conf_folder


def main(arguments: list[str]) -> int:
    """Print all groups, or one with its keys; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ltx2 options", description=__doc__)
    parser.add_argument("group", nargs="?", help="a group such as sampler; all groups if left out")
    given = parser.parse_args(arguments)
    known = groups(*config_folders([]))
    names = sorted(set(known) | set(_sections()))
    if given.group is None:
        sys.stdout.write(_overview(known))
    elif given.group in names:
        sys.stdout.write(_one(given.group, known))
    else:
        hint = nearest(given.group, names)
        raise UserError(f"'{given.group}' is no group{hint}; use {', '.join(names)}")
    return 0


def _overview(known: dict[str, list[str]]) -> str:
    chosen = defaults(conf_folder())
    indent = " " * 32
    lines = [f"{'group':16} {'default':14} options"]
    for group, options in known.items():
        start = f"{group:16} {chosen.get(group, '-'):14} "
        text = textwrap.fill(
            ", ".join(options), 100, initial_indent=start, subsequent_indent=indent
        )
        lines.append(text)
    lines += [
        "",
        "ltx2 options GROUP describes one group; GROUP=OPTION chooses, GROUP.KEY=VALUE sets",
    ]
    return "\n".join(lines) + "\n"


def _one(group: str, known: dict[str, list[str]]) -> str:
    lines = []
    chosen = defaults(conf_folder()).get(group)
    for folder in config_folders([]):
        for option in group_options(folder, group):
            mark = "*" if option == chosen else " "
            lines.append(f" {mark} {option:22} {describe_option(folder, group, option)}")
    kind = _sections().get(group)
    if kind is not None:
        if lines:
            lines.append("")
        lines += [f"   {line}" for line in inspect.getdoc(kind).splitlines()]  # type: ignore[union-attr]
        lines += ["", *_keys(kind)]
    title = f"{group} (several may be chosen, as {group}=[a,b])" if chosen == "[]" else group
    return "\n".join(line.rstrip() for line in [title, *lines]) + "\n"


def _keys(kind: Any) -> list[str]:
    """A line per key: its name, type and default."""
    hints = typing.get_type_hints(kind)
    return [
        f"   {item.name:22} {_said(hints[item.name]):28} {_default(item)}"
        for item in dataclasses.fields(kind)
        if not item.name.startswith("_")
    ]


def _said(hint: Any) -> str:
    if dataclasses.is_dataclass(hint):
        return "keys of its own"
    if hint is Any:
        return "any value"
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_said(part) for part in inner)
    if hint is type(None):
        return "null"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    if origin is list:
        return f"list of {_said(inner[0])}" if inner[0] is not Any else "list"
    return "table" if origin is dict else words.get(hint, str(hint))


def _default(item: dataclasses.Field[Any]) -> str:
    if item.default is not dataclasses.MISSING:
        text = {None: "null", True: "true", False: "false"}.get(item.default, item.default)
        return "" if str(text) in ("", "???") else str(text)
    made = item.default_factory() if item.default_factory is not dataclasses.MISSING else ""
    return str(made) if isinstance(made, list) else ""


def _sections() -> dict[str, Any]:
    """The schema of every group and section by name."""
    from ltx2.app.schema import Root
    from ltx2.pipelines.settings import ConditioningSettings, LoraSettings

    hints = typing.get_type_hints(Root)
    found = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    return found | {"lora": LoraSettings, "conditioning": ConditioningSettings}
