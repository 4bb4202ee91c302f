"""tiling=auto: the default tiles where they fit into the free memory, else smaller ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import BACKENDS, make_backend

import ltx2
from ltx2.app.compose import compose
from ltx2.backends.memory import host_free_bytes
from ltx2.experiment.run import generate
from ltx2.models.latents import Grid
from ltx2.models.tiling import Tiling
from ltx2.models.video_vae_config import BlockConfig, VideoDecoderConfig
from ltx2.pipelines.components.video import load_video_decoder
from ltx2.pipelines.decode_memory import ConvolutionMemory, largest_activation
from ltx2.pipelines.decoding import USABLE, TileChoice, choose_tiling, decode_tiling
from ltx2.pipelines.settings import TilingSettings
from ltx2.weights.header import read_header

POCKET = Path(ltx2.__file__).parent / "pocket" / "ltx-2-pocket.safetensors"
GROUP = BlockConfig("res_x", 5, 1, residual=False, inject_noise=False)
DOUBLE = BlockConfig("compress_all", 1, 2, residual=True, inject_noise=False)
RELEASED = VideoDecoderConfig(
    blocks=(GROUP, DOUBLE, GROUP, DOUBLE, GROUP, DOUBLE, GROUP),
    out_channels=3,
    latent_channels=128,
    base_channels=128,
    patch_size=4,
    padding="reflect",
    causal=False,
    timestep_conditioning=False,
)
FULL_HD: Grid = (16, 34, 60)  # 121 frames of 1088 x 1920
HALF, GB = 16, 10**9  # bytes per element of eight copies in bf16


def planned(grid: Grid = FULL_HD) -> Tiling | None:
    return decode_tiling(TilingSettings(), grid[1] * 32, grid[2] * 32, grid, RELEASED)


def chosen(free: float, mode: str = "auto", grid: Grid = FULL_HD) -> TileChoice:
    return choose_tiling(mode, planned(grid), ConvolutionMemory(RELEASED, grid, HALF), int(free))


def sizes(choice: TileChoice) -> tuple[int, int, int]:
    assert choice.tiling is not None
    return tuple(getattr(choice.tiling, axis).tile_size for axis in ("frames", "height", "width"))


def test_the_largest_activation_follows_widths_and_strides():
    # 128 channels at a quarter of the size: 4 times what each level before it has.
    assert largest_activation(RELEASED, (11, 14, 24)) == 128 * 81 * 112 * 192


def test_the_estimate_adds_the_frames_to_the_activations():
    tile, group = 128 * 121 * 272 * 480, 16 * 8 * 1088 * 1920 * 3
    assert ConvolutionMemory(RELEASED, FULL_HD, HALF).of(None) == 16 * tile + 4 * 4 * group


def test_default_tiles_are_taken_where_they_fit():
    assert chosen(16 * GB).tiling == planned()
    assert chosen(16 * GB).reason.startswith("the default fits (about 11.24 GB, 16.00 GB are free)")


@pytest.mark.parametrize("free", [12, 8, 6])
def test_smaller_tiles_are_taken_where_the_default_ones_do_not_fit(free):
    choice = chosen(free * GB)
    assert choice.needed_bytes <= USABLE * free * GB < chosen(100 * GB).needed_bytes
    assert max(sizes(choice)[1:]) < 768
    assert "the default does not fit" in choice.reason
    choice.tiling.check(RELEASED.scale, FULL_HD)


def test_of_the_tiles_that_fit_those_that_decode_least_twice_are_taken():
    need = ConvolutionMemory(RELEASED, FULL_HD, HALF)
    work = [need.work(chosen(free * GB).tiling) for free in (16, 12, 8, 6)]
    assert work == sorted(work) and work[0] < work[-1]


def test_a_clip_of_one_tile_is_split_when_it_does_not_fit():
    small: Grid = (10, 16, 24)
    assert planned(small) is None and chosen(100 * GB, grid=small).tiling is None
    choice = chosen(3 * GB, grid=small)
    assert choice.tiling is not None and choice.needed_bytes <= USABLE * 3 * GB


def test_the_smallest_tiles_are_tried_with_a_warning_when_nothing_fits(caplog):
    choice = chosen(GB)
    assert choice.needed_bytes > GB and choice.needed_bytes == chosen(1).needed_bytes
    assert "may run out of memory: about" in caplog.text and "1.00 GB are free" in caplog.text


@pytest.mark.parametrize("mode", ["off", "size"])
def test_a_mode_that_was_asked_for_is_kept_whatever_the_memory(mode, caplog):
    caplog.set_level(logging.INFO)
    choice = chosen(1, mode)
    assert choice.tiling == planned()
    assert f"tiles of 80 frames, 448 x 768 pixels: tiling.mode={mode}" in caplog.text


def test_a_run_records_its_tiles_and_why(tmp_path, backend):
    settings = compose(["pipeline=one_stage", "scheduler.steps=1", "frames=9", "dtype=fp32"])
    generate(settings, lambda: backend, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())["statistics"]["tiling"]
    assert record["reason"].startswith("the default fits")
    assert record["frames"] is None and record["free_bytes"] > record["needed_bytes"] > 0


@pytest.mark.skipif("mlx" not in BACKENDS, reason="MLX alone counts its arrays on a CPU")
def test_the_estimate_is_what_a_decode_takes():
    backend = make_backend("mlx")
    decoder = load_video_decoder(read_header(POCKET), backend)
    grid: Grid = (5, 8, 8)
    latent = backend.array(np.zeros((1, *grid, 16), np.float32))
    backend.free()
    backend.reset_peak()
    before = backend.peak_bytes()
    backend.numpy(decoder(latent))
    estimate = ConvolutionMemory(decoder.config, grid, backend.activation_bytes("fp32")).of(None)
    assert 0.5 * estimate < backend.peak_bytes() - before < 1.1 * estimate


def test_free_memory_is_a_figure_of_this_machine(backend):
    assert 0 < backend.free_bytes() < 2**50
    assert backend.activation_bytes("bf16") <= backend.activation_bytes("fp32")


def test_the_limit_of_a_container_counts(tmp_path):
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", "MemTotal: 64 kB\nMemAvailable:  4000000 kB\n")
    assert host_free_bytes(tmp_path) == 4_096_000_000
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", "900\n")
    assert host_free_bytes(tmp_path) == 4_096_000_000
    write("sys/fs/cgroup/memory.max", "1000\n")
    assert host_free_bytes(tmp_path) == 100
    # Cached files are dropped when memory is wanted.
    write("sys/fs/cgroup/memory.stat", "anon 600\ninactive_file 300\n")
    assert host_free_bytes(tmp_path) == 400
