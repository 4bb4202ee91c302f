"""Prompts on the command line: quoted here, since Hydra's grammar misreads most sentences."""

from __future__ import annotations

import re
from pathlib import Path

from ltx2.errors import UserError

_PROMPTS_FILE = "--prompts-file"
_OPTIONS = {"--prompt": "prompt", "--negative-prompt": "negative_prompt"}


def quote(text: str) -> str:
    """`text` as a value in Hydra's override grammar that composes to exactly `text`.

    Raises UserError for the one text that cannot be written: `???`, OmegaConf's missing value.
    """
    if text == "???":
        raise UserError("the prompt '???' is reserved by the config language; add a word to it")
    # An interpolation starts at ${ unless a backslash precedes; earlier backslashes then count.
    text = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", text)
    # Only backslashes directly before a quote or the end are escapes inside single quotes.
    text = re.sub(r"(\\+)(?='|\Z)", lambda m: m[1] * 2, text)
    return "'" + text.replace("'", r"\'") + "'"


def prompt_file_jobs(arguments: list[str]) -> list[list[str]] | None:
    """The argument lists of the jobs that `--prompts-file FILE` asks for; None without it.

    Each entry of the file is a job of its own: its prompt and overrides follow the other
    arguments, so that they win.
    """
    rest: list[str] = []
    files: list[str] = []
    items = iter(arguments)
    for item in items:
        name, equals, value = item.partition("=")
        if name != _PROMPTS_FILE:
            rest.append(item)
            continue
        path = value if equals else next(items, None)
        if path is None:
            raise UserError(f"{_PROMPTS_FILE} needs a file, as in {_PROMPTS_FILE} prompts.txt")
        files.append(path)
    if not files:
        return None
    if len(files) > 1 or any(item.partition("=")[0] in ("--prompt", "prompt") for item in rest):
        raise UserError(f"{_PROMPTS_FILE} gives the prompts; give it once and no other prompt")
    from ltx2.pipelines.prompts import read_prompts

    jobs = []
    for entry in read_prompts(Path(files[0])):
        own = [f"{key}={_value(value)}" for key, value in entry.overrides.items()]
        kept = [item for item in rest if item.partition("=")[0] not in entry.overrides]
        jobs.append([*kept, f"prompt={quote(entry.prompt)}", *own])
    return jobs


def _value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, list):
        return "[" + ",".join(_value(item) for item in value) + "]"
    return quote(value) if isinstance(value, str) else str(value)


def quote_prompts(arguments: list[str]) -> list[str]:
    """Arguments with `--prompt TEXT` and `--negative-prompt TEXT` turned into overrides.

    Several prompts become a sweep, which needs -m: it is added.
    """
    rest: list[str] = []
    texts: dict[str, list[str]] = {}
    items = iter(arguments)
    for item in items:
        name, equals, value = item.partition("=")
        if name not in _OPTIONS:
            rest.append(item)
            continue
        text = value if equals else next(items, None)
        if text is None:
            raise UserError(f"{name} needs a text, as in {name} 'a calm sea at dawn'")
        texts.setdefault(_OPTIONS[name], []).append(text)
    negatives = texts.get("negative_prompt", [])
    if len(negatives) > 1:
        raise UserError(f"--negative-prompt is given {len(negatives)} times; keep one")
    rest += [f"{key}={','.join(map(quote, values))}" for key, values in texts.items()]
    if len(texts.get("prompt", [])) > 1 and not {"-m", "--multirun"} & set(rest):
        if "--cfg" in rest or "-c" in rest:
            raise UserError("--cfg shows one job; give one --prompt")
        rest.append("-m")
    return rest
