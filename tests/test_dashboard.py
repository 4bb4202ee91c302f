"""The dashboard's data, the safety of its pages, its server and its command."""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
from pathlib import Path

import pytest

from ltx2.app.commands.dashboard import main
from ltx2.errors import UserError
from ltx2.experiment.dashboard import write_index_page, write_sweep_page
from ltx2.experiment.dashboard.index_data import index_data
from ltx2.experiment.dashboard.page import script_json
from ltx2.experiment.dashboard.run_files import flat, link, step_columns
from ltx2.experiment.dashboard.serve import byte_range, open_server
from ltx2.experiment.dashboard.sweep_data import sweep_data

sys.path.insert(0, str(Path(__file__).parent / "browser"))
from sweep_files import AXES_24, write_clip, write_run, write_sweep

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\u2028 <!-- é"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, 0.5)
    return path


@pytest.fixture
def sweep(tmp_path, clip) -> Path:
    return write_sweep(tmp_path / "outputs", AXES_24, [clip])


def embedded(page: Path) -> dict:
    """The data of a page, read as a browser does: up to the first end of a script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', page.read_text())
    assert found is not None
    return json.loads(found.group(1))


def test_a_cell_differs_from_the_others_in_what_was_swept_only(sweep):
    cells = sweep_data(sweep)["cells"]
    assert cells[5]["diff"] == [
        ["guidance.video.cfg", "4", ""], ["prompt", "a red circle", ""], ["seed", "1", ""],
    ]  # fmt: skip
    # A cell that has not run is known by its planned values.
    assert ["seed", "3", ""] in cells[22]["diff"]


def test_what_presets_gave_to_all_cells_alike_is_no_difference(sweep):
    plan = json.loads((sweep / "plan.json").read_text())
    plan["base"] |= {"height": None, "width": None}
    (sweep / "plan.json").write_text(json.dumps(plan))
    assert {key for key, *_ in sweep_data(sweep)["cells"][0]["diff"]} == set(AXES_24)


def test_cells_have_the_status_that_their_files_and_the_summary_say(sweep):
    states = [cell["status"] for cell in sweep_data(sweep)["cells"]]
    assert states == ["completed"] * 20 + ["failed", "running", "pending", "lost"]
    (sweep / "summary.json").unlink()
    states = [cell["status"] for cell in sweep_data(sweep)["cells"]]
    assert states[19:] == ["completed", "failed", "running", "pending", "running"]


def test_a_finished_cell_whose_folder_is_gone_is_lost(sweep):
    (sweep / "000-cell").rename(sweep / "elsewhere")
    assert sweep_data(sweep)["cells"][0]["status"] == "lost"


def test_a_failed_cell_gives_its_error_and_a_command_to_repeat_it(sweep):
    cell = sweep_data(sweep)["cells"][20]
    assert "out of memory" in cell["error"]
    assert cell["command"].startswith("python launch.py pipeline=one_stage 'prompt=two ")


def test_damaged_files_leave_a_page_all_the_same(sweep):
    (sweep / "001-cell" / "run.json").write_text('{"status": "comp')
    (sweep / "002-cell" / "run.json").write_text('{"settings": 3, "files": [], "metrics": "x"}')
    (sweep / "003-cell" / "metrics.jsonl").write_bytes(b"\xff\xfe{}\n[1]\n")
    (sweep / "summary.json").write_text("[]")
    assert len(embedded(write_sweep_page(sweep))["cells"]) == 24


def test_a_line_of_steps_that_is_being_written_is_left_out(sweep):
    assert sweep_data(sweep)["cells"][21]["steps"]["base"]["step"] == [4]


def test_long_runs_are_thinned_with_both_ends_kept():
    lines = [{"stage": "base", "step": i, "sigma": 1 - i / 1000} for i in range(1000)]
    steps = step_columns(lines)["base"]["step"]
    assert len(steps) == 240 and steps[0] == 0 and steps[-1] == 999


def test_numbers_that_json_cannot_say_become_null(sweep):
    record = json.loads((sweep / "000-cell" / "run.json").read_text())
    record["metrics"] = {"psnr": float("inf"), "motion": float("nan"), "ok": 1.5}
    (sweep / "000-cell" / "run.json").write_text(json.dumps(record))
    metrics = embedded(write_sweep_page(sweep))["cells"][0]["metrics"]
    assert metrics == {"psnr": None, "motion": None, "ok": 1.5}


def test_nested_settings_become_dotted_keys():
    assert flat({"a": {"b": [{"c": 1}, {"c": 2}]}, "d": [1, 2], "e": {}}) == {
        "a.b.0.c": 1, "a.b.1.c": 2, "d": [1, 2], "e": {},
    }  # fmt: skip


def test_hostile_text_neither_ends_the_data_nor_becomes_markup(tmp_path, clip):
    axes = AXES_24 | {"prompt": ["a", HOSTILE]}
    folder = write_sweep(tmp_path / "outputs", axes, [clip])
    plan = json.loads((folder / "plan.json").read_text())
    plan["name"] = HOSTILE
    (folder / "plan.json").write_text(json.dumps(plan))
    for page in (write_sweep_page(folder), write_index_page(tmp_path / "outputs")):
        assert "<img" not in page.read_text()
        assert page.read_text().count("</script>") == 2
    assert embedded(folder / "index.html")["cells"][-1]["values"]["prompt"] == HOSTILE


def test_embedded_json_has_no_character_that_html_or_script_reads():
    assert not set("<>&\u2028\u2029") & set(script_json({HOSTILE: HOSTILE}))
    assert json.loads(script_json({HOSTILE: HOSTILE})) == {HOSTILE: HOSTILE}


def test_a_page_loads_nothing_from_elsewhere(sweep):
    text = write_sweep_page(sweep).read_text()
    assert "default-src 'none'" in text and "script-src 'sha256-" in text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", text)) - {"http://www.w3.org/2000/svg"}
    assert addresses == set()


def test_links_are_relative_quoted_and_stay_inside_the_run(tmp_path):
    run = tmp_path / "a=1,b#2 %" / "x:y"
    run.mkdir(parents=True)
    (run / "video.mp4").touch()
    (tmp_path / "secret.mp4").touch()
    assert link(tmp_path, run, "video.mp4") == "./a%3D1%2Cb%232%20%25/x%3Ay/video.mp4"
    assert link(tmp_path, run, "../../secret.mp4") == ""
    assert link(tmp_path, run, "absent.mp4") == ""


def test_the_index_lists_single_runs_and_one_row_per_sweep(sweep, clip):
    outputs = sweep.parent.parent
    write_run(outputs / "2026-01-02" / "03-04-05-aa", {"prompt": "a harbour", "seed": "7"}, clip)
    (outputs / "cache" / "x").mkdir(parents=True)
    (outputs / "cache" / "x" / "config.yaml").touch()
    (outputs / "2026-01-03" / "begun").mkdir(parents=True)
    (outputs / "2026-01-03" / "begun" / "config.yaml").write_text("prompt: still going\n")
    write_sweep_page(sweep)
    rows = {row["name"]: row for row in index_data(outputs)["rows"]}
    assert set(rows) == {"study", "a harbour", "still going"}
    assert rows["study"]["cells"] == {"total": 24, "done": 20, "failed": 1}
    assert rows["study"]["files"]["page"] == "./sweeps/study-0a1b2c3d/index.html"
    assert rows["a harbour"]["files"]["media"] == "./2026-01-02/03-04-05-aa/video.mp4"
    assert rows["a harbour"]["seed"] == 7
    assert rows["still going"]["status"] == "running"


def test_an_empty_outputs_folder_has_an_index(tmp_path):
    assert embedded(write_index_page(tmp_path))["rows"] == []


def test_the_command_writes_all_pages_and_names_the_first(sweep, capsys):
    outputs = sweep.parent.parent
    assert main([str(outputs)]) == 0
    assert capsys.readouterr().out.strip() == str(outputs / "index.html")
    assert (sweep / "index.html").is_file()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: folder / "absent", "is no folder; give the folder of the outputs"),
        (lambda folder: folder / "sweeps" / "study-0a1b2c3d" / "000-cell", "is a single run"),
    ],
)
def test_a_folder_without_runs_is_refused_in_one_line(sweep, make, message):
    with pytest.raises(UserError, match=message):
        main([str(make(sweep.parent.parent))])


def test_a_sweep_without_its_plan_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no readable plan\.json"):
        write_sweep_page(tmp_path)


@pytest.mark.parametrize(
    "header, expected",
    [
        (None, None), ("bytes=0-9", (0, 9)), ("bytes=90-", (90, 99)), ("bytes=-5", (95, 99)),
        ("bytes=50-500", (50, 99)), ("bytes=0-1,5-6", None), ("items=0-1", None), ("bytes=-", None),
    ],
)  # fmt: skip
def test_ranges_of_100_bytes(header, expected):
    assert byte_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=9-3", "bytes=-0"])
def test_ranges_outside_are_refused(header):
    with pytest.raises(ValueError, match="outside"):
        byte_range(header, 100)


@pytest.fixture
def ask(sweep):
    """Asks a server of the outputs folder; returns status, headers and body."""
    server = open_server(sweep.parent.parent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)

    def get(path: str, method: str = "GET", **headers: str):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()

    yield get
    connection.close()
    server.shutdown()
    server.server_close()
    thread.join()


SWEEP_URL = "/sweeps/study-0a1b2c3d"


def test_the_server_makes_pages_when_asked(ask, sweep):
    for path in ("/", "/index.html", f"{SWEEP_URL}/", f"{SWEEP_URL}/index.html"):
        status, headers, body = ask(path)
        assert status == 200 and headers["Content-Type"].startswith("text/html"), path
        assert b'"live":true' in body.replace(b" ", b"")
    assert not (sweep / "index.html").exists()


def test_data_is_sent_again_only_when_it_changed(ask, sweep):
    status, headers, body = ask(f"{SWEEP_URL}/data.json")
    assert status == 200 and len(json.loads(body)["cells"]) == 24
    tag = {"If-None-Match": headers["ETag"]}
    assert ask(f"{SWEEP_URL}/data.json", **tag)[0] == 304
    line = {"stage": "base", "step": 5, "sigma": 0.4, "video_std": 0.8}
    (sweep / "021-cell" / "steps.jsonl").write_text(json.dumps(line) + "\n")
    status, _, body = ask(f"{SWEEP_URL}/data.json", **tag)
    assert status == 200
    assert json.loads(body)["cells"][21]["steps"]["base"]["step"] == [5]


def test_parts_of_a_video_are_served(ask, sweep):
    whole = (sweep / "000-cell" / "video.mp4").read_bytes()
    path = f"{SWEEP_URL}/000-cell/video.mp4"
    status, headers, body = ask(path)
    assert (status, headers["Content-Type"], body) == (200, "video/mp4", whole)
    status, headers, body = ask(path, Range="bytes=100-199")
    assert (status, body) == (206, whole[100:200])
    assert headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
    status, headers, _ = ask(path, Range=f"bytes={len(whole)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    status, headers, body = ask(path, method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(whole)), b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.json", "/%2e%2e/secret.json", "/sweeps/../../secret.json", "/..%2fsecret.json",
        "//secret.json", "/.hidden.json", "/link.json", "/sweeps/%00.json", "/notes.py",
        "/..\\secret.json", "/sweeps/", "/absent/index.html",
    ],
)  # fmt: skip
def test_nothing_outside_of_the_folder_is_served(ask, sweep, path):
    outputs = sweep.parent.parent
    (outputs.parent / "secret.json").write_text("secret")
    (outputs / ".hidden.json").write_text("secret")
    (outputs / "notes.py").write_text("secret")
    (outputs / "link.json").symlink_to(outputs.parent / "secret.json")
    status, _, body = ask(path)
    assert (status, body) == (404, b"")


def test_another_sites_name_for_this_server_is_refused(ask):
    assert ask("/", Host="evil.example:80")[0] == 403
    assert ask("/", Host="localhost:80")[0] == 200


def test_a_port_in_use_is_one_line():
    with open_server(Path()) as server, pytest.raises(UserError, match="choose another --port"):
        open_server(Path(), server.server_address[1])
