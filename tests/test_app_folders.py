"""Folder names, and removing only what nobody needs."""

from __future__ import annotations

import logging

import pytest

from ltx2.app.folders import remove_if_unused, run_log, stamp
from ltx2.experiment.sweep.names import SLUG_LENGTH, slug


@pytest.mark.parametrize(
    "text", ["seed=3", "a/b", "../..", "x" * 500, "prompt='it''s, ok'", "é😀", ""]
)
def test_a_slug_is_one_short_folder_name(text):
    name = slug(text)
    assert 0 < len(name) <= SLUG_LENGTH
    assert "/" not in name and not name.startswith(".")


def test_long_texts_with_the_same_beginning_get_different_names():
    assert slug("x" * 100 + "a") != slug("x" * 100 + "b")


def test_plain_overrides_stay_readable():
    assert slug("seed=3") == "seed=3"


def test_stamps_of_the_same_moment_differ():
    assert len({stamp() for _ in range(20)}) == 20


def test_a_folder_with_a_result_is_kept(tmp_path):
    folder = tmp_path / "day" / "time"
    folder.mkdir(parents=True)
    (folder / "run.log").touch()
    (folder / "video.mp4").touch()
    remove_if_unused(folder, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["run.log", "video.mp4"]


def test_an_unused_folder_goes_with_its_empty_parents_but_not_the_root(tmp_path):
    folder = tmp_path / "outputs" / "day" / "time"
    folder.mkdir(parents=True)
    (folder / "run.log").touch()
    remove_if_unused(folder, tmp_path / "outputs")
    assert (tmp_path / "outputs").is_dir() and not (tmp_path / "outputs" / "day").exists()


def test_parents_outside_the_root_are_kept(tmp_path):
    folder = tmp_path / "elsewhere" / "run"
    folder.mkdir(parents=True)
    remove_if_unused(folder, tmp_path / "outputs")
    assert (tmp_path / "elsewhere").is_dir() and not folder.exists()


def test_the_log_file_has_what_was_logged_inside_and_nothing_after(tmp_path):
    log = logging.getLogger("ltx2.test")
    with run_log(tmp_path) as write:
        log.warning("inside")
        write("only here", None)
    log.warning("after")
    text = (tmp_path / "run.log").read_text()
    assert "inside" in text and "only here" in text and "after" not in text
