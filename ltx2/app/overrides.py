"""Command-line overrides: refused early, or explained when composition failed, in one line."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ltx2.app.training import is_training, variant
from ltx2.errors import UserError, nearest

_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list such as [a,b]",
    dict: "a group of keys",
}

# Tables without fixed keys, such as `lora.user.schedule={0.9: 1.0, 0.4: 0.5}`.
_TABLES = {
    "stages": "{base:1.0,refine:0.5}",
    "schedule": "{0.9:1.0,0.4:0.5}",
    "by_sigma": "{0.5:{cfg:2.0}}",
}
# Groups of which several options, or none, may be chosen.
SEVERAL = ("lora", "conditioning", "metrics", "logger", "experiment")
_FREE = re.compile(r"(lora\.\w+\.(stages|schedule)|guidance\.\w+\.by_sigma)[.=]")

# Hydra's own, without --experimental-rerun, which ignores everything else on the command line.
_OPTIONS = (
    "--hydra-help", "--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i",
    "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc",
    "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
)  # fmt: skip


def overrides_of(arguments: list[str]) -> list[str]:
    """The KEY=VALUE arguments and deletions, without Hydra's own options and hydra.* keys."""
    found = [text for text in arguments if _is_override(text)]
    return [text for text in found if not key_of(text).startswith("hydra")]


def overrides_last(arguments: list[str]) -> list[str]:
    """Hydra's options before all overrides: its parser takes overrides from one place only."""
    return sorted(arguments, key=_is_override)


def _is_override(text: str) -> bool:
    return text.startswith("~") or ("=" in text and not text.startswith("-"))


def key_of(text: str) -> str:
    """The dotted key or group of an override: `lora` of `+lora@lora.second=user`."""
    return text.partition("=")[0].lstrip("+~").partition("@")[0].strip()


def with_lora_entries(overrides: list[str]) -> list[str]:
    """`+lora.NAME.KEY=VALUE` as an entry NAME made from lora=user, and the key set in it."""
    chosen = set(_chosen("lora", overrides))
    added: list[str] = []
    result = []
    for text in overrides:
        parts = key_of(text).split(".")
        is_new = text.startswith("+lora.") and len(parts) == 3 and parts[1] not in chosen
        if is_new and parts[1] not in added:
            added.append(parts[1])
        result.append(text.removeprefix("+") if is_new else text)
    return [*result, *(f"+lora@lora.{name}=user" for name in added)]


def with_free_keys(arguments: list[str]) -> list[str]:
    """Overrides of tables whose keys are the user's, as Hydra wants them: `++KEY=VALUE`."""
    return [f"++{text}" if _FREE.match(text) else text for text in arguments]


def check_options(arguments: list[str]) -> None:
    """Refuse an unknown --option; Hydra's parser would print its whole usage."""
    for text in arguments:
        name = text.partition("=")[0]
        if name.startswith("-") and name not in _OPTIONS:
            hint = nearest(name, [*_OPTIONS, "--prompt", "--negative-prompt"])
            raise UserError(f"{name} is no option{hint}; see --help")


def check_overrides(overrides: list[str], known: dict[str, list[str]]) -> None:
    """Refuse what Hydra would accept and then ignore: deletions, repetitions, unknown + keys."""
    for text in overrides:
        if text.startswith("~"):
            raise UserError(
                f"{text}: nothing can be removed; choose another option, or [] for lists"
            )
    for key, count in Counter(text.partition("=")[0].lstrip("+") for text in overrides).items():
        if count > 1:
            raise UserError(f"{key} is given {count} times; keep one")
    for text in overrides:
        if text.startswith("+") and key_of(text) not in known:
            raise UserError(_added(key_of(text), known, overrides))


def _added(key: str, known: dict[str, list[str]], overrides: list[str]) -> str:
    parts = key.split(".")
    exists = f"{key} exists already; write {key}=VALUE without +"
    if len(parts) > 1 and parts[1] in _chosen(parts[0], overrides):
        return exists
    if len(parts) > 1 and parts[0] in ("lora", "conditioning"):
        option = {"lora": "user", "conditioning": "image"}[parts[0]]
        name = f"{parts[0]}.{parts[1]}"
        return f"{key}: add an entry with +{parts[0]}@{name}={option}, then set {name}.*"
    problem = _key_problem(key, known, overrides)
    return problem or exists


