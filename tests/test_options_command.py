"""`ltx2 options`: every group, option and key is listed with words that help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltx2.app.commands.options import main
from ltx2.app.groups import describe_option, groups
from ltx2.errors import UserError
from ltx2.pipelines.catalogue import conf_folder

ROOT = Path(__file__).parent.parent
GROUPS = groups(conf_folder())


def test_the_overview_names_every_option(capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    for group, options in GROUPS.items():
        assert group in told and all(option in told for option in options)
    assert max(map(len, told.splitlines())) <= 100


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_lists_its_options_with_a_line_of_help_each(capsys, group):
    assert main([group]) == 0
    told = capsys.readouterr().out
    for option in GROUPS[group]:
        line = describe_option(conf_folder(), group, option)
        assert line, f"conf/{group}/{option}.yaml has no comment that says what it is"
        assert f"{option} " in told and line in told


def test_a_section_without_options_lists_its_keys(capsys):
    assert main(["sweep"]) == 0
    told = capsys.readouterr().out
    assert "max_failures" in told and "whole number or null" in told


def test_a_misspelt_group_names_the_nearest():
    with pytest.raises(UserError, match="'samplr' is no group; did you mean 'sampler'"):
        main(["samplr"])


@pytest.fixture
def own_options(tmp_path):
    """A folder with a sampler of the user's own."""
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "mine.yaml").write_text("# my own sampler\nkind: res_2s\n")
    return tmp_path


def composed(arguments, cwd, **environment):
    command = [sys.executable, str(ROOT / "launch.py"), *arguments, "--cfg", "job", "-p", "sampler"]
    given = os.environ | environment
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True)


def test_options_of_ones_own_are_found_by_variable_folder_and_argument(own_options, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    by_variable = composed(["sampler=mine"], elsewhere, LTX2_CONFIG_DIR=str(own_options))
    by_argument = composed(["sampler=mine", "--config-dir", str(own_options)], elsewhere)
    (elsewhere / "ltx2_configs").symlink_to(own_options)
    by_folder = composed(["sampler=mine"], elsewhere)
    for found in (by_variable, by_argument, by_folder):
        assert "kind: res_2s" in found.stdout, found.stderr


FOREIGN = """
import hydra
from hydra.core.plugins import Plugins
from ltx2.app.schema import register_schema
from ltx2.app.search_path import Ltx2SearchPath

Plugins.instance().register(Ltx2SearchPath)
register_schema()

@hydra.main(version_base="1.3", config_path="own", config_name="mine")
def app(config):
    print("sampler", config.sampler.kind)

app()
"""


def test_another_hydra_application_can_use_our_groups(tmp_path):
    (tmp_path / "own").mkdir()
    text = (
        "defaults:\n  - /sampler: res_2s\n  - _self_\nhydra: {output_subdir: null, run: {dir: .}}\n"
    )
    (tmp_path / "own" / "mine.yaml").write_text(text)
    (tmp_path / "app.py").write_text(FOREIGN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "app.py"]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == "sampler res_2s", found.stderr
