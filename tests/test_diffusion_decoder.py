"""The diffusion video decoder: recorded pixels, its parts against plain NumPy, its tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_video_vae_formula import wave

from ltx2.errors import UserError
from ltx2.models import diffusion_decoder_blocks
from ltx2.models.diffusion_decoder import DiffusionDecoder
from ltx2.models.diffusion_decoder_blocks import (
    NeighbourhoodBlock,
    Upsample,
    axis_widths,
    by_frames,
    rotate_grid,
)
from ltx2.models.diffusion_decoder_config import (
    DiffusionDecoderConfig,
    StageConfig,
    UpsampleConfig,
)
from ltx2.models.diffusion_decoder_tiles import Canvas, check_tiles, in_video
from ltx2.models.latents import VideoScale
from ltx2.models.tiling import Span, TileAxis, TileCount, Tiling, tiled_decode
from ltx2.nn.module import params
from ltx2.parity.video_vae import channels_first, channels_last
from ltx2.pipelines.components.video import load_video_decoder
from ltx2.weights.header import read_header

DATA = Path(__file__).parent / "data"
FILE = "checkpoints/ltx-2.5-tiny/vae/ltx-2.5-tiny-video-vae.safetensors"
RENAMES = {"t_embedder.mlp.0.": "linear_1.", "t_embedder.mlp.2.": "linear_2."}
WHOLE = TileAxis()
# The released decoder (spec 3.1), next to the encoder's part that tells the scale.
ENCODER = [["compress_space_res", {}], ["compress_time_res", {}], *[["compress_all_res", {}]] * 2]
RELEASED = {
    "_class_name": "CausalDiffusionVAE",
    "model_output_type": "x0",
    "encoder": {"out_channels": 128, "blocks": ENCODER},
    "decoder": {
        "stage_channels": [2048, 1024, 512, 512, 256],
        "stage5_kernel": [11, 11, 11],
        "timestep_scale_multiplier": 1000,
        "default_num_inference_steps": 1,
    },
}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def with_decoder(**changes) -> DiffusionDecoderConfig:
    return DiffusionDecoderConfig.from_metadata(
        RELEASED | {"decoder": RELEASED["decoder"] | changes}
    )


def small(output: str, steps: int) -> DiffusionDecoderConfig:
    decoder = {
        "in_channels": 8,
        "head_dim": 16,
        "stage_channels": [128, 64, 32, 32, 16],
        "stage_depths": [1, 1, 1, 1, 2],
        "stage_kernels": [[3, 3, 3]] * 4,
        "stage5_kernel": [3, 5, 5],
        "t_emb_dim": 32,
        "default_num_inference_steps": steps,
    }
    config = RELEASED | {"model_output_type": output}
    return DiffusionDecoderConfig.from_metadata(config | {"decoder": RELEASED["decoder"] | decoder})


def formula(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values by the name that the reference's module has."""
    for ours, theirs in RENAMES.items():
        name = name.replace(ours, f"t_embedder.timestep_embedder.{theirs}")
    module, _, leaf = name.rpartition(".")
    if module.endswith("qkv"):
        part = (shape[0] // 3, *shape[1:])
        return np.concatenate([formula(f"{module}.to_{x}.{leaf}", part) for x in "qkv"])
    for part, rule in {"std-of-means": (1, 0.2), "mean-of-means": (0, 0.3)}.items():
        if part in name:
            return wave(name, shape, *rule)
    if "table" in name:
        return wave(name, shape, 0, 0.3)
    if len(shape) < 2:
        is_norm = leaf == "weight" and "norm" in module.rpartition(".")[2]
        return wave(name, shape, *((1, 0.2) if is_norm else (0, 0.1)))
    return wave(name, shape, 0, 1.6 / np.sqrt(np.prod(shape[1:])))


def filled(module, backend):
    """`module` with formula values; gates are one, as in files that have none."""
    for slot in params(module):
        param = slot.value
        value = formula(slot.name, param.shape) if param.default is None else param.default()
        slot.replace(backend.array(value))
    return module


def loaded(golden, backend) -> DiffusionDecoder:
    return load_video_decoder(read_header(golden / FILE), backend)


@pytest.mark.parametrize(
    ("key", "output", "steps", "border"),
    [
        ("x0_1_shift", "x0", 1, "shift"),
        ("x0_1_wreplicate", "x0", 1, "replicate"),
        ("v_2_shift", "v", 2, "shift"),
    ],
)
def test_decoder_gives_the_recorded_pixels(backend, key, output, steps, border):
    decoder = filled(DiffusionDecoder.declare(small(output, steps)), backend)
    decoder.set_border(border)
    latent = channels_last(backend.array(wave("in.latent_d", (1, 8, 2, 3, 4))))
    video = decoder(latent, noise=lambda shape: wave("in.pixel_noise", shape))
    got = channels_first(backend.numpy(video))
    want = json.loads((DATA / "diffusion-formula.json").read_text())[f"diffusion/{key}"]
    assert list(got.shape) == want["shape"]
    index = [i * got.size // 64 for i in range(64)]
    np.testing.assert_allclose(got.reshape(-1)[index], want["values"], rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose([got.mean(), got.std()], [want["mean"], want["std"]], atol=1e-4)


def test_released_metadata_gives_the_published_sizes():
    config = with_decoder()
    assert config.floor == (3, 7, 7) and config.trailing == 2
    assert config.scale == VideoScale(8, 32) and config.cell == VideoScale(2, 8)
    assert config.cell_floor == (6, 6, 6) and config.cell_reach == (20, 20, 20)
    assert config.least_overlap == VideoScale(40, 160)
    assert config.noise_per_tile and not small("v", 2).noise_per_tile
    weights = [
        slot for slot in params(DiffusionDecoder.declare(config)) if "gate_m" not in slot.name
    ]
    count = sum(np.prod(s.value.shape) for s in weights if not s.name.endswith("gate_ctx"))
    assert round(count / 1e6, 1) == 417.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage_depths": [4, 6, 4]}, "stage_depths needs 5 entries"),
        ({"stage_channels": [2048, 1024, 512, 256, 256]}, r"upsamples\[2\] makes 512 .* is 256"),
        ({"head_dim": 48}, "are not heads of 48"),
        ({"stage5_kernel": [3, 7]}, "is not three positive integers"),
        ({"default_num_inference_steps": 0}, "default_num_inference_steps=0"),
        ({"patch_size": 8}, "the decoder makes"),
    ],
)
def test_metadata_that_does_not_fit_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        with_decoder(**changes)


def test_unknown_output_type_is_named():
    with pytest.raises(UserError, match="model_output_type=eps"):
        DiffusionDecoderConfig.from_metadata(RELEASED | {"model_output_type": "eps"})


def test_heads_are_divided_between_the_axes():
    assert axis_widths(64) == (16, 24, 24) and axis_widths(16) == (4, 6, 6)
    assert all(sum(axis_widths(n)) == n and axis_widths(n)[1] % 2 == 0 for n in range(8, 256, 4))


def test_rotation_turns_neighbouring_channels_by_the_position(backend):
    x = random(1, 3, 2, 4, 2, 16)
    got = backend.numpy(rotate_grid(backend.array(x), (5, 0, -2)))
    pairs = x[..., 0::2] + 1j * x[..., 1::2]
    starts, frequency = np.cumsum([0, 2, 3]), []
    for axis, width in enumerate((4, 6, 6)):
        inverse = 10000.0 ** (-2 * np.arange(width // 2) / width)
        position = np.arange(x.shape[axis + 1]) + (5, 0, -2)[axis]
        angle = position[:, None] * inverse
        frequency.append(np.expand_dims(angle, tuple({1, 2, 3} - {axis + 1} | {0, 4})))
    for start, angle, width in zip(starts, frequency, (2, 3, 3), strict=True):
        pairs[..., start : start + width] *= np.exp(1j * angle)
    np.testing.assert_allclose(got[..., 0::2], pairs.real, atol=1e-5)
    np.testing.assert_allclose(got[..., 1::2], pairs.imag, atol=1e-5)


def test_slabs_change_nothing(backend, monkeypatch):
    stage = StageConfig(16, 1, (3, 3, 5))
    block = filled(NeighbourhoodBlock.declare(stage, 16, context_width=8), backend)
    block.replicate = True
    x, context = (backend.array(random(1, 9, 4, 6, n)) for n in (16, 8))
    rows = [backend.array(random(1, 1, 1, 1, 16)) for _ in range(7)]
    whole = backend.numpy(block(x, rows, context))
    monkeypatch.setattr(diffusion_decoder_blocks, "SLAB_ELEMENTS", 16 * 4 * 6 * 2)
    np.testing.assert_allclose(backend.numpy(block(x, rows, context)), whole, atol=2e-5)


def test_pointwise_layers_see_a_few_frames_at_a_time(backend, monkeypatch):
    monkeypatch.setattr(diffusion_decoder_blocks, "SLAB_ELEMENTS", 2 * 3 * 3 * 4)
    seen, x = [], random(1, 5, 3, 3, 2)

    def layer(part):
        seen.append(part.shape[1])
        return part * 2

    np.testing.assert_array_equal(backend.numpy(by_frames(layer, backend.array(x), 4)), 2 * x)
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("from_start", [True, False])
def test_upsampling_puts_channels_into_places(backend, from_start):
    upsample = Upsample.declare(UpsampleConfig((2, 2, 2), 2), 4, 2)
    upsample.proj.weight = backend.array(random(16, 4))
    upsample.proj.bias = backend.array(np.zeros(16, np.float32))
    x = random(1, 2, 3, 3, 4)
    got = backend.numpy(upsample(backend.array(x), from_start))
    y = (x @ random(16, 4).T).reshape(1, 2, 3, 3, 2, 2, 2, 2)
    want = y.transpose(0, 1, 5, 2, 6, 3, 7, 4).reshape(1, 4, 6, 6, 2)
    np.testing.assert_allclose(got, want[:, 1:] if from_start else want, atol=1e-5)


def test_gates_of_the_file_are_rounded_into_the_weights(golden, backend):
    decoder = loaded(golden, backend)
    file, block = backend.open(str(golden / FILE)), decoder.diff_blocks[1]
    name = "decoder.diff_blocks.1"

    def stored(leaf: str) -> np.ndarray:
        return backend.numpy(backend.place(file.get(f"{name}.{leaf}"), "fp32"))

    product = backend.array(stored("mlp.w_down.weight") * stored("gate_mlp")[:, None], "bf16")
    np.testing.assert_array_equal(backend.numpy(block.mlp.w_down.weight), backend.numpy(product))
    assert block.gate_mlp is None and block.gate_msa is None and block.gate_ctx is None


def test_borders_differ_at_the_sides_of_the_picture_alone(golden, backend):
    latent = backend.array(random(1, 1, 3, 8, 16))
    decoder, noise = loaded(golden, backend), fixed_noise()
    decoder.set_border("replicate")
    replicate = backend.numpy(decoder(latent, noise))
    decoder.set_border("shift")
    difference = np.abs(backend.numpy(decoder(latent, noise)) - replicate).max((0, 1, 2, 4))
    # Two blocks with windows of 5 patches of 4 pixels.
    assert difference[:4].min() > 1e-3 and difference[-4:].min() > 1e-3
    assert difference[16:-16].max() < 1e-4
    with pytest.raises(UserError, match=r"decoder.border=shfit is unknown.*shift or replicate"):
        decoder.set_border("shfit")


def fixed_noise():
    """Noise that follows from the place of a pixel."""

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(random(1, 3, 64, 512, 512)[:, :, *map(slice, shape[2:])], shape)

    return draw


@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 4, 1), (3, 3, 3)])
def test_any_grid_decodes_to_its_size(golden, backend, grid):
    drawn = []

    def noise(shape):
        drawn.append(shape)
        return np.zeros(shape, np.float32)

    video = loaded(golden, backend)(backend.array(random(1, *grid, 16)), noise)
    frames, height, width = grid
    assert tuple(video.shape) == (1, 8 * frames - 7, 32 * height, 32 * width, 3)
    padded = [max(3, n) for n in grid]
    assert drawn == [(1, 3, 8 * padded[0] - 7, 32 * padded[1], 32 * padded[2])]


