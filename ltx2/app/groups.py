"""What the conf folder offers: groups, their options and the line that describes each."""

from __future__ import annotations

import os
from pathlib import Path

# Shared parts of other files, Hydra's own settings, and what has a config root of its own.
_INTERNAL = ("hydra", "release", "training")


def group_options(conf: Path, group: str) -> list[str]:
    """Option names of a group, such as `beta` of `scheduler`."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def groups(*folders: Path) -> dict[str, list[str]]:
    """Option names by group."""
    paths = [path for folder in folders for path in folder.iterdir() if path.is_dir()]
    names = sorted({path.name for path in paths} - set(_INTERNAL))
    return {
        name: [option for folder in folders for option in group_options(folder, name)]
        for name in names
    }


def extra_folders(arguments: list[str]) -> list[Path]:
    """Folders given with Hydra's --config-dir, where groups may have more options."""
    found = []
    items = iter(arguments)
    for item in items:
        name, equals, value = item.partition("=")
        if name in ("--config-dir", "-cd"):
            found.append(Path(value if equals else next(items, "")))
    return [folder for folder in found if folder.is_dir()]


def own_folders() -> list[Path]:
    """Folders with the user's own options: $LTX2_CONFIG_DIR and ./ltx2_configs, if they exist."""
    named = [os.environ.get("LTX2_CONFIG_DIR", ""), "ltx2_configs"]
    return [Path(name).expanduser().resolve() for name in named if name and Path(name).is_dir()]


def config_folders(arguments: list[str]) -> list[Path]:
    """All folders that groups and options are found in."""
    from ltx2.pipelines.catalogue import conf_folder

    return [conf_folder(), *extra_folders(arguments), *own_folders()]


def describe_option(conf: Path, group: str, option: str) -> str:
    """The first comment line of an option's file that is not its package header."""
    for line in (conf / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ")
    return ""


def defaults(conf: Path) -> dict[str, str]:
    """The option chosen for each group when none is given; lists as written."""
    chosen = {}
    for line in (conf / "config.yaml").read_text(encoding="utf-8").splitlines():
        group, colon, option = line.removeprefix("  - ").partition(": ")
        if line.startswith("  - ") and colon:
            chosen[group] = option.strip().strip('"')
        if not line.strip():
            break
    return chosen
