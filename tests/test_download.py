"""Downloads from a hub on this machine: whole, resumed, damaged, refused, not one too many."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub

from ltx2.app.commands.pull import main as pull
from ltx2.app.compose import compose
from ltx2.app.downloads import Lines, download
from ltx2.errors import MissingFile, UserError
from ltx2.pipelines.files import find_files
from ltx2.weights.hub import PARTS, RemoteFile, fetch, listing, part_path

REPO = "Lightricks/LTX-2"
GEMMA = "google/gemma-3-12b-it-qat-q4_0-unquantized"
CHECKPOINT = "ltx-2-19b-distilled.safetensors"
DATA = np.random.default_rng(3).bytes(300_000)
# The library hands over 10 MB at a time.
BIG = np.random.default_rng(4).bytes(24_000_000)
FOLDER = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model.safetensors.index.json": b'{"weight_map": {"a": "one.safetensors",'
    b' "b": "two.safetensors"}}',
    "one.safetensors": b"first shard",
    "two.safetensors": b"second shard",
    "README.md": b"words",
    "gguf/small.json": b"{}",
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    repos = {
        REPO: {CHECKPOINT: DATA, "ltx-2-spatial-upscaler-x2-1.0.safetensors": DATA[:99],
               "ltx-2-19b-dev.safetensors": DATA[::-1], "README.md": b"words"},
        GEMMA: FOLDER,
    }  # fmt: skip
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "")
    with Hub(repos) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def settings(folder: Path, *options: str):
    named = ["model=distilled", "pipeline=distilled", f"paths.models={folder}"]
    return compose([*named, *options])


def checkpoint(hub: Hub) -> RemoteFile:
    return listing(REPO)[CHECKPOINT]


def nothing(_: int) -> None:
    pass


def test_only_the_files_of_the_pipeline_are_fetched(hub, tmp_path):
    made = settings(tmp_path / "models")
    new = download(made)
    files = find_files(made)
    assert {role: path.name for role, path in files.items()} == {
        "checkpoint": CHECKPOINT,
        "text_encoder": "gemma-3-12b-it-qat-q4_0-unquantized",
        "spatial_upscaler": "ltx-2-spatial-upscaler-x2-1.0.safetensors",
    }
    assert files["checkpoint"].read_bytes() == DATA
    gemma = {path.name for path in files["text_encoder"].iterdir() if path.is_file()}
    assert gemma == {name for name in FOLDER if "/" not in name and name != "README.md"}
    assert len(new) == 7 and len(hub.gets) == 7
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_there_is_not_fetched_again(hub, tmp_path):
    download(settings(tmp_path))
    hub.gets.clear()
    assert download(settings(tmp_path)) == [] and hub.gets == []


def test_an_interrupted_folder_is_completed(hub, tmp_path):
    made = settings(tmp_path)
    download(made)
    (find_files(made)["text_encoder"] / "two.safetensors").unlink()
    assert [path.name for path in download(made)] == ["two.safetensors"]


def test_an_interrupted_download_goes_on_where_it_stopped(hub, tmp_path):
    hub.repos[REPO][CHECKPOINT] = BIG
    file, target = checkpoint(hub), tmp_path / CHECKPOINT
    chunks = []

    def interrupt(count):
        chunks.append(count)
        if len(chunks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(file, target, interrupt)
    held = part_path(file, target).stat().st_size
    assert held == chunks[0] and not target.exists()
    counted = []
    fetch(file, target, counted.append)
    assert hub.gets[-1] == (CHECKPOINT, f"bytes={held}-") and sum(counted) == len(BIG) - held
    assert target.read_bytes() == BIG and not part_path(file, target).exists()


def test_a_cut_connection_is_taken_up_again(hub, tmp_path):
    hub.repos[REPO][CHECKPOINT] = BIG
    hub.cuts[CHECKPOINT] = [15_000_000]
    fetch(checkpoint(hub), tmp_path / CHECKPOINT, nothing)
    assert (tmp_path / CHECKPOINT).read_bytes() == BIG
    first, second = (span for _, span in hub.gets)
    assert first == "" and 0 < int(second.removeprefix("bytes=")[:-1]) <= 15_000_000


def test_a_killed_process_leaves_no_half_file_and_loses_little(hub, tmp_path):
    hub.repos[REPO][CHECKPOINT] = BIG
    target = tmp_path / CHECKPOINT
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom ltx2.weights.hub import fetch, listing\n"
        f"file = listing({REPO!r})[{CHECKPOINT!r}]\nchunks = []\n"
        "def kill(count):\n    chunks.append(count)\n"
        "    if len(chunks) == 2:\n        os.kill(os.getpid(), 9)\n"
        "fetch(file, Path(sys.argv[1]), kill)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert done.returncode == -9 and not target.exists()
    fetch(checkpoint(hub), target, nothing)
    assert target.read_bytes() == BIG and hub.gets[-1][1].startswith("bytes=")


def test_wrong_bytes_are_refused_and_not_kept(hub, tmp_path):
    hub.damaged.add(CHECKPOINT)
    with pytest.raises(UserError, match=r"arrived damaged: its digest is .* download it again"):
        fetch(checkpoint(hub), tmp_path / CHECKPOINT, nothing)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] in ([], [".lock"])
    hub.damaged.clear()
    fetch(checkpoint(hub), tmp_path / CHECKPOINT, nothing)
    assert (tmp_path / CHECKPOINT).read_bytes() == DATA


def test_a_small_file_is_compared_with_its_git_digest(hub, tmp_path):
    hub.damaged.add("config.json")
    with pytest.raises(UserError, match=r"config\.json arrived damaged"):
        download(settings(tmp_path))


def test_a_file_other_than_the_described_one_is_refused_before_it_is_fetched(hub, tmp_path):
    made = settings(tmp_path, f"model.files.checkpoint.sha256={'0' * 64}")
    with pytest.raises(UserError, match=r"is not the file that model\.files\.checkpoint describes"):
        download(made)
    assert hub.gets == []


def test_two_downloads_of_a_file_wait_for_each_other(hub, tmp_path):
    file, target = checkpoint(hub), tmp_path / CHECKPOINT
    errors = []

    def get():
        try:
            fetch(file, target, nothing)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and target.read_bytes() == DATA
    assert hub.gets == [(CHECKPOINT, "")]


def test_a_disk_that_fills_keeps_what_came(hub, tmp_path):
    file, target = checkpoint(hub), tmp_path / CHECKPOINT
    part = part_path(file, target)
    part.parent.mkdir()
    part.symlink_to("/dev/full")
    with pytest.raises(UserError, match="disk full while downloading"):
        fetch(file, target, nothing)
    assert not target.exists() and part.is_symlink()


def test_room_is_checked_before_the_first_byte(hub, tmp_path):
    hub.sizes[CHECKPOINT] = 10**17
    told = r"the download needs 100000000\.0 GB and .* GB are missing; make room or set paths"
    with pytest.raises(UserError, match=told):
        download(settings(tmp_path))
    assert hub.gets == []


@pytest.mark.parametrize(
    ("status", "code", "token", "told"),
    [
        (401, "GatedRepo", "", "is gated: accept its licence at http.*LTX-2, then log in with"),
        (403, "GatedRepo", "hf_x", "is gated and your token may not read it yet; accept its"),
        (401, "RepoNotFound", "", "is not on the Hub, or private: check the name"),
        (404, "EntryNotFound", "", f"has no file {CHECKPOINT}"),
        (403, "", "", r"the Hub refused .* \(403\); see its licence"),
        (410, "", "", "the Hub answered 410"),
    ],
)
def test_a_refusal_of_the_hub_is_explained_in_one_line(
    hub, tmp_path, monkeypatch, status, code, token, told
):
    monkeypatch.setenv("HF_TOKEN", token)
    hub.refused[REPO] = (status, code)
    with pytest.raises(UserError, match=told) as error:
        download(settings(tmp_path))
    assert "\n" not in str(error.value) and not (tmp_path / CHECKPOINT).exists()


def test_an_unknown_file_names_the_nearest(hub, tmp_path):
    made = settings(tmp_path, "model.files.checkpoint.file=ltx-2-19b-distiled.safetensors")
    with pytest.raises(MissingFile, match=f"did you mean '{CHECKPOINT}'"):
        download(made)


def test_an_unreachable_hub_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"could not be fetched from http://127.0.0.1:9") as error:
        listing(REPO)
    assert "\n" not in str(error.value)


def test_offline_names_what_is_absent(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = rf"HF_HUB_OFFLINE is set and 3 needed file\(s\) .*: {CHECKPOINT}, "
    with pytest.raises(MissingFile, match=told) as error:
        download(settings(tmp_path))
    assert "\n" not in str(error.value)


def test_a_file_without_a_source_cannot_be_fetched(hub, tmp_path):
    made = settings(tmp_path, "lora=user", "lora.user.file=style.safetensors")
    with pytest.raises(MissingFile, match=r"lora\.user \(style\.safetensors\) .* no source"):
        download(made)


def test_pull_lists_the_files_it_leaves(hub, tmp_path, capsys):
    code = pull(["distilled", "--pipeline", "distilled", f"paths.models={tmp_path}"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert code == 0 and [row[0] for row in rows] == [
        "checkpoint", "text_encoder", "spatial_upscaler",
    ]  # fmt: skip
    assert rows[0][-1] == str(tmp_path / CHECKPOINT)


def test_pull_names_the_nearest_model():
    with pytest.raises(UserError, match="did you mean 'distilled'"):
        pull(["distiled"])


def test_a_run_fetches_what_it_lacks(hub, tmp_path):
    """The files arrive; they are no weights, which the run then says."""
    environment = os.environ | {"HF_ENDPOINT": hub.url}
    command = [sys.executable, "-m", "ltx2", "model=distilled", "pipeline=distilled"]
    done = subprocess.run(
        [*command, "download=true", f"paths.models={tmp_path}/models",
         f"paths.outputs={tmp_path}/out"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "is not a safetensors file" in done.stderr
    assert (tmp_path / "models" / CHECKPOINT).read_bytes() == DATA


def test_progress_lines_tell_speed_and_time_left(caplog):
    caplog.set_level("INFO")
    lines = Lines(400_000_000)
    lines.begin("a.safetensors")
    lines._began = lines._told = lines._told - 60.0
    lines.advance(100_000_000)
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "downloading a.safetensors (0.0 MB of 400.0 MB)"
    assert told[1] == "100.0 MB of 400.0 MB, 1.7 MB/s, about 3 min left"


def test_parts_stand_in_a_hidden_folder_named_by_content(tmp_path):
    first, second = (RemoteFile(REPO, "a", "main", 3, digest * 64) for digest in "ab")
    paths = {part_path(file, tmp_path / "a") for file in (first, second)}
    assert len(paths) == 2 and {path.parent.name for path in paths} == {PARTS}
