"""Cells of a sweep as composed settings: what was typed, Hydra's composition, the checks.

Composing takes Hydra 0.2 s, nearly all of it for choosing files. So it is done once for every
distinct set of group choices; the other overrides are applied to a copy, by Hydra's own function.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ltx2.app.overrides import key_of, with_free_keys, with_lora_entries
from ltx2.app.prompts import override
from ltx2.app.schema import settings_of
from ltx2.errors import UserError
from ltx2.experiment.cell import cell_id
from ltx2.experiment.sweep.cells_file import read_cells
from ltx2.experiment.sweep.grid import Axis, Choice
from ltx2.experiment.sweep.plan import Cell

if TYPE_CHECKING:
    from ltx2.app.schema import Root

log = logging.getLogger(__name__)

# Keys that belong to the sweep as a whole.
_WHOLE = ("sweep", "paths.outputs", "plan", "debug", "debug_dtypes")
Check = Callable[["Root", Sequence[str]], None]


class Composer:
    """Settings from overrides, as `loader` would compose them below `master`."""

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._hydra = [str(text) for text in _plain(master.hydra.overrides.hydra)]
        name, hydra = master.hydra.job.config_name, self._hydra
        _, self._repository = loader._parse_overrides_and_create_caching_repo(name, hydra)

    def settings(self, overrides: Sequence[str]) -> Root:
        """The settings for `overrides`, which hold no sweep. Raises Hydra's own errors."""
        parsed = [self.parse(text) for text in with_free_keys(list(overrides))]
        groups = [item for item in parsed if self._chooses(item)]
        values = [item for item in parsed if not self._chooses(item)]
        config = copy.deepcopy(self._base(tuple(str(item.input_line) for item in groups)))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return settings_of(config)

    def parse(self, text: str) -> Override:
        """An override read once."""
        if text not in self._parsed:
            [self._parsed[text]] = self._parser.parse_overrides([text])
        return self._parsed[text]

    def _chooses(self, item: Override) -> bool:
        """Whether an override chooses files of a group rather than setting a value."""
        exists = self._repository.group_exists(item.key_or_group)
        return exists and not isinstance(item.value(), dict)

    def _base(self, groups: tuple[str, ...]) -> DictConfig:
        if groups not in self._bases:
            config = self._loader.load_configuration(
                config_name=self._master.hydra.job.config_name,
                overrides=[*self._hydra, *groups],
                run_mode=RunMode.RUN,
            )
            with open_dict(config):
                del config["hydra"]
            self._bases[groups] = config
        return self._bases[groups]


def _plain(node: Any) -> list[Any]:
    found = OmegaConf.to_container(node, resolve=False)
    assert isinstance(found, list)
    return found


def typed_items(composer: Composer, overrides: Sequence[str]) -> list[str | Axis]:
    """The overrides of a command line, lists of values as axes; those of `sweep` are left out.

    Raises UserError for a list of values of a key that belongs to the whole sweep.
    """
    items: list[str | Axis] = []
    for text in overrides:
        parsed = composer.parse(text)
        key = key_of(text)
        whole = any(key == name or key.startswith(f"{name}.") for name in _WHOLE)
        if not parsed.is_sweep_override():
            if not key.startswith("sweep."):
                items.append(text)
        elif whole:
            raise UserError(f"{key} belongs to the whole sweep; give it one value")
        elif not parsed.is_discrete_sweep():
            raise UserError(f"{text} has no list of values; set sweep.optimize.trials to search it")
        else:
            items.append(_axis(parsed))
    return items


def grid_overrides(grid: Mapping[str, Any], typed: Sequence[str]) -> list[str]:
    """sweep.grid as overrides with lists of values; what was typed for a key replaces it."""
    given = {text.partition("=")[0].lstrip("+") for text in typed}
    found = []
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"sweep.grid: {key} is not a list of values such as [1,2,3]")
        if key not in given:
            texts = [override(key, value).removeprefix(f"{key}=") for value in values]
            found.append(f"{key}={','.join(texts)}")
    return found