def explain(error: Exception, overrides: list[str], known: dict[str, list[str]]) -> str | None:
    """`error: ...` for an exception of Hydra's composition; None when it is none of these."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, OverrideParseException):
        return f"error: {_unreadable(error.override)}"
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        where = f"'{error.filename}'" if error.filename else "the run's folder"
        return (
            f"error: cannot create {where}: {error.strerror}; set paths.outputs to another folder"
        )
    if not isinstance(error, (HydraException, OmegaConfBaseException, ValueError)):
        return None
    for text in overrides:
        problem = _ambiguous(text, error) or _override_problem(text, known, overrides)
        if problem is not None:
            return f"error: {problem}"
    problem = _value_problem(error, overrides) or _file_problem(error) or _compact(error)
    return f"error: {problem}"


def _unreadable(text: str) -> str:
    key, equals, _ = text.partition("=")
    if not equals:
        return f"'{text}' is not KEY=VALUE; see --help, and give a prompt as --prompt '{text}'"
    if key in ("prompt", "negative_prompt"):
        option = "--" + key.replace("_", "-")
        return f"{key} has characters the override grammar reads otherwise; use {option} 'TEXT'"
    return f"'{text}' cannot be read; quote the value, as in \"{key}='VALUE'\""


def _ambiguous(text: str, error: Exception) -> str | None:
    key, _, value = text.partition("=")
    if f"'{text}'" not in str(error) or "multirun" not in str(error):
        return None
    if key in ("prompt", "negative_prompt"):
        return f"{key}={value} reads as a sweep; use --{key.replace('_', '-')} 'TEXT' for one text"
    return f"{text} reads as a sweep; add -m to run every value, or write a list as {key}=[{value}]"


def _override_problem(text: str, known: dict[str, list[str]], overrides: list[str]) -> str | None:
    key, value = key_of(text), text.partition("=")[2]
    if key in known:
        return _option_problem(key, value, known[key])
    return _key_problem(key, known, overrides)


def _option_problem(group: str, value: str, options: list[str]) -> str | None:
    if value in ("null", ""):
        several = ", or [] for none" if group in SEVERAL else ""
        return f"{group}={value} chooses nothing; use {', '.join(options)}{several}"
    names = [] if "(" in value else value.split(",")  # glob(...) and choice(...) are Hydra's
    for name in (name.strip(" []'\"") for name in names):
        if name and name not in options:
            return f"{group}={name} is unknown{nearest(name, options)}; use {', '.join(options)}"
    return None


def _key_problem(key: str, known: dict[str, list[str]], overrides: list[str]) -> str | None:
    """What is wrong with a dotted key, or None when the schema has it."""
    kind: Any = _root(overrides)
    done: list[str] = []
    for part in key.split("."):
        if len(done) == 1:
            kind = _chosen_schema(done[0], overrides) or kind
        kind = _unwrapped(kind)
        if typing.get_origin(kind) is dict:
            problem = _entry_problem(done, part, known, overrides)
            if problem is not None:
                return problem
            if done in (["metrics"], ["logger"]):
                return _object_problem(key, overrides)
            kind = typing.get_args(kind)[1]
        elif dataclasses.is_dataclass(kind):
            names = typing.get_type_hints(kind)
            if part not in names:
                return _unknown(done, part, list(names), known)
            kind = names[part]
        elif kind is Any or typing.get_origin(kind) is list:
            return None
        else:
            return f"{key}: {'.'.join(done)} is a single value without keys below it"
        done.append(part)
    return None


def _object_problem(key: str, overrides: list[str]) -> str | None:
    """A key that a metric or logger does not take; its option's file lists those it takes."""
    group, entry, *rest = key.split(".")
    tables = [_table(group, option, entry) for option in _chosen(group, overrides)]
    keys = sorted({name for table in tables for name in table or ()})
    if not rest or rest[0] in keys:
        return None
    if not keys:
        return f"{group}.{entry} has no keys of its own; drop {key}"
    return f"{group}.{entry} has no key '{rest[0]}'{nearest(rest[0], keys)}; use {', '.join(keys)}"


def _table(group: str, option: str, entry: str) -> list[str] | None:
    """Keys of `entry` in the file of an option, which may be a bundle; None if it is not there."""
    from yaml import safe_load

    from ltx2.app.groups import config_folders

    for folder in config_folders([]):
        path = folder / group / f"{option}.yaml"
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            content = safe_load(text) or {}
            bundle = text.startswith(f"# @package {group}\n")
            table = content.get(entry) if bundle else content if option == entry else None
            return None if table is None else [k for k in table if not k.startswith("_")]
    return None


def _unwrapped(kind: Any) -> Any:
    """X of `X | None`."""
    if kind is Any or typing.get_origin(kind) in (dict, list):
        return kind
    given = [item for item in typing.get_args(kind) if item is not type(None)]
    return given[0] if given else kind


