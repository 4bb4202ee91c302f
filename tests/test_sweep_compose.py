"""Composing many cells: the same settings as Hydra's, identities, and refusals before any run."""

from __future__ import annotations

import dataclasses

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import open_dict

from ltx2.app.cells import Composer, composed, once_each, refuse, table_choices, typed_items
from ltx2.app.compose import compose
from ltx2.app.main import check_settings
from ltx2.app.overrides import with_free_keys
from ltx2.app.schema import register_schema, settings_of
from ltx2.errors import UserError
from ltx2.experiment.cell import cell_id
from ltx2.experiment.sweep.grid import Axis, Choice
from ltx2.pipelines.catalogue import conf_folder

CELLS = [
    [],
    ["seed=3"],
    ["pipeline=distilled", "seed=3", "height=64"],
    ["pipeline=distilled", "seed=4", "height=96", "prompt='a, [b] c'"],
    ["experiment=[pocket_one_stage]", "frames=9"],
    ["experiment=[exact,hires]", "tiling=spatial", "tiling.height=128"],
    ["lora=[user]", "lora.user.file=x", "lora.user.schedule={0.9:1.0,0.4:0.5}"],
    ["lora=[user]", "lora.user.file=y", "lora.user.strength=0.5"],
    ["+lora@lora.mine=user", "lora.mine.file=z"],
    ["backend=mlx"],
    ["backend=torch", "backend.attention=chunked"],
    ["scheduler.sigmas=[1.0,0.5,0.0]"],
    ["scheduler.sigmas=${schedules.stage2}", "schedules.stage2=[0.5,0.0]"],
    ["guidance=cfg", "guidance.video.by_sigma={0.5:{cfg:2.0}}", "output=gif"],
]


@pytest.fixture
def composer():
    register_schema()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", ["hydra/launcher=basic"], RunMode.MULTIRUN)
        made = Composer(loader, master)
        made.loader, made.master = loader, master
        yield made
    GlobalHydra.instance().hydra = before


def hydras(composer, overrides):
    """What Hydra's own sweep composes."""
    config = composer.loader.load_sweep_config(composer.master, with_free_keys(overrides))
    with open_dict(config):
        del config["hydra"]
    return settings_of(config)


def test_cells_are_composed_as_hydra_would(composer):
    for overrides in CELLS:
        composer.settings(overrides)
    for overrides in CELLS:  # from the bases of the first time
        assert composer.settings(overrides) == hydras(composer, overrides), overrides


def test_cells_of_one_choice_of_files_do_not_change_one_another(composer):
    first = composer.settings(["seed=1", "schedules.stage2=[0.5,0.0]"])
    second = composer.settings(["seed=2"])
    assert (first.seed, second.seed) == (1, 2)
    assert second.schedules["stage2"][0] == 0.909375


def test_a_wrong_override_raises_what_hydra_raises(composer):
    for wrong in (["seed=x"], ["sede=1"], ["model=no"], ["lora.user.file=x"]):
        with pytest.raises(Exception) as own:
            composer.settings(wrong)
        with pytest.raises(Exception) as other:
            hydras(composer, wrong)
        assert type(own.value) is type(other.value) and str(own.value) == str(other.value)


def test_a_cells_identity_is_what_its_result_depends_on():
    base = compose(["pipeline=one_stage"])
    same = ["paths.outputs=x", "cache=off", "preview.every=2", "debug=true", "keep_loaded=false",
            "sweep.name=x"]  # fmt: skip
    for override in same:
        assert cell_id(compose(["pipeline=one_stage", override])) == cell_id(base), override
    other = ["seed=11", "prompt=x", "output=gif", "dtype=fp32", "guidance.video.cfg=2", "fps=12",
             "backend.device=cpu", "output.crf=20", "checks=off"]  # fmt: skip
    ids = {cell_id(compose(["pipeline=one_stage", override])) for override in other}
    assert len(ids | {cell_id(base)}) == len(other) + 1
    assert len(cell_id(base)) == 12 and int(cell_id(base), 16) >= 0


