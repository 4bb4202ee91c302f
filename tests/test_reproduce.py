"""Runs made again from their records: rerun, show, private records, records in remuxed clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from conftest import BACKENDS
from safetensors.numpy import load_file

from ltx2.cli import main as ltx2
from ltx2.errors import UserError
from ltx2.experiment.compare import compare
from ltx2.experiment.record import private_record, to_json
from ltx2.experiment.reproduce import environment_lines, load_run, other_weights, repeatable
from ltx2.media.tagging import write_comment

SMALL = ["cache=off", "frames=9", "scheduler.steps=3", "schedules.stage2=[0.9,0.5,0.0]"]
PROMPT = "a ${red} circle, \\moves 'right'; {x: 1}"


def runs_below(outputs: Path) -> list[Path]:
    return sorted((path.parent for path in outputs.rglob("run.json")), key=started)


def started(folder: Path) -> int:
    return (folder / "run.json").stat().st_mtime_ns


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """Folder of a run in float32, with everything kept."""
    outputs = tmp_path_factory.mktemp("first")
    keep = ["save_latents=true", "save_steps=true", "dtype=fp32", f"paths.outputs={outputs}"]
    assert ltx2([*SMALL, *keep, "--prompt", PROMPT]) == 0
    return runs_below(outputs)[0]


@pytest.fixture
def again(first, tmp_path):
    """Run `rerun` on a source with overrides; the new run's folder."""

    def run(source: Path, *overrides: str) -> Path:
        assert (
            ltx2(["rerun", str(source), "cache=off", f"paths.outputs={tmp_path}", *overrides]) == 0
        )
        return runs_below(tmp_path)[-1]

    return run


def remuxed(clip: Path, suffix: str, folder: Path) -> Path:
    """What `ffmpeg -c copy` makes of a clip: its packets and its tags in another container."""
    path = folder / f"copy{suffix}"
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        target.metadata.update(source.metadata)
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return path


@pytest.mark.parametrize("source", ["clip", "folder"])
def test_a_rerun_gives_the_same_latents_and_the_same_frames(first, again, source):
    new = again(first / "video.mp4" if source == "clip" else first)
    for path in sorted((first / "latents").iterdir()):
        tensors, others = load_file(path), load_file(new / "latents" / path.name)
        assert tensors.keys() == others.keys()
        for name in tensors:
            np.testing.assert_array_equal(tensors[name], others[name])
    found = compare(load_run(first), load_run(new))
    assert found.config == [] and found.environment == []
    assert found.frames is not None and found.frames["identical"]
    assert found.sound is not None and found.sound["identical"]
    assert load_run(new).settings["prompt"] == PROMPT


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_the_record_survives_a_remux(first, tmp_path, suffix):
    run = load_run(remuxed(first / "video.mp4", suffix, tmp_path))
    # Its own folder has no run: everything comes from inside the clip.
    assert run.folder is None
    recorded = repeatable(run)
    kept = repeatable(load_run(first))
    assert recorded == kept


def test_a_remuxed_clip_can_be_run_again(first, again, tmp_path):
    clip = remuxed(first / "video.mp4", ".mkv", tmp_path)
    found = compare(load_run(first), load_run(again(clip)))
    assert found.frames is not None and found.frames["identical"]


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs both backends")
def test_the_other_backend_stays_within_the_documented_bound(first, again, capsys):
    new = again(first, "backend=mlx")
    assert "made with backend=torch, not mlx" in capsys.readouterr().err
    found = compare(load_run(first), load_run(new))
    assert {item.key.partition(".")[0] for item in found.config} == {"backend"}
    assert found.frames is not None and found.frames["psnr"] > 48
    assert all(row["relative"] < 1e-3 for row in found.latents)


def test_overrides_win_and_a_group_replaces_what_was_recorded(first, again):
    new = load_run(again(first, "sampler=euler_ancestral", "seed=3", "guidance.video.cfg=2.0"))
    assert new.settings["sampler"]["kind"] == "euler_ancestral"
    assert new.settings["sampler"]["eta"] == 1.0
    assert (new.settings["seed"], new.settings["guidance"]["video"]["cfg"]) == (3, 2.0)
    # Everything else is the recorded run's.
    old = load_run(first).settings
    assert new.settings["scheduler"] == old["scheduler"]
    assert new.settings["dtype"] == old["dtype"]


