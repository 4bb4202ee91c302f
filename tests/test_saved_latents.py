"""Latents that a run leaves, and the runs that start from them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import BACKENDS, make_backend
from safetensors import safe_open
from safetensors.numpy import save_file

from ltx2.app.compose import compose
from ltx2.cli import main
from ltx2.errors import UserError
from ltx2.experiment.run import generate
from ltx2.media.audio import read_audio
from ltx2.media.images import read_image
from ltx2.pipelines.planning import make_plan

SMALL = ["height=64", "width=64", "frames=9", "scheduler.steps=2", "dtype=fp32", "output=png"]


def run(folder, backend, *overrides):
    generate(compose(overrides), lambda: backend, folder)
    return folder


def tensors(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def metadata(path):
    with safe_open(path, "np") as file:
        return dict(file.metadata())


def frames(folder):
    return np.stack([read_image(path) for path in sorted(folder.glob("video/*.png"))])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A two-stage run that kept its latents."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, make_backend(BACKENDS[0]), *SMALL, "save_latents=true", "seed=3")


def assert_refining_repeats_the_run(backend, folder, *options):
    common = ["save_latents=true", "seed=7", *options]
    first = run(folder / "first", backend, *SMALL, *common)
    base = first / "latents" / "base.safetensors"
    start = ["pipeline=refine_latents", f"input.latents={base}", "dtype=fp32", "output=png"]
    second = run(folder / "second", backend, *start, *common)
    paths = [made / "latents" / "refine.safetensors" for made in (first, second)]
    expected, got = map(tensors, paths)
    for stream in ("video", "audio"):
        np.testing.assert_array_equal(got[stream], expected[stream])
    np.testing.assert_array_equal(frames(second), frames(first))
    draws = [metadata(path)["draws"] for path in paths]
    assert draws[0] == draws[1]


def test_refining_saved_latents_repeats_the_unbroken_run_bit_for_bit(backend, tmp_path):
    assert_refining_repeats_the_run(backend, tmp_path)


def test_the_device_s_own_noise_and_a_noisy_sampler_go_on_from_the_same_place(tmp_path):
    options = ["noise=device", "sampler=euler_ancestral"]
    assert_refining_repeats_the_run(make_backend(BACKENDS[0]), tmp_path, *options)


def test_another_seed_refines_to_another_clip(whole, tmp_path):
    base = whole / "latents" / "base.safetensors"
    options = ["pipeline=refine_latents", f"input.latents={base}", "dtype=fp32", "output=png"]
    second = run(tmp_path, make_backend(BACKENDS[0]), *options, "seed=4", "save_latents=true")
    other = tensors(second / "latents" / "refine.safetensors")["video"]
    assert np.abs(other - tensors(whole / "latents" / "refine.safetensors")["video"]).max() > 1e-3
    notices = json.loads((second / "run.json").read_text())["notices"]
    assert "made with seed=3 noise=host, this run has seed=4" in notices[0]


def test_a_file_tells_its_geometry_and_its_place_in_the_noise(whole):
    path = whole / "latents" / "refine.safetensors"
    record = json.loads((whole / "run.json").read_text())
    told = metadata(path)
    hashes = {row["role"]: row.get("header_sha256") for row in record["weights"]}
    assert told["vae_header_sha256"] == hashes["checkpoint"]
    expected = {"stage": "refine", "height": "64", "width": "64", "frames": "9", "fps": "12.0"}
    assert expected.items() <= told.items() and told["seed"] == "3"
    video, audio = (tensors(path)[name] for name in ("video", "audio"))
    base = metadata(whole / "latents" / "base.safetensors")
    draws = json.loads(told["draws"])
    assert draws[2:] == [video.size, audio.size]
    assert json.loads(base["draws"]) == draws[:2] and draws[0] == video.size // 4
    assert base["height"] == "32" and video.dtype == np.float32
    names = record["statistics"]["saved_latents"]
    assert names == [f"{stage}.safetensors" for stage in ("base", "upscale", "refine")]


def test_decoding_saved_latents_needs_no_text_encoder(whole, backend, tmp_path):
    path = whole / "latents" / "refine.safetensors"
    again = run(
        tmp_path, backend, "pipeline=decode_latents", f"input.latents={path}", "output=png",
        "dtype=fp32", "model.files.text_encoder.file=absent",
    )  # fmt: skip
    difference = frames(again).astype(int) - frames(whole)
    # Another backend than the one that made the clip may round a tie the other way.
    assert np.abs(difference).max() <= (0 if backend.name == BACKENDS[0] else 1)
    assert json.loads((again / "run.json").read_text())["transformer_calls"] == 0


def test_half_precision_files_are_read_as_float32(whole, tmp_path):
    path = whole / "latents" / "refine.safetensors"
    stored = {name: value.astype(np.float16) for name, value in tensors(path).items()}
    save_file(stored, tmp_path / "half.safetensors", metadata(path))
    options = ["pipeline=decode_latents", f"input.latents={tmp_path}/half.safetensors"]
    again = run(tmp_path / "out", make_backend(BACKENDS[0]), *options, "output=png", "dtype=fp32")
    assert np.abs(frames(again).astype(int) - frames(whole)).max() <= 2


def test_saved_sound_alone_becomes_a_wav(tmp_path):
    backend = make_backend(BACKENDS[0])
    common = ["frames=9", "dtype=fp32"]
    first = run(
        tmp_path / "first", backend, "pipeline=text_to_audio", "scheduler.steps=2", *common,
        "save_latents=true",
    )  # fmt: skip
    path = first / "latents" / "base.safetensors"
    assert set(tensors(path)) == {"audio"}
    second = run(
        tmp_path / "second", backend, "pipeline=decode_latents", f"input.latents={path}",
        "dtype=fp32", "height=64", "width=64",
    )  # fmt: skip
    sound = [read_audio(folder / "audio.wav")[0] for folder in (first, second)]
    np.testing.assert_array_equal(sound[0], sound[1])
    assert not list(second.glob("video*"))


def test_without_save_latents_no_folder_is_made(tmp_path):
    run(tmp_path, make_backend(BACKENDS[0]), "pipeline=one_stage", *SMALL)
    assert not (tmp_path / "latents").exists()


def changed(source, target, tensor=None, **told):
    """A copy of the file `source` with other tensors or metadata."""
    content, about = tensors(source), metadata(source)
    content |= tensor or {}
    content = {name: value for name, value in content.items() if value is not None}
    save_file(content, target, about | told)
    return target


VIDEO, AUDIO = (1, 3, 2, 2, 16), (1, 19, 16, 1)
WRONG = {
    "channels": ({"video": (*VIDEO[:4], 8)}, {}, "8 video channels, the VAE of"),
    "grid": ({"video": (1, 5, 2, 2, 16)}, {}, "latent grid 5 x 2 x 2"),
    "bins": ({"audio": (1, 19, 8, 1)}, {}, "8 x 1 audio bins and channels, the model 16 x 1"),
    "length": ({"audio": (1, 20, 16, 1)}, {}, "20 audio latents .9 frames at 12 fps., the run n"),
    "axes": ({"video": (1, 3, 2, 16)}, {}, r"video of file.safetensors is F32 \[1, 3, 2, 16\]"),
    "batch": ({"audio": (2, 19, 16, 1)}, {}, r"audio of file.safetensors is F32 \[2, 19, 16, 1\]"),
    "names": ({"depth": VIDEO}, {}, "holds audio, depth, video; video and audio are expected"),
    "draws": ({}, {"draws": "[-1]"}, "damaged metadata .ValueError: draws"),
    "endless": ({}, {"draws": "[99999999999]"}, "damaged metadata .ValueError: draws"),
    "number": ({}, {"height": "tall"}, "damaged metadata .ValueError"),
    "zero": ({}, {"fps": "0.0"}, "damaged metadata .size"),
    "format": ({}, {"format": "pt"}, "holds no saved latents; use a file of the folder latents/"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_does_not_fit_is_refused_before_the_run(case, whole, tmp_path):
    shapes, told, line = WRONG[case]
    content = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    source = whole / "latents" / "base.safetensors"
    assert {n: v.shape for n, v in tensors(source).items()} == {"video": VIDEO, "audio": AUDIO}
    path = changed(source, tmp_path / "file.safetensors", content, **told)
    with pytest.raises(UserError, match=line) as caught:
        make_plan(compose(["pipeline=refine_latents", f"input.latents={path}"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("height=128", "holds 32x32 px and 9 frames .latent grid 3 x 2 x 2., stage 'saved' is"),
        ("frames=17", "and 9 frames .latent grid 3 x 2 x 2., stage 'saved' is 32x32 px and 17"),
        ("fps=24", "19 audio latents .9 frames at 12 fps., the run needs 9 .9 frames at 24 fps."),
        ("pipeline=two_stage", "input.latents has no effect on pipeline=two_stage; use"),
        ("input.latents=", "starts from saved latents; set input.latents=FILE"),
        ("input.latents=absent.safetensors", "absent.safetensors does not exist"),
    ],
)
def test_a_run_that_does_not_fit_the_file_names_both(options, line, whole):
    base = whole / "latents" / "base.safetensors"
    given = {"pipeline": "refine_latents", "input.latents": str(base)}
    key, _, value = options.partition("=")
    given[key] = value
    with pytest.raises(UserError, match=line):
        make_plan(compose([f"{key}={value}" for key, value in given.items()]))


def test_a_stream_that_a_stage_needs_must_be_there(whole, tmp_path):
    source = whole / "latents" / "base.safetensors"
    path = changed(source, tmp_path / "mute.safetensors", {"audio": None})
    with pytest.raises(UserError, match=r"holds no audio, which stage 'refine' needs; it holds v"):
        make_plan(compose(["pipeline=refine_latents", f"input.latents={path}"]))


def test_latents_of_another_model_file_are_noticed(whole, tmp_path):
    source = whole / "latents" / "base.safetensors"
    path = changed(source, tmp_path / "other.safetensors", vae_header_sha256="0" * 64)
    plan = make_plan(compose(["pipeline=refine_latents", f"input.latents={path}", "seed=3"]))
    assert len(plan.notices) == 1 and "another model file" in plan.notices[0]


@pytest.mark.parametrize("key", ["prompt=dog", "save_latents=true", "on_interrupt=decode"])
def test_what_a_decoding_run_does_not_use_is_refused(key, whole, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(whole / "latents" / "refine.safetensors", "a.safetensors")
    assert main(["pipeline=decode_latents", "input.latents=a.safetensors", key]) == 2
    name = key.partition("=")[0]
    assert f"error: {name} has no effect: pipeline=decode_latents" in capsys.readouterr().err