def test_a_cells_identity_survives_tables_with_numbers_as_keys():
    loras = ["lora=user", "lora.user.file=x", "lora.user.schedule={0.9:1.0,0.4:0.5}"]
    plain = dataclasses.replace(compose(loras))
    plain.lora["user"].schedule[0] = 1.0
    assert cell_id(plain) != cell_id(compose(loras))


def test_every_form_of_hydras_lists_is_an_axis(composer):
    typed = ["fps=8", "seed=1,2", "width=range(64,129,32)", "height=choice(64,96)",
             "prompt='a, b','it\\'s'", "pipeline=glob(one*)", "sweep.name=x",
             "lora=[],[user]"]  # fmt: skip
    items = typed_items(composer, typed)
    assert items[0] == "fps=8" and "sweep.name=x" not in items
    axes = {item.key: item for item in items if isinstance(item, Axis)}
    assert axes["seed"].overrides == ("seed=1", "seed=2")
    assert axes["width"].shown == ("64", "96", "128")
    assert axes["prompt"].shown == ("a, b", "it's")
    assert axes["pipeline"].shown == ("one_stage",)
    assert axes["lora"].overrides == ("lora=[]", "lora=[user]")
    assert composer.settings(axes["prompt"].overrides[1:]).prompt == "it's"


@pytest.mark.parametrize("text", ["sweep.name=a,b", "paths.outputs=a,b", "debug=true,false"])
def test_what_belongs_to_the_whole_sweep_is_not_swept(composer, text):
    with pytest.raises(UserError, match=f"{text.partition('=')[0]} belongs to the whole sweep"):
        typed_items(composer, [text])


def test_an_interval_needs_a_search(composer):
    with pytest.raises(UserError, match=r"seed=interval\(1,3\) has no list of values"):
        typed_items(composer, ["seed=interval(1,3)"])


def test_tables_become_overrides_that_compose_to_their_values(composer, tmp_path):
    path = tmp_path / "cells.yaml"
    path.write_text('- {prompt: "it\'s ${a}, b", seed: 3}\n- {model: pocket, snap: true}\n')
    first, second = table_choices(str(path))
    assert first.values == {"prompt": "it's ${a}, b", "seed": "3"}
    made = composer.settings(first.overrides)
    assert (made.prompt, made.seed) == ("it's ${a}, b", 3)
    assert composer.settings(second.overrides).snap is True


def test_an_option_that_a_cells_pipeline_does_not_read_is_refused_with_the_cell(composer):
    grid = [
        Choice((f"pipeline={name}", "scheduler.steps=4"), {"pipeline": name})
        for name in ("one_stage", "distilled", "two_stage")
    ]
    cells, refused = composed(composer, grid, check_settings)
    assert [cell.index for cell in cells] == [0, 2]
    line = r"cell 1 \(pipeline=distilled\): scheduler.steps has no effect: the 9 given sigmas"
    with pytest.raises(UserError, match=line):
        refuse(refused, len(grid))


def test_a_mistake_of_all_cells_is_not_blamed_on_one(composer):
    grid = [Choice((f"seed={i}", "sampler.eta=0.1"), {"seed": str(i)}) for i in range(3)]
    _, refused = composed(composer, grid, check_settings)
    with pytest.raises(UserError, match=r"^sampler\.eta has no effect"):
        refuse(refused, len(grid))


def test_cells_that_repeat_others_run_once(composer, caplog):
    grid = [Choice((f"seed={seed}",), {"seed": seed}) for seed in ("1", "2", "1")]
    cells, _ = composed(composer, grid, check_settings)
    assert [cell.index for cell in once_each(cells)] == [0, 1]
    assert "1 of 3 cells repeat others and are run once (cell 2 is 0)" in caplog.text
