"""Reading the pictures users have: orientation, depth, transparency, colour profiles."""

import logging

import numpy as np
import pytest
from PIL import Image, ImageCms

from ltx2.errors import MissingFile, UserError
from ltx2.media.images import read_image, recompress, write_png
from ltx2.media.reading import read_comment

UPRIGHT = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


def stored_as(orientation):
    """The stored array that orientation tag `orientation` turns into UPRIGHT (EXIF 2.3, 4.6.4)."""
    up = UPRIGHT
    return {
        1: up, 2: up[:, ::-1], 3: up[::-1, ::-1], 4: up[::-1],
        5: up.swapaxes(0, 1), 6: np.rot90(up, 1), 7: np.rot90(up.swapaxes(0, 1), 2),
        8: np.rot90(up, -1),
    }[orientation]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(np.ascontiguousarray(stored_as(orientation))).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), UPRIGHT)


def test_sixteen_bit_gray_keeps_its_high_byte(tmp_path):
    deep = np.array([[0, 256, 65535], [128 * 256, 5, 300]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    got = read_image(tmp_path / "deep.png")
    np.testing.assert_array_equal(got, np.repeat((deep >> 8)[..., None], 3, axis=2))


def test_transparency_is_composited_over_black(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0], rgba[0, :, 3], rgba[1, :, 3] = 200, [0, 255], 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[..., 0].tolist() == [[0, 200], [100, 100]]
    Image.fromarray(rgba[..., [0, 3]]).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png")[..., 2].tolist() == [[0, 200], [100, 100]]


def test_palette_gray_and_bilevel_become_rgb(tmp_path):
    gray = np.array([[0, 255], [255, 0]], np.uint8)
    for mode in ("L", "P", "1"):
        Image.fromarray(gray).convert(mode).save(tmp_path / f"{mode}.png")
        np.testing.assert_array_equal(read_image(tmp_path / f"{mode}.png")[..., 1], gray)


def test_transparent_palette_entry_becomes_black(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8), mode="P")
    image.putpalette([250, 0, 0, 0, 250, 0])
    image.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png").tolist() == [
        [[0, 0, 0], [0, 250, 0]], [[0, 250, 0], [0, 250, 0]],
    ]  # fmt: skip


def test_srgb_profile_changes_nothing_and_a_foreign_one_does(tmp_path):
    pixels = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "srgb.png", icc_profile=srgb)
    np.testing.assert_allclose(read_image(tmp_path / "srgb.png"), pixels, atol=1)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(pixels).convert("LAB").save(tmp_path / "lab.tif", icc_profile=lab)
    np.testing.assert_allclose(read_image(tmp_path / "lab.tif"), pixels, atol=6)


def test_broken_profile_warns_and_is_ignored(tmp_path, caplog):
    Image.fromarray(UPRIGHT).save(tmp_path / "x.png", icc_profile=b"nonsense")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read_image(tmp_path / "x.png"), UPRIGHT)
    assert "profile" in caplog.text


def test_unusable_paths_are_explained(tmp_path):
    (tmp_path / "note.png").write_text("not a picture")
    Image.fromarray(np.zeros((1, 5, 3), np.uint8)).save(tmp_path / "thin.png")
    with pytest.raises(MissingFile, match=r"absent\.png does not exist"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(UserError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(tmp_path / "note.png")
    with pytest.raises(UserError, match="5x1 px; both sides"):
        read_image(tmp_path / "thin.png")


def test_truncated_picture_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(tmp_path / "half.png")


def test_recompression_degrades_with_crf_and_crops_to_even():
    y, x = np.mgrid[0:65, 0:97]
    image = np.stack([x * 2, y * 3, (x * y) % 256], -1).astype(np.uint8)
    errors = []
    for crf in (1, 18, 33):
        got = recompress(image, crf)
        assert got.shape == (64, 96, 3) and got.dtype == np.uint8
        errors.append(np.abs(got.astype(int) - image[:64, :96]).mean())
    assert 0 < errors[0] < errors[1] < errors[2] < 40
    gray = np.full((16, 16, 3), 120, np.uint8)
    np.testing.assert_allclose(recompress(gray, 18), gray, atol=2)


def test_recompression_is_off_at_crf_0_and_for_single_rows():
    assert recompress(UPRIGHT, 0) is UPRIGHT
    assert recompress(UPRIGHT[:1], 33).shape == (1, 3, 3)
    with pytest.raises(UserError, match=r"crf=52 is not in 0\.\.51"):
        recompress(UPRIGHT, 52)


def test_png_round_trips_pixels_and_comment(tmp_path):
    write_png(tmp_path / "x.png", UPRIGHT, comment='{"ü": "漢"}')
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), UPRIGHT)
    assert read_comment(tmp_path / "x.png") == '{"ü": "漢"}'
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
