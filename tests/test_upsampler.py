"""Latent upsamplers: metadata, structure, use, goldens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ltx2.errors import UserError
from ltx2.models.upsampler import BlurDown, LatentUpsampler, UpsamplerConfig, binomial_kernel
from ltx2.nn.module import parameter_count, params
from ltx2.parity.registry import RUNNERS, Case, tolerance
from ltx2.parity.upsampler import run
from ltx2.pipelines.components.upsampler import (
    load_upsampler,
    upsample,
    upsampled_grid,
    upsampler_kind,
)
from ltx2.pipelines.components.video import load_statistics
from ltx2.weights.header import read_header

CASES = Path(__file__).parent / "golden" / "cases"
NAMES = sorted(folder.name for folder in CASES.glob("upsampler__*"))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_golden_case_is_reproduced(name, backend):
    case = Case(CASES / name, backend)
    assert RUNNERS[case.component] is run
    got = run(case)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)


@pytest.mark.parametrize(
    ("options", "tensors", "count"),
    [
        ({"mid_channels": 1024}, 72, 497_867_904),
        ({"mid_channels": 1024, "rational_resampler": True}, 73, 497_867_929),
        (
            {"mid_channels": 1024, "rational_resampler": True, "spatial_scale": 1.5},
            73,
            545_058_969,
        ),
        ({"spatial_upsample": False, "temporal_upsample": True}, 72, 130_968_192),
    ],
)
def test_released_sizes_follow_from_the_metadata(options, tensors, count):
    module = LatentUpsampler.declare(UpsamplerConfig.from_metadata(options))
    assert len(params(module)) == tensors
    assert parameter_count(module) == count


@pytest.mark.parametrize(
    ("name", "kind", "grid"),
    [
        ("spatial-upscaler-x2", "spatial x2", (3, 10, 12)),
        ("spatial-upscaler-x1.5", "spatial x1.5", (3, 8, 9)),
        ("temporal-upscaler-x2", "temporal x2", (5, 5, 6)),
    ],
)
def test_kind_and_grid_follow_from_the_header(golden, name, kind, grid):
    header = read_header(golden / "checkpoints" / f"{name}-tiny.safetensors")
    assert upsampler_kind(header) == kind
    assert upsampled_grid(header, (3, 5, 6)) == grid


@pytest.mark.parametrize("name", ["lora-tiny", "ltx-2-tiny"])
def test_file_of_another_kind_is_refused(golden, name):
    header = read_header(golden / "checkpoints" / f"{name}.safetensors")
    with pytest.raises(UserError, match=f"{name}.safetensors is not a latent upsampler"):
        upsampler_kind(header)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_upsample": False}, "are both false"),
        ({"rational_resampler": True, "spatial_scale": 3}, "spatial_scale=3; known: 0.75, 1.5"),
        ({"dims": 2}, "dims=2"),
    ],
)
def test_impossible_metadata_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        UpsamplerConfig.from_metadata(options)


def test_joint_upsampler_doubles_all_axes_but_for_the_first_frame(backend):
    config = UpsamplerConfig(4, 32, 0, (2, 1), 2, rational=False)
    assert config.kind == "spatial and temporal x2"
    module = LatentUpsampler.declare(config)
    for slot in params(module):
        array = backend.array(random(*slot.value.shape))
        slot.replace(backend.place(array, "fp32", slot.value.kind))
    finer = backend.numpy(module(backend.array(random(1, 3, 2, 2, 4))))
    assert finer.shape[1:4] == config.grid((3, 2, 2)) == (5, 4, 4)


def test_blur_is_skipped_where_nothing_is_decimated(backend):
    kernel = backend.place(backend.array(binomial_kernel()), "fp32", "conv")
    x = random(1, 2, 5, 6, 3)
    np.testing.assert_array_equal(backend.numpy(BlurDown(kernel, 1)(backend.array(x))), x)


def test_blur_weighs_neighbours_binomially_and_pads_with_zeros(backend):
    kernel = backend.place(backend.array(binomial_kernel()), "fp32", "conv")
    got = backend.numpy(BlurDown(kernel, 2)(backend.array(np.ones((1, 1, 5, 6, 2), np.float32))))
    rows, columns = np.array([11, 16, 11]) / 16, np.array([11, 16, 15]) / 16
    np.testing.assert_allclose(got[0, 0, ..., 1], np.outer(rows, columns), atol=1e-6)


def test_missing_blur_kernel_is_rebuilt(golden, backend):
    header = read_header(golden / "checkpoints" / "spatial-upscaler-x1.5-tiny.safetensors")
    tensors = {n: t for n, t in header.tensors.items() if "blur_down" not in n}
    whole, converted = (
        load_upsampler(h, backend) for h in (header, dataclasses.replace(header, tensors=tensors))
    )
    latent = backend.array(random(1, 2, 3, 3, 16))
    np.testing.assert_array_equal(backend.numpy(converted(latent)), backend.numpy(whole(latent)))


def test_upsampler_for_another_latent_width_is_refused(golden, backend):
    header = read_header(golden / "checkpoints" / "spatial-upscaler-x2-tiny.safetensors")
    model = read_header(golden / "checkpoints" / "ltx-2-tiny.safetensors")
    statistics = load_statistics(model, backend)
    with pytest.raises(UserError, match="takes 16 channels, the latent has 8"):
        upsample(load_upsampler(header, backend), statistics, backend.array(random(1, 1, 2, 2, 8)))


def test_bfloat16_weights_return_the_latents_dtype(golden, backend):
    header = read_header(golden / "checkpoints" / "spatial-upscaler-x2-tiny.safetensors")
    model = read_header(golden / "checkpoints" / "ltx-2-tiny.safetensors")
    statistics = load_statistics(model, backend)
    latent = backend.array(random(1, 2, 3, 3, 16))
    exact = upsample(load_upsampler(header, backend), statistics, latent)
    rough = upsample(load_upsampler(header, backend, "bf16"), statistics, latent)
    assert rough.dtype == latent.dtype
    error = backend.numpy(rough) - backend.numpy(exact)
    assert 0 < np.sqrt(np.mean(error**2)) < 0.05 * np.std(backend.numpy(exact))