def test_padding_puts_the_clip_in_the_middle_and_at_the_start():
    canvas = Canvas(with_decoder(), (2, 4, 9))
    assert canvas.pads == ((0, 1), (1, 2), (0, 0)) and canvas.grid == (3, 7, 9)
    assert canvas.cells == (9, 28, 36) and canvas.size == (17, 224, 288)
    assert canvas.content == (slice(0, 9), slice(32, 160), slice(0, 288))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_decoder_returns_the_dtype_of_the_latent(golden, backend, dtype):
    header = read_header(golden / FILE)
    exact = backend.numpy(
        loaded(golden, backend)(backend.array(random(1, 1, 1, 2, 16)), noise=zero)
    )
    latent = backend.array(random(1, 1, 1, 2, 16), dtype)
    video = load_video_decoder(header, backend, "bf16")(latent, noise=zero)
    assert video.dtype == latent.dtype
    error = backend.numpy(video) - exact
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.std(exact)


def zero(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_cells_become_frames_and_pixels():
    config = with_decoder()
    spans = [[Span(0, 12, 0, 8), Span(4, 13, 8, 0)], [Span(0, 20, 0, 6)], [Span(14, 30, 6, 0)]]
    frames, rows, columns = in_video(config, spans)
    assert frames == [Span(0, 23, 0, 16), Span(7, 25, 16, 0)]
    assert rows == [Span(0, 160, 0, 48)] and columns == [Span(112, 240, 48, 0)]
    np.testing.assert_allclose(frames[0].window()[7:] + frames[1].window()[:16], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        (Tiling(), "frames: overlap=24 is too small .* at least 40"),
        (Tiling(TileAxis(80, 40), TileAxis(768, 64), WHOLE), "height: overlap=64 .* at least 160"),
        (Tiling(WHOLE, WHOLE, TileAxis(760, 160)), "width: tile_size=760 .* use 736 or 768"),
        (Tiling(WHOLE, TileCount(2), WHOLE), "height: .* by size, not by count"),
    ],
)
def test_tiles_that_share_too_little_are_refused(tiling, message):
    with pytest.raises(UserError, match=message):
        check_tiles(with_decoder(), tiling)


