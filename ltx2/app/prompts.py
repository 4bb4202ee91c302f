"""Prompts on the command line: quoted here, since Hydra's grammar misreads most sentences."""

from __future__ import annotations

import re
from pathlib import Path

from ltx2.errors import UserError

_PROMPTS_FILE = "--prompts-file"
_OPTIONS = {"--prompt": "prompt", "--negative-prompt": "negative_prompt"}
_EXAMPLES = dict.fromkeys(_OPTIONS, "a text, as in --prompt 'a calm sea at dawn'") | {
    _PROMPTS_FILE: f"a file, as in {_PROMPTS_FILE} prompts.txt"
}


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


def override(key: str, value: object) -> str:
    """`KEY=VALUE` in Hydra's grammar for a plain value such as one read from YAML."""
    return f"{key}={_value(value)}"


def _value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, list):
        return "[" + ",".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_value(item)}" for key, item in value.items()) + "}"
    return quote(value) if isinstance(value, str) else str(value)


def quote_prompts(arguments: list[str]) -> list[str]:
    """Arguments with prompts turned into overrides that Hydra reads as they were meant.

    Several prompts become a sweep, which needs -m: it is added. `--prompts-file FILE` is the
    sweep over the file's entries, sweep.cells=FILE.
    """
    rest, given = _prompt_options(arguments)
    files = given.pop(_PROMPTS_FILE, [])
    named = {item.partition("=")[0] for item in rest}
    if len(files) > 1 or (files and ("--prompt" in given or "prompt" in named)):
        raise UserError(f"{_PROMPTS_FILE} gives the prompts; give it once and no other prompt")
    if files and "sweep.cells" in named:
        raise UserError(f"{_PROMPTS_FILE} and sweep.cells both list cells; keep one")
    negatives = given.get("--negative-prompt", [])
    if len(negatives) > 1:
        raise UserError(f"--negative-prompt is given {len(negatives)} times; keep one")
    rest += [f"{_OPTIONS[name]}={','.join(map(quote, texts))}" for name, texts in given.items()]
    rest += [f"sweep.cells={quote(path)}" for path in files]
    several = files or len(given.get("--prompt", [])) > 1
    if several and not {"-m", "--multirun"} & set(rest):
        if "--cfg" in rest or "-c" in rest:
            raise UserError("--cfg shows one job; give one --prompt")
        rest.append("-m")
    return rest


def _prompt_options(arguments: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The other arguments, and what was given with each of the options."""
    rest: list[str] = []
    given: dict[str, list[str]] = {}
    items = iter(arguments)
    for item in items:
        name, equals, value = item.partition("=")
        if name not in (*_OPTIONS, _PROMPTS_FILE):
            rest.append(item)
            continue
        text = value if equals else next(items, None)
        if text is None:
            raise UserError(f"{name} needs {_EXAMPLES[name]}")
        given.setdefault(name, []).append(text)
    return rest, given


def check_prompts_file(arguments: list[str]) -> None:
    """Raise UserError for a file of --prompts-file with an entry that is no prompt."""
    from ltx2.pipelines.prompts import read_prompts

    for path in _prompt_options(arguments)[1].get(_PROMPTS_FILE, []):
        read_prompts(Path(path))
