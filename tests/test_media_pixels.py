"""Pixel conversions against the recorded reference and against hand-computed values."""

import numpy as np
import pytest

from ltx2.errors import UserError
from ltx2.media.contact import contact_sheet
from ltx2.media.pixels import cover_resize, fit_reflect, rgb24, to_unit_range, yuv420p
from ltx2.parity import media  # noqa: F401  registers the component
from ltx2.parity.registry import RUNNERS, Case, tolerance


def test_pixel_conversions_equal_the_reference(golden):
    case = Case(golden / "cases" / "media__pixels", backend=None)
    got = RUNNERS["media.pixels"](case)
    assert got.keys() == case.outputs.keys()
    for name, stored in case.outputs.items():
        rtol, atol = tolerance(case.record, name)
        assert got[name].dtype == stored.dtype
        np.testing.assert_allclose(
            got[name].astype(float), stored.astype(float), rtol, atol, err_msg=name
        )


def test_8_bit_planes_equal_the_reference_exactly(golden):
    case = Case(golden / "cases" / "media__pixels", backend=None)
    got = RUNNERS["media.pixels"](case)
    for name in ("rgb24", "yuv420p"):
        np.testing.assert_array_equal(got[name], case.outputs[name])


def test_white_black_and_red_have_their_bt709_codes():
    colours = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0]], np.float32)
    planes = yuv420p(np.broadcast_to(colours[:, None, None], (3, 2, 2, 3)))
    assert planes[0].ravel().tolist() == [235] * 4 + [128, 128]
    assert planes[1].ravel().tolist() == [16] * 4 + [128, 128]
    assert planes[2].ravel().tolist() == [62] * 4 + [102, 240]


def test_8_bit_and_float_pictures_give_the_same_planes():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(yuv420p(pixels), yuv420p(pixels.astype(np.float32) / 255))


def test_odd_size_names_the_even_one():
    with pytest.raises(UserError, match=r"5x8 is odd.*use 4x8"):
        yuv420p(np.zeros((1, 5, 8, 3), np.float32))


def test_same_size_is_left_alone():
    frames = np.random.default_rng(0).integers(0, 256, (2, 7, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cover_resize(frames, 7, 9), frames)
    np.testing.assert_array_equal(fit_reflect(frames, 7, 9), frames)


def test_crop_is_central_with_the_offset_rounded_down():
    frames = np.arange(7, dtype=np.uint8)[None, None, :, None] * np.ones((1, 2, 1, 3), np.uint8)
    np.testing.assert_array_equal(cover_resize(frames, 2, 4)[0, 0, :, 0], [1, 2, 3, 4])


def test_doubling_interpolates_at_quarters():
    row = np.array([0, 100], np.uint8)[None, None, :, None] * np.ones((1, 2, 1, 3), np.uint8)
    np.testing.assert_allclose(cover_resize(row, 4, 4)[0, 0, :, 0], [0, 25, 75, 100])


def test_small_pads_are_reflected_and_large_sources_shrunk():
    frames = np.arange(4, dtype=np.uint8)[None, None, :, None] * np.ones((1, 4, 1, 3), np.uint8)
    np.testing.assert_array_equal(fit_reflect(frames, 4, 6)[0, 0, :, 0], [0, 1, 2, 3, 2, 1])
    assert fit_reflect(np.zeros((1, 80, 40, 3), np.uint8), 40, 40).shape == (
        1,
        40,
        40,
        3,
    )


def test_unit_range_ends_at_one():
    np.testing.assert_array_equal(to_unit_range(np.array([0, 255], np.uint8)), [-1, 1])


def test_rgb24_truncates_and_clamps():
    frames = np.array([-0.1, 0.5, 0.999, 1.2], np.float32)
    assert rgb24(frames).tolist() == [0, 127, 254, 255]


def test_contact_sheet_holds_first_and_last_frame_inside_borders():
    frames = np.arange(1, 10, dtype=np.uint8)[:, None, None, None] * np.ones((4, 6, 3), np.uint8)
    sheet = contact_sheet(frames, count=3, columns=2, border_px=1)
    assert sheet.shape == (2 * 5 + 1, 2 * 7 + 1, 3)
    assert [sheet[1, 1, 0], sheet[1, 8, 0], sheet[6, 1, 0]] == [1, 5, 9]
    assert not sheet[0].any() and not sheet[5].any() and not sheet[6:, 8:].any()


def test_contact_sheet_tiles_can_be_shrunk():
    sheet = contact_sheet(np.full((1, 40, 60, 3), 7, np.uint8), tile_width=30, border_px=0)
    assert sheet.shape == (20, 30, 3) and (sheet == 7).all()
