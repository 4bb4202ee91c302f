"""Grid, comparison, table, charts and details of a sweep's page in a real browser."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from chromium import browser, clips, look, sweep_24, sweep_page
from sweep_files import AXES_24
from waiting import until

from ltx2.experiment.dashboard import write_sweep_page
from ltx2.media.audio import write_wav

pytestmark = pytest.mark.slow

UNKNOWN = "\u2013"
SHOWN = "[...document.querySelectorAll('#grid .tile')].map((t) => Number(t.dataset.index))"


def choose(page, label: str, value: str) -> None:
    page.get_by_label(label, exact=True).first.select_option(value)


def column(page, key: str) -> list[str]:
    place = page.evaluate(
        "(key) => [...document.querySelectorAll('.cells th button')]"
        ".findIndex((b) => b.dataset.sort === key)", key,
    )  # fmt: skip
    return page.locator(f".cells tbody td:nth-child({place + 1})").all_text_contents()


def test_the_grid_has_a_place_per_pair_of_values_and_stacks_the_rest(sweep_page):
    choose(sweep_page, "rows", "guidance.video.cfg")
    choose(sweep_page, "columns", "seed")
    heads = sweep_page.locator("#grid .head.column .word").all_text_contents()
    assert heads == AXES_24["seed"]
    assert sweep_page.locator("#grid .head.row .word").all_text_contents() == ["2", "3", "4"]
    assert sweep_page.locator("#grid .stack").count() == 12
    assert sorted(sweep_page.evaluate(SHOWN)) == list(range(24))
    sweep_page.get_by_label("cells that share a place").select_option("one")
    assert len(sweep_page.evaluate(SHOWN)) == 12
    sweep_page.get_by_label("next of this stack").first.click()
    assert sweep_page.evaluate(SHOWN)[0] == 12


def test_filters_keep_the_cells_that_fit(sweep_page):
    sweep_page.locator('details.filter[data-key="seed"] summary').click()
    for value in ("0", "2"):
        sweep_page.locator(f'details.filter[data-key="seed"] input[value="{value}"]').uncheck()
    assert {index // 3 % 4 for index in sweep_page.evaluate(SHOWN)} == {1, 3}
    sweep_page.get_by_label("status", exact=True).select_option("failed")
    assert sweep_page.evaluate(SHOWN) == []
    assert sweep_page.get_by_text("No cell fits the filters.").is_visible()
    sweep_page.get_by_role("button", name="Clear filters").first.click()
    sweep_page.get_by_label("search prompts and values").fill("SQUARES")
    assert sorted(sweep_page.evaluate(SHOWN)) == list(range(12, 24))


def test_a_failed_cell_shows_its_error_and_a_running_one_its_step(sweep_page):
    assert "out of memory: 31.2 GB" in sweep_page.locator('.tile[data-index="20"]').text_content()
    assert "base, step 5 done" in sweep_page.locator('.tile[data-index="21"]').text_content()
    assert "pending" in sweep_page.locator('.tile[data-index="22"]').text_content()
    assert "lost" in sweep_page.locator('.tile[data-index="23"]').text_content()


def test_details_give_differences_metrics_curves_and_the_command(sweep_page):
    sweep_page.locator('.tile[data-index="5"]').click()
    panel = sweep_page.locator("#detail")
    rows = panel.locator("section", has_text="Settings of this cell").locator("tbody tr")
    assert [row.split("\t")[:2] for row in rows.all_inner_texts()] == [
        ["guidance.video.cfg", "4"], ["prompt", "a red circle"], ["seed", "1"],
    ]  # fmt: skip
    assert panel.locator("code").first.text_content() == (
        "python launch.py pipeline=one_stage 'prompt=a red circle' seed=1 guidance.video.cfg=4"
    )
    assert panel.locator("svg .line").count() >= 3
    assert "pitch_track" in panel.text_content()
    assert "reused" in panel.locator("section", has_text="Stages").text_content()
    sweep_page.keyboard.press("Escape")
    assert panel.is_hidden()


def test_hostile_text_stays_text(sweep_page):
    sweep_page.locator('.tile[data-index="12"]').click()
    prompt = AXES_24["prompt"][1]
    assert sweep_page.locator("#detail dd").first.text_content() == prompt
    assert sweep_page.locator("#injected").count() == 0


def test_the_table_sorts_by_numbers_with_unknown_ones_last(sweep_page):
    sweep_page.keyboard.press("3")
    sweep_page.locator('button[data-sort="psnr"]').click()
    found = column(sweep_page, "psnr")
    known = [float(text.replace("★ ", "")) for text in found if text != UNKNOWN]
    assert known == sorted(known) and found[-4:] == [UNKNOWN] * 4 and len(known) == 20
    sweep_page.locator('button[data-sort="psnr"]').click()
    assert [float(t.replace("★ ", "")) for t in column(sweep_page, "psnr")[:20]] == known[::-1]
    assert sweep_page.locator('th[aria-sort="descending"]').count() == 1
    assert sweep_page.evaluate("document.activeElement.dataset.sort") == "psnr"


def test_equal_values_have_equal_colours_and_different_values_different_ones(sweep_page):
    sweep_page.keyboard.press("3")
    colours = dict(
        sweep_page.evaluate(
            "[...document.querySelectorAll('.cells tbody tr')].slice(0, 20).map((row) => {"
            " const cell = row.cells[5];"
            " return [cell.textContent, getComputedStyle(cell).backgroundColor]})"
        )
    )
    assert len(colours) == 4 and len(set(colours.values())) == 4


def test_charts_draw_every_cell_and_a_brush_filters(sweep_page):
    sweep_page.keyboard.press("4")
    assert sweep_page.locator(".parallel path.line:not(.faded)").count() == 24
    assert sweep_page.locator(".scatter circle").count() == 20
    strip = sweep_page.locator('.strip[data-axis="guidance.video.cfg"]').bounding_box()
    x = strip["x"] + strip["width"] / 2
    sweep_page.mouse.move(x, strip["y"] + strip["height"] - 4)
    sweep_page.mouse.down()
    sweep_page.mouse.move(x, strip["y"] + strip["height"] * 0.75, steps=4)
    sweep_page.mouse.up()
    assert sweep_page.locator(".parallel path.line:not(.faded)").count() == 8
    assert sweep_page.locator("#counts").text_content().startswith("8 of 24 cells")
    sweep_page.locator('.strip[data-axis="guidance.video.cfg"]').dblclick()
    assert sweep_page.locator(".parallel path.line:not(.faded)").count() == 24


def test_the_wipe_uncovers_b_right_of_its_edge(sweep_page):
    sweep_page.evaluate("dashboard.update({ view: 'compare', a: 0, b: 4 })")
    edge = sweep_page.get_by_role("slider", name="edge between A and B")
    assert sweep_page.locator(".wipe video").count() == 2
    stage = sweep_page.locator(".wipe").bounding_box()
    sweep_page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + 100)
    sweep_page.mouse.down()
    sweep_page.mouse.move(stage["x"] + stage["width"] / 4, stage["y"] + 100, steps=5)
    sweep_page.mouse.up()
    assert abs(int(edge.get_attribute("aria-valuenow")) - 25) <= 1
    edge.press("ArrowRight")
    assert abs(int(edge.get_attribute("aria-valuenow")) - 27) <= 1
    # Colours at both sides of the edge, as drawn: clip 0 is bluer than clip 4.
    picture = sweep_page.locator(".wipe").screenshot()
    left, right = pixel(picture, 0.12), pixel(picture, 0.6)
    assert left[2] - right[2] > 80
    sweep_page.get_by_label("comparison").select_option("sides")
    boxes = [sweep_page.locator(f".side-{which}").bounding_box() for which in "ab"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    sweep_page.keyboard.press("s")
    assert sweep_page.evaluate("[dashboard.state.a, dashboard.state.b]") == [4, 0]


def pixel(png: bytes, x: float) -> tuple[int, int, int]:
    """Colour near the lower edge of a picture, `x` of its width from the left."""
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    return image.getpixel((int(x * image.width), int(image.height * 0.9)))


def test_the_two_videos_compared_play_together(sweep_page):
    sweep_page.evaluate("dashboard.update({ view: 'compare', a: 0, b: 4 })")
    until(sweep_page, "dashboard.followers().length === 2")
    assert "guidance.video.cfg" not in sweep_page.locator(".facts").text_content().split("B")[0]
    sweep_page.keyboard.press("Space")
    until(sweep_page, "dashboard.followers().every((v) => !v.paused && v.currentTime > 0.2)")
    sweep_page.keyboard.press("Space")
    until(
        sweep_page,
        "new Set(dashboard.followers().map((v) => Math.floor(v.currentTime * 24))).size === 1",
    )


def test_the_keyboard_reaches_every_view_and_moves_the_selection(sweep_page):
    for key, view in (("2", "compare"), ("3", "table"), ("4", "charts"), ("1", "grid")):
        sweep_page.keyboard.press(key)
        assert sweep_page.locator(f"#{view}").is_visible()
    choose(sweep_page, "rows", "guidance.video.cfg")
    choose(sweep_page, "columns", "seed")
    sweep_page.evaluate("document.activeElement.blur()")
    sweep_page.keyboard.press("ArrowRight")
    first = sweep_page.evaluate("dashboard.state.selected")
    sweep_page.keyboard.press("ArrowRight")
    second = sweep_page.evaluate("dashboard.state.selected")
    assert (first, second) == (0, 3)
    sweep_page.keyboard.press("ArrowDown")
    assert sweep_page.evaluate("dashboard.state.selected") == 15
    assert sweep_page.evaluate("document.activeElement.dataset.index") == "15"
    sweep_page.keyboard.press("b")
    assert sweep_page.evaluate("dashboard.state.b") == 15
    sweep_page.keyboard.press("Enter")
    assert sweep_page.locator("#detail h2").text_content() == "Cell 15"
    sweep_page.keyboard.press("?")
    assert sweep_page.locator("#help").is_visible()


def test_choices_are_kept_in_the_address(look, sweep_24, sweep_page):
    sweep_page.evaluate(
        "dashboard.update({ view: 'table', sort: 'psnr', filters: { seed: ['1'] } })"
    )
    until(sweep_page, "location.hash.includes('psnr')")
    again = look(sweep_page.url)
    assert again.locator("#table").is_visible()
    assert again.locator(".cells tbody tr").count() == 6


@pytest.mark.parametrize("width, height", [(1280, 720), (1440, 900), (390, 844)])
@pytest.mark.parametrize("view", ["grid", "compare", "table", "charts"])
def test_no_view_is_wider_than_the_screen(look, sweep_24, view, width, height):
    choice = json.dumps({"view": view, "selected": 3})
    page = look(f"{(sweep_24 / 'index.html').as_uri()}#{choice}", width, height)
    page.wait_for_selector(f"#{view}")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    overlong = page.evaluate("document.getElementById('controls').scrollWidth - innerWidth")
    assert overlong <= 0


def test_the_index_sorts_searches_and_leads_to_the_sweep(look, sweep_24):
    page = look((sweep_24.parent.parent / "index.html").as_uri())
    assert page.locator("#rows tr").count() == 1
    page.get_by_label("search runs").fill("nothing like this")
    assert page.get_by_text("No run fits.").is_visible()
    page.get_by_label("search runs").fill("study")
    page.get_by_role("link", name="study", exact=True).click()
    assert page.locator("#counts").text_content().startswith("24 cells")
    page.get_by_role("link", name="All runs").click()
    assert page.locator("#rows tr").count() == 1


def test_a_clip_without_pictures_is_played_as_sound(look, sweep_24, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(sweep_24, folder)
    run = folder / "000-cell"
    (run / "video.mp4").unlink()
    write_wav(run / "audio.wav", np.zeros((2, 40000), np.float32), 16000)
    record = json.loads((run / "run.json").read_text()) | {"files": {"audio": "audio.wav"}}
    (run / "run.json").write_text(json.dumps(record))
    page = look(write_sweep_page(folder).as_uri())
    until(page, "document.querySelector('.tile[data-index=\"0\"] video.sound').readyState >= 2")
    assert "sound only" in page.locator('.tile[data-index="0"]').text_content()
    assert page.evaluate("dashboard.followers().some((v) => Math.abs(v.duration - 2.5) < 0.1)")
