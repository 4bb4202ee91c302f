"""`ltx2 rerun`: a run made again from its record, with overrides on top."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ltx2.app.overrides import overrides_last, overrides_of, with_free_keys, with_lora_entries
from ltx2.app.prompts import quote_prompts
from ltx2.errors import UserError
from ltx2.experiment.reproduce import (
    Run,
    environment_lines,
    load_run,
    other_weights,
    repeatable,
)
from ltx2.pipelines.catalogue import conf_folder

if TYPE_CHECKING:
    from ltx2.app.schema import Root

PRIMARY, OPTION = "ltx2_recorded", "recorded"
_REFERENCE = re.compile(r"(\\*)\$\{")


def main(arguments: list[str]) -> int:
    """Run `ltx2 rerun SOURCE [overrides]`; the exit code of the run."""
    parser = argparse.ArgumentParser(
        prog="ltx2 rerun",
        description=__doc__,
        allow_abbrev=False,
        epilog="Overrides are those of a run, such as seed=3 sampler=res_2s --prompt TEXT; a group"
        " replaces what was recorded for it, lora=[recorded,user] keeps that and adds to it.",
    )
    parser.add_argument("source", help="a clip with its record inside, or the folder of a run")
    parser.add_argument("--force", action="store_true", help="also with other weights")
    options, overrides = parser.parse_known_args(arguments)
    run = load_run(options.source)
    register(repeatable(run))
    for line in check(run, overrides, options.force):
        sys.stderr.write(f"warning: {line}\n")
    from ltx2.app.main import launch

    return launch([f"--config-name={PRIMARY}", *overrides], ("rerun", *arguments))


def register(settings: dict[str, Any]) -> None:
    """Make the recorded settings a primary config: each group has an option `recorded`.

    So an override of a group, also one that another option makes, replaces it as ever.
    """
    import yaml
    from hydra.core.config_store import ConfigStore

    from ltx2.app.schema import register_schema

    register_schema()
    store = ConfigStore.instance()
    content = yaml.safe_load((conf_folder() / "config.yaml").read_text(encoding="utf-8"))
    defaults, groups = [], []
    for entry in content.pop("defaults"):
        group, option = next(iter(entry.items())) if isinstance(entry, dict) else (entry, None)
        if isinstance(entry, dict) and group in settings:
            groups.append(group)
            option = [OPTION] if isinstance(option, list) else OPTION
            store.store(group=group, name=OPTION, node=_option(group, settings[group]))
        defaults.append(entry if option is None else {group: option})
    own = {key: value for key, value in settings.items() if key not in groups}
    merged = content | _literal(own)
    store.store(name=PRIMARY, node={"defaults": defaults, **merged})


def _option(group: str, node: Any) -> dict[str, Any]:
    values: dict[str, Any] = _literal(node)
    if group == "backend":
        name = "mlx" if str(values["_target_"]).endswith("MlxBackend") else "torch"
        return {"defaults": [f"/schema/backend/{name}@_here_", "_self_"], **values}
    if group == "paths":
        return {"defaults": ["default", "_self_"], **values}
    return values


def _literal(value: Any) -> Any:
    """`value` with texts that look like references protected: they are prompts and paths."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: 2 * found[1] + r"\${", value)
    return value


def check(run: Run, overrides: list[str], force: bool) -> list[str]:
    """What here is not as it was in the run; UserError for other weights unless `force`."""
    from ltx2.app.build import build
    from ltx2.experiment.record import versions, weights_record
    from ltx2.experiment.run import component_dtypes
    from ltx2.pipelines.planning import make_plan

    settings = _composed_or_recorded(overrides)
    with _warnings_held():  # the run will say them
        plan = make_plan(settings)
        backend = build(settings.backend)
    weights = weights_record(plan)
    lines = other_weights(run.record, weights, _chosen(run, settings))
    if lines and not force:
        more = f" (and {len(lines) - 1} more files)" if len(lines) > 1 else ""
        raise UserError(f"{lines[0]}{more}; --force runs with what is here")
    here = {
        "versions": versions(),
        "device": backend.describe(),
        "dtypes": component_dtypes(plan.settings, backend),
    }
    return lines + (environment_lines(run.record, here) if run.record else [])


def _chosen(run: Run, settings: Root) -> list[str]:
    """Roles of weight files that the overrides replaced."""
    assert run.settings is not None
    before = run.settings.get("model", {}).get("files", {})
    roles = [
        role
        for role, file in settings.model.files.items()
        if (before.get(role) or {}).get("file") != file.file
    ]
    loras = run.settings.get("lora", {})
    roles += [
        f"lora.{name}"
        for name, lora in settings.lora.items()
        if (loras.get(name) or {}).get("file") != lora.file
    ]
    return roles


def _composed_or_recorded(overrides: list[str]) -> Root:
    """The settings with `overrides`; without them for a sweep, and where they are wrong.

    The launcher then says what is wrong with them.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    written = overrides_last(quote_prompts(overrides))
    wrong = (HydraException, OmegaConfBaseException, ValueError, OSError)
    if overrides and not {"-m", "--multirun"} & set(written):
        with contextlib.suppress(*wrong):
            return _composed(overrides_of(written))
    try:
        return _composed([])
    except wrong as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the record does not fit this version of ltx2: {reason}") from None


def _composed(overrides: list[str]) -> Root:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from ltx2.app.schema import settings_of

    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            written = with_free_keys(with_lora_entries(overrides))
            return settings_of(hydra.compose(PRIMARY, overrides=written))
    finally:
        GlobalHydra.instance().hydra = before


@contextlib.contextmanager
def _warnings_held() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
