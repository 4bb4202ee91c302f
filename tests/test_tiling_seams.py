"""Seams of a tiled decode on a moving edge: smaller than the VAE's own errors, and no step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import BACKENDS, make_backend
from pocket_oracle import BACKGROUNDS, COLOURS

import ltx2
from ltx2.models.tiling import TileAxis, Tiling, decode_frames
from ltx2.pipelines.components.video import load_video_decoder, load_video_encoder
from ltx2.weights.header import read_header

POCKET = Path(ltx2.__file__).parent / "pocket" / "ltx-2-pocket.safetensors"
FRAMES, HEIGHT, WIDTH = 33, 64, 448
# In latents: tiles of 16 that share 4, and of 6 frames that share 3 (24, 2, 10, 3 by default).
SIDE, TIME = TileAxis(256, 64), TileAxis(24, 12)
LEVEL = 1 / 255


def moving_edge() -> np.ndarray:
    """(F, H, W, 3) in [0, 1]: red pushes white to the right, over the middle of the picture."""
    frame, column = np.arange(FRAMES)[:, None, None, None], np.arange(WIDTH)[:, None]
    red = np.clip(0.3 * WIDTH + 0.4 * WIDTH * frame / FRAMES - column + 0.5, 0, 1)
    picture = red * COLOURS["red"] + (1 - red) * BACKGROUNDS["white"]
    return np.broadcast_to(picture, (FRAMES, HEIGHT, WIDTH, 3)).astype(np.float32)


class Clip:
    """The moving edge through the pocket VAE, decoded whole and by any tiling."""

    def __init__(self, name: str) -> None:
        backend, header = make_backend(name), read_header(POCKET)
        self.given = moving_edge()
        self.decoder = load_video_decoder(header, backend)
        encoder = load_video_encoder(header, backend)
        self.latent = encoder(backend.array(self.given[None] * 2 - 1))
        self.whole = self.decoded(None)

    def decoded(self, tiling: Tiling | None) -> np.ndarray:
        return np.concatenate(list(decode_frames(self.decoder, self.latent, tiling)))

    def difference(self, tiling: Tiling) -> np.ndarray:
        return self.decoded(tiling) - self.whole


@pytest.fixture(scope="module", params=BACKENDS)
def clip(request) -> Clip:
    return Clip(request.param)


def along(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean size of `values` at every position of an axis of the clip."""
    return np.abs(values).mean(axis=tuple(i for i in range(4) if i != axis))


def tiling(time: TileAxis, side: TileAxis) -> Tiling:
    return Tiling(time, TileAxis(), side)


def test_differences_at_seams_are_below_the_error_of_the_vae(clip):
    error = along(clip.whole - clip.given, 2).mean()
    columns = along(clip.difference(tiling(TileAxis(), SIDE)), 2)
    assert 0 < columns.max() < 0.3 * error
    # A column outside both ends of the shared ones and the convolutions' reach sees one tile.
    assert columns[:128].max() < LEVEL / 100 and columns[320:].max() < LEVEL / 100
    frames = along(clip.difference(tiling(TIME, TileAxis())), 0)
    assert 0 < frames.max() < 0.1 * error


@pytest.mark.parametrize(
    ("axis", "shared", "apart", "limit"),
    [
        (2, tiling(TileAxis(), SIDE), tiling(TileAxis(), TileAxis(256, 0)), 2.0),
        (0, tiling(TIME, TileAxis()), tiling(TileAxis(24, 0), TileAxis()), 0.7),
    ],
    ids=["columns", "frames"],
)
def test_no_step_is_visible_across_a_seam(clip, axis, shared, apart, limit):
    def steps(made: Tiling) -> np.ndarray:
        return along(np.diff(clip.difference(made), axis=axis), axis)

    edge = along(np.diff(clip.whole, axis=axis), axis).max()
    assert steps(shared).max() < min(limit * LEVEL, edge / 5)
    # Without shared latents the same measure sees the seam.
    assert steps(apart).max() > 2 * limit * LEVEL


def test_tiles_along_all_axes_stay_close_to_the_whole_decode(clip):
    difference = clip.difference(tiling(TIME, SIDE))
    # 45 dB
    assert np.sqrt(np.square(difference).mean()) < 0.0056