def test_tiles_smaller_than_a_window_are_refused():
    config = with_decoder(stage_depths=[1, 1, 1, 1, 1], stage5_kernel=[47, 11, 11])
    with pytest.raises(UserError, match=r"frames: tile_size=32 is too small .* at least 48"):
        check_tiles(config, Tiling(TileAxis(32, 24), WHOLE, WHOLE))


def test_tiles_agree_with_the_whole_clip_away_from_their_seams(backend):
    decoder = filled(DiffusionDecoder.declare(small("v", 2)), backend)
    latent = backend.array(0.5 * random(1, 4, 3, 6, 8))
    whole = backend.numpy(decoder(latent, fixed_noise()))
    tiling = Tiling(WHOLE, WHOLE, TileAxis(128, 64))
    (tiled,) = (backend.numpy(x) for x in tiled_decode(decoder, latent, tiling, fixed_noise()))
    difference = np.abs(tiled - whole).max((0, 1, 2, 4))
    # Tiles begin at columns 0 and 64; shared columns are a mixture.
    assert difference[:64].max() < 1e-3 and difference[128:].max() < 1e-3
    assert 0 < difference[64:128].max() < 0.2 * np.abs(whole).max()


def test_chunks_come_before_later_tiles_are_decoded(golden, backend):
    decoder, drawn = loaded(golden, backend), []

    def noise(shape):
        drawn.append(shape[2])
        return np.zeros(shape, np.float32)

    latent = backend.array(random(1, 4, 3, 2, 16))
    chunks = tiled_decode(decoder, latent, Tiling(TileAxis(24, 16), WHOLE, WHOLE), noise)
    assert next(chunks).shape[1] == 7 and drawn == [23]
    assert [chunk.shape[1] for chunk in chunks] == [18] and drawn == [23, 18]