def _root(overrides: list[str]) -> Any:
    """The schema of the task."""
    if is_training(overrides):
        from ltx2.training.settings import TrainRoot

        return TrainRoot
    from ltx2.app.schema import Root

    return Root


def _chosen_schema(group: str, overrides: list[str]) -> Any:
    """The schema of the group's chosen option, where options differ in keys; else None."""
    if is_training(overrides):
        return variant(group, overrides)
    from ltx2.app.schema import MlxSettings, TorchSettings

    if group != "backend":
        return None
    return MlxSettings if "backend=mlx" in overrides else TorchSettings


def _entry_problem(
    done: list[str], name: str, known: dict[str, list[str]], overrides: list[str]
) -> str | None:
    """Entries of multi-select groups exist only when their option is chosen."""
    if done not in (["lora"], ["conditioning"], ["metrics"], ["logger"]):
        return None
    group = done[0]
    chosen = list(_chosen(group, overrides))
    if name in chosen or any(_table(group, option, name) is not None for option in chosen):
        return None
    if chosen:
        return (
            f"{group}.{name}: no entry '{name}'{nearest(name, chosen)}; chosen: {', '.join(chosen)}"
        )
    option = name if name in known.get(group, []) else known[group][-1]
    return f"{group}.{name}: no entry '{name}'; choose one first, as {group}={option}"


def _chosen(group: str, overrides: list[str]) -> Iterator[str]:
    for text in overrides:
        name, _, value = text.lstrip("+").partition("=")
        if name == group:
            yield from (item.strip(" []'\"") for item in value.split(",") if item.strip(" []"))
        elif name.startswith(f"{group}@{group}."):
            yield name.removeprefix(f"{group}@{group}.")


def _unknown(done: list[str], part: str, names: list[str], known: dict[str, list[str]]) -> str:
    prefix = "".join(f"{item}." for item in done)
    names = [name for name in names if name != "_target_"]
    if not done:
        names = sorted({*names, *known})
        return f"'{part}' is no key or group{nearest(part, names)}; --help lists them"
    where = f"in '{'.'.join(done)}'"
    if done == ["backend"]:
        where = "of backend=" + ("torch" if "attention" in names else "mlx")
    return f"'{prefix}{part}' is no key {where}{nearest(part, names)}; use {', '.join(names)}"


def _value_problem(error: Exception, overrides: list[str]) -> str | None:
    """The expected type, when the schema refused the value of an override."""
    lines = str(error).splitlines() or [""]
    text = lines[0].removeprefix("Error merging override ")
    if text == lines[0]:
        return None
    key, _, value = text.lstrip("+").partition("=")
    example = _TABLES.get(key.rpartition(".")[2])
    kind = f"a table such as {example}" if example else expected_type(key, overrides)
    return f"{key}={value} is not {kind}"


def expected_type(key: str, overrides: list[str]) -> str:
    """What a dotted key takes, in words."""
    kind: Any = _root(overrides)
    optional = False
    for place, part in enumerate(key.replace("[", ".").replace("]", "").split(".")):
        if place == 1 and is_training(overrides):
            kind = variant(key.partition(".")[0], overrides) or kind
        if typing.get_origin(kind) in (dict, list):
            kind = typing.get_args(kind)[-1]
        else:
            kind = typing.get_type_hints(kind).get(part, str)
        optional = kind != _unwrapped(kind)
        kind = _unwrapped(kind)
    words = _EXPECTED.get(typing.get_origin(kind) or kind, "a group of keys")
    if typing.get_args(kind) == (float,):
        words = "a list of numbers such as [1.0,0.5]"
    return f"{words} or null" if optional else words


def _file_problem(error: Exception) -> str | None:
    """A mistake in a config file: Hydra names the file, OmegaConf the key."""
    lines = str(error).splitlines()
    if not lines or not lines[0].startswith("In '"):
        return None
    where, _, told = lines[0].partition(":")
    if "Could not find" in told:
        names = [line.strip() for line in lines[1:] if line.startswith("\t")]
        options = ", ".join(name for name in names if "=" not in name)
        return f"{told.strip()}; use {options}" if options else told.strip()
    return f"{where.replace('In ', 'in config file ')}: {_detail(lines[1:])}"


def _detail(lines: list[str]) -> str:
    key = next((t.split(":")[1].strip() for t in lines if t.strip().startswith("full_key:")), "")
    told = lines[0] if lines else "it cannot be composed"
    return f"{told} (key {key})" if key else told


def _compact(error: Exception) -> str:
    """Hydra's and OmegaConf's first lines as one."""
    told = [str(link).strip().splitlines() for link in (error, error.__cause__) if link is not None]
    return ": ".join(lines[0] for lines in told if lines) or type(error).__name__