def _axis(parsed: Override) -> Axis:
    key = parsed.get_key_element()
    texts = tuple(f"{key}={value}" for value in parsed.sweep_string_iterator())
    if not texts:
        raise UserError(f"{parsed.input_line} has no values")
    shown = [_shown(value) for value in parsed.sweep_iterator()]
    return Axis(key.lstrip("+"), texts, tuple(shown))


def _shown(value: Any) -> str:
    if isinstance(value, QuotedString):
        return str(value.text)
    return Override._get_value_element_as_str(value)


def table_choices(path: str) -> list[Choice]:
    """The cells of a file as overrides; no file: none."""
    if not path:
        return []
    found = []
    for table in read_cells(Path(path)):
        values = {key.lstrip("+"): _text(value) for key, value in table.items()}
        texts = [override(key, value) for key, value in table.items()]
        found.append(Choice(tuple(with_lora_entries(texts)), values))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else override("", value).removeprefix("=")


@dataclass(frozen=True)
class Refused:
    """A cell that cannot run, and why, in one line."""

    index: int
    choice: Choice
    reason: UserError


def composed(
    composer: Composer, choices: Sequence[Choice], check: Check, first: int = 0
) -> tuple[list[Cell], list[Refused]]:
    """Cells without folders, numbered from `first`, and those whose settings are refused."""
    cells: list[Cell] = []
    refused: list[Refused] = []
    for index, choice in enumerate(choices, first):
        try:
            settings = composer.settings(choice.overrides)
            check(settings, choice.overrides)
        except UserError as error:
            refused.append(Refused(index, choice, error))
            continue
        made = Cell(index, cell_id(settings), "", choice.overrides, choice.values, settings)
        cells.append(made)
    return cells, refused


def refuse(refused: Sequence[Refused], total: int) -> None:
    """Raise the first of the refusals, saying how many there are."""
    if not refused:
        return
    first = refused[0]
    reasons = {str(item.reason) for item in refused}
    if len(refused) == total and len(reasons) == 1:
        raise first.reason  # no value of the sweep is to blame
    text = " ".join(f"{key}={value}" for key, value in first.choice.values.items())
    more = f" ({len(refused)} of {total} cells are refused)" if len(refused) > 1 else ""
    raise UserError(f"cell {first.index} ({text}): {first.reason}{more}")


def planned(cells: Sequence[Cell]) -> tuple[list[Cell], list[Refused]]:
    """Cells with their planned cost, checked against the headers of their files."""
    if not cells:
        return [], []
    from ltx2.pipelines.cost import phase_costs
    from ltx2.pipelines.planning import make_plan

    done: list[Cell] = []
    refused: list[Refused] = []
    with _notices_later():
        for cell in cells:
            if cell.settings.task != "generate":
                done.append(cell)
                continue
            try:
                plan = make_plan(cell.settings)
            except UserError as error:
                refused.append(Refused(cell.index, Choice(cell.overrides, cell.values), error))
                continue
            calls = sum(stage.transformer_calls for stage in plan.stages)
            cost = sum(row.total for row in phase_costs(plan))
            steps = {s.name: (len(s.sigmas) - 1) * s.repeats for s in plan.stages if s.sigmas}
            done.append(replace(cell, cost=cost, calls=calls, steps=steps))
    return done, refused


@contextmanager
def _notices_later() -> Any:
    """What planning has to say is said by the run itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def once_each(cells: Sequence[Cell]) -> list[Cell]:
    """Cells without those that repeat an earlier one, which is said."""
    found: dict[str, Cell] = {}
    repeats = []
    for cell in cells:
        if cell.cell in found:
            repeats.append(f"{cell.index} is {found[cell.cell].index}")
        else:
            found[cell.cell] = cell
    if repeats:
        told = ", ".join(repeats[:3]) + (", ..." if len(repeats) > 3 else "")
        count = f"{len(repeats)} of {len(cells)} cells repeat others"
        log.warning("%s and are run once (cell %s)", count, told)
    return list(found.values())