def test_an_option_that_overrides_other_groups_does_so_here_too(first, again):
    new = load_run(again(first, "pipeline=distilled"))
    assert new.settings["pipeline"]["name"] == "distilled"
    assert new.settings["scheduler"]["kind"] == "list"
    assert new.settings["guidance"]["kind"] == "none"
    assert new.settings["frames"] == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("samplr.kind=euler", "'samplr' is no key or group; did you mean 'sampler'?"),
        ("sampler=eler", "sampler=eler is unknown; did you mean 'euler'?"),
        ("frames=10", "frames=10 is not 4k + 1; use 9 or 13"),
    ],
)
def test_wrong_overrides_are_refused_as_ever(first, tmp_path, capsys, override, message):
    assert ltx2(["rerun", str(first), f"paths.outputs={tmp_path}", override]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert list(tmp_path.rglob("run.json")) == []


def test_other_weights_are_refused_unless_forced(first, tmp_path, capsys):
    folder = tmp_path / "moved"
    folder.mkdir()
    shutil.copy(first / "config.yaml", folder)
    record = json.loads((first / "run.json").read_text())
    record["weights"][0]["header_sha256"] = "0" * 64
    (folder / "run.json").write_text(json.dumps(record))
    arguments = ["rerun", str(folder), "cache=off", f"paths.outputs={tmp_path / 'new'}"]
    assert ltx2(arguments) == 2
    error = capsys.readouterr().err
    assert "checkpoint: ltx-2-pocket.safetensors is not the file of the run" in error
    assert error.count("\n") == 1 and "--force" in error
    assert ltx2([*arguments, "--force"]) == 0
    assert "warning: checkpoint: ltx-2-pocket" in capsys.readouterr().err


def test_every_difference_of_the_environment_is_one_line():
    then = {
        "versions": {"ltx2": "0.1.0", "torch": "2.12", "mlx": "0.1", "hydra-core": "1.3.7"},
        "device": {"backend": "torch", "device": "cpu", "version": "2.12"},
        "dtypes": {"transformer": "bf16"},
    }
    now = json.loads(json.dumps(then))
    now["versions"] |= {"torch": "2.13", "mlx": "0.2", "hydra-core": "1.3.8"}
    now["dtypes"]["transformer"] = "fp32"
    # The other framework and what composes settings cannot change a number.
    assert environment_lines(then, now) == [
        "versions.torch was 2.12 in the run, is 2.13 here",
        "dtypes.transformer was bf16 in the run, is fp32 here",
    ]
    now["device"]["backend"] = "mlx"
    (line,) = environment_lines(then, now)
    assert "backend=torch, not mlx" in line


def test_weights_that_were_chosen_anew_are_no_difference():
    row = {"role": "checkpoint", "name": "a", "bytes": 1, "header_sha256": "x"}
    here = [row | {"header_sha256": "y"}, {"role": "lora.user", "name": "b", "bytes": 2}]
    assert len(other_weights({"weights": [row]}, here)) == 1
    assert other_weights({"weights": [row]}, here, ["checkpoint"]) == []


def test_tables_by_noise_level_keep_numbers_as_keys(tmp_path):
    settings = {
        "pipeline": {"name": "one_stage"},
        "backend": {"_target_": "ltx2.backends.torch.TorchBackend"},
        "lora": {"user": {"schedule": {"0.9": 1.0}, "stages": {"base": 0.5}}},
    }
    (tmp_path / "run.json").write_text(json.dumps({"versions": {}, "settings": settings}))
    lora = repeatable(load_run(tmp_path))["lora"]["user"]
    assert lora == {"schedule": {0.9: 1.0}, "stages": {"base": 0.5}}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "absent.mp4", "does not exist"),
        (lambda p: p, "is no run's folder: it has neither run.json nor config.yaml"),
        (lambda p: record_of(p, "no json"), "cannot be read"),
        (lambda p: record_of(p, "[1]"), "is not the record of a run"),
        (lambda p: record_of(p, '{"settings": {"a": 1}}'), "no settings that could be run"),
        (lambda p: record_of(p, '{"settings": 7}'), "no settings that could be run"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        repeatable(load_run(make(tmp_path)))
    assert "\n" not in str(caught.value)


def record_of(folder: Path, text: str) -> Path:
    (folder / "run.json").write_text(text)
    return folder


def test_a_record_that_names_a_foreign_class_is_refused(first, tmp_path):
    settings = yaml.safe_load((first / "config.yaml").read_text())
    settings["backend"]["_target_"] = "ltx2.app.main.launch"
    record_of(tmp_path, json.dumps({"versions": {}, "settings": settings}))
    with pytest.raises(UserError, match=r"names the backend ltx2\.app\.main\.launch"):
        repeatable(load_run(tmp_path))


@pytest.mark.parametrize("comment", ["made with love", '{"a": 1}', "[1]"])
def test_a_clip_without_a_record_says_so(first, tmp_path, capsys, comment):
    clip = Path(shutil.copy(first / "video.mp4", tmp_path / "clip.mp4"))
    write_comment(clip, comment)
    for command in ("show", "rerun"):
        assert ltx2([command, str(clip)]) == 2
        error = capsys.readouterr().err
        assert "clip.mp4 holds no record" in error and error.count("\n") == 1


# --- private records


@pytest.fixture(scope="module")
def private(tmp_path_factory, first) -> Path:
    """A private run's record, made of a real one with media, a LoRA and swept prompts."""
    record = json.loads((first / "run.json").read_text())
    settings = record["settings"]
    settings["output"]["private"] = True
    settings["negative_prompt"] = "ugly neighbours"
    settings["input"]["video"] = "/home/me/holiday.mp4"
    settings["conditioning"] = {"image": {"kind": "image", "path": "our_cat.png", "frame": 0}}
    settings["lora"] = {"user": {"file": "/home/me/loras/style.safetensors", "strength": 0.5}}
    settings["metrics"] = {"psnr": {"_target_": "ltx2.x", "reference": "/home/me/best.mp4"}}
    record |= {
        "enhanced_prompt": "a very red circle",
        "error": "UserError: /home/me/holiday.mp4 is damaged",
        "notices": ["frames snapped to 9", "holiday.mp4 is shorter than the clip"],
        "sweep": "ugly-neighbours-1234",
        "overrides": ["prompt=x"],
        "values": {"prompt": "x"},
    }
    folder = tmp_path_factory.mktemp("private")
    clip = shutil.copy(first / "video.mp4", folder / "video.mp4")
    write_comment(clip, to_json(private_record(record)))
    return folder


def test_a_private_record_tells_no_prompt_path_or_command(private, tmp_path):
    clip = remuxed(private / "video.mp4", ".mp4", tmp_path)
    record = load_run(clip).record
    text = json.dumps(record)
    for hidden in ("circle", "neighbours", "/home", "holiday", "our_cat", "prompt=", "outputs"):
        assert hidden not in text
    assert "command" not in record and record["error"] == "UserError"
    assert record["notices"] == ["frames snapped to 9"]
    settings = record["settings"]
    assert "prompt" not in settings and "paths" not in settings
    # What a reader of the clip may know: how it was made.
    assert settings["lora"]["user"] == {"file": "style.safetensors", "strength": 0.5}
    assert settings["conditioning"]["image"] == {"kind": "image", "frame": 0}
    assert (settings["seed"], settings["output"]["private"]) == (10, True)
    assert record["weights"][0]["name"] == "ltx-2-pocket.safetensors"


def test_a_private_clip_is_repeated_only_from_its_folder(private, tmp_path, capsys):
    clip = remuxed(private / "video.mp4", ".mp4", tmp_path)
    assert ltx2(["rerun", str(clip)]) == 2
    assert "output.private=true; give the run's folder" in capsys.readouterr().err
    assert ltx2(["show", str(clip)]) == 0
    assert "(left out: output.private=true)" in capsys.readouterr().out


# --- show


def test_show_tells_what_made_a_clip(first, capsys):
    assert ltx2(["show", str(first / "video.mp4")]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["prompt"] == PROMPT
    assert shown["size"] == "128x128, 9 frames at 12 fps, 0.75 s"
    assert shown["model"] == "pocket" and shown["seed"] == "10"
    assert ltx2(["show", "--json", str(first / "video.mp4")]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["prompt"] == PROMPT


def test_show_reads_saved_latents(first, capsys):
    assert ltx2(["show", str(first / "latents" / "base.safetensors")]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (shown["stage"], shown["video"]) == ("base", "F32 [1, 3, 4, 4, 16]")


def test_a_running_run_is_shown_without_a_record(first, tmp_path, capsys):
    shutil.copy(first / "config.yaml", tmp_path)
    assert ltx2(["show", str(tmp_path)]) == 0
    assert "running or killed" in capsys.readouterr().out
    assert ltx2(["show", "--json", str(tmp_path)]) == 2
