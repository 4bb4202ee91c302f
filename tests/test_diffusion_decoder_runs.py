"""Whole runs that end in the diffusion decoder: its noise, tiles, border, previews and keys."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import BACKENDS, GOLDEN, make_backend

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.run import generate
from ltx2.media.images import read_image
from ltx2.models.diffusion_decoder_config import DiffusionDecoderConfig
from ltx2.models.tiling import TileAxis
from ltx2.pipelines.components.video import decoder_config
from ltx2.pipelines.decode_memory import DiffusionMemory
from ltx2.pipelines.decoding import choose_tiling
from ltx2.pipelines.keeper import draws_noise
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.planning import make_plan
from ltx2.weights.dtype_policy import COMPONENTS
from ltx2.weights.header import read_header

FILES = {
    "checkpoint": "ltx-2.3-tiny.safetensors",
    "text_encoder": "gemma-3-tiny",
    "video_vae": "ltx-2.5-tiny/vae/ltx-2.5-tiny-video-vae.safetensors",
}
MODEL = [
    "model=path",
    "model.kind=dev",
    "pipeline=one_stage",
    "guidance=none",
    "scheduler.steps=2",
    "dtype=fp32",
]
MODEL += [
    f"model.files.{role}.file={GOLDEN / 'checkpoints' / name}" for role, name in FILES.items()
]
SIZE = ["height=64", "width=96", "frames=9", "output=png"]


def run(folder, backend, *overrides):
    generate(compose([*MODEL, *SIZE, *overrides]), lambda: backend, folder)
    return folder


def frames(folder):
    return np.stack([read_image(path) for path in sorted(folder.rglob("video/*.png"))])


def picture_key(*overrides):
    plan = make_plan(compose([*MODEL, *SIZE, *overrides]))
    keys = Keys(plan, {}, dict.fromkeys(COMPONENTS, "fp32"))
    return keys.picture(plan.stages[-1], draws_noise(plan))


def test_a_run_decodes_previews_and_records(backend, tmp_path):
    run(tmp_path, backend, "preview.every=2")
    clip = frames(tmp_path)
    assert clip.shape == (9, 64, 96, 3) and clip.std() > 1
    assert [path.name for path in tmp_path.glob("previews/*")] == ["base-002.png"]
    record = json.loads((tmp_path / "run.json").read_text())["statistics"]["tiling"]
    assert record["frames"] is None and record["needed_bytes"] > 0


def test_noise_and_border_are_those_asked_for(tmp_path):
    backend = make_backend(BACKENDS[0])
    first, again = (frames(run(tmp_path / name, backend)) for name in ("a", "b"))
    np.testing.assert_array_equal(first, again)
    continued = frames(run(tmp_path / "c", backend, "decoder.border=replicate"))
    difference = np.abs(first.astype(int) - continued).max((0, 1, 3))
    assert difference[[0, -1]].min() > 2 and difference[32:64].max() <= 1


def test_tiles_of_a_run_are_checked_by_what_the_decoder_sees():
    with pytest.raises(UserError, match=r"frames: overlap=0 is too small .* at least 8"):
        make_plan(compose([*MODEL, *SIZE, "tiling.mode=size", "tiling.frames=16"]))


def test_the_key_of_the_picture_tells_noise_and_border():
    assert picture_key() == picture_key("decoder.border=shift")
    keys = [picture_key(), picture_key("decoder.border=replicate"), picture_key("seed=11")]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("border", "message"),
    [
        ("mirror", "decoder.border=mirror is unknown; use shift or replicate"),
        ("replicate", "decoder.border=replicate has no effect: .* is convolutional; drop it"),
    ],
)
def test_borders_that_the_decoder_does_not_have_are_refused(border, message):
    model = MODEL if border == "mirror" else ["model=pocket"]
    with pytest.raises(UserError, match=message):
        make_plan(compose([*model, f"decoder.border={border}"]))


def released() -> DiffusionDecoderConfig:
    from test_diffusion_decoder import with_decoder

    return with_decoder()


def test_smaller_tiles_are_taken_where_the_clip_does_not_fit():
    need = DiffusionMemory(released(), (16, 32, 48), 2)  # 121 frames of 1024 x 1536
    assert choose_tiling("auto", None, need, 2 * need.of(None)).tiling is None
    for share in (0.7, 0.5):
        free = int(share * need.of(None))
        choice = choose_tiling("auto", None, need, free)
        assert choice.tiling is not None and choice.needed_bytes <= 0.8 * free
        assert all(
            axis == TileAxis() or axis.overlap >= least
            for axis, least in zip(vars(choice.tiling).values(), (40, 160, 160), strict=True)
        )


@pytest.mark.skipif("mlx" not in BACKENDS, reason="MLX alone counts its arrays on a CPU")
def test_the_estimate_covers_what_a_decode_takes():
    from ltx2.models.diffusion_decoder import DiffusionDecoder
    from ltx2.pipelines.components.video import load_video_decoder

    backend, header = make_backend("mlx"), read_header(GOLDEN / "checkpoints" / FILES["video_vae"])
    decoder = load_video_decoder(header, backend)
    assert isinstance(decoder, DiffusionDecoder) and decoder.config == decoder_config(header)
    grid = (4, 8, 8)
    latent = backend.array(np.zeros((1, *grid, 16), np.float32))
    backend.free()
    backend.reset_peak()
    before = backend.peak_bytes()
    backend.numpy(decoder(latent, noise=lambda shape: np.zeros(shape, np.float32)))
    estimate = DiffusionMemory(decoder.config, grid, 4).of(None)
    assert 0.3 * estimate < backend.peak_bytes() - before < 1.1 * estimate
