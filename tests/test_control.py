"""Control clips: edges where they are, gray maps untouched, dots where the table says."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ltx2.errors import UserError
from ltx2.media.control import (
    CONTROLS,
    canny,
    check_control,
    check_reference,
    control_frames,
    depth,
    luma,
    pose,
    reference_clip,
)
from ltx2.media.control_edges import blurred, connected, edges, sobel
from ltx2.media.control_tracks import motion_tracks, read_tracks, track_colour
from ltx2.media.pixels import cover_resize
from ltx2.media.video import VideoWriter, read_video

NOISE = np.random.default_rng(3)


def gray(picture):
    """(H, W) -> a clip of one uint8 RGB frame."""
    return np.repeat(np.asarray(picture, np.uint8)[None, ..., None], 3, axis=-1)


def rectangle(height=64, width=96):
    picture = np.zeros((height, width), np.uint8)
    picture[20:40, 30:70] = 200
    return picture


def table(tmp_path, *rows, header="track,frame,x,y"):
    path = tmp_path / "points.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_clip(path, frames, fps=24):
    with VideoWriter(path, fps) as writer:
        writer.write(frames)
    return path


def test_edges_of_a_rectangle_are_thin_and_where_it_ends():
    marked = canny(gray(rectangle()))[0, ..., 0]
    assert set(np.unique(marked)) == {0, 255}
    for row in range(24, 36):
        assert np.flatnonzero(marked[row]).tolist() == [29, 69]
    for column in range(34, 66):
        assert np.flatnonzero(marked[:, column]).tolist() == [19, 39]
    outside = np.ones_like(marked)
    outside[19:41, 29:71] = 0
    assert not marked[outside == 1].any()


def test_a_rectangle_gives_one_closed_outline():
    marked = canny(gray(rectangle()))[0, ..., 0] > 0
    assert ndimage.label(marked, np.ones((3, 3)))[1] == 1
    # A gap would join the inside to the outside.
    assert ndimage.label(~marked)[1] == 2


@pytest.mark.parametrize("step", [-1, 1])
def test_a_diagonal_edge_is_a_staircase_along_the_diagonal(step):
    rows, columns = np.mgrid[:48, :48]
    picture = np.where(rows > columns, 220, 30)[:, ::step]
    marked = canny(gray(picture))[0, :, ::step, 0] > 0
    for row in range(8, 40):
        assert np.flatnonzero(marked[row]).tolist() == [row - 1, row]


def test_edges_reach_the_border_and_the_border_is_none():
    picture = np.zeros((32, 40), np.uint8)
    picture[:, 20:] = 255
    marked = canny(gray(picture))[0, ..., 0]
    assert np.argwhere(marked).tolist() == [[row, 19] for row in range(32)]


def test_faint_edges_stay_only_where_they_continue_a_strong_one():
    picture = np.full((90, 120), 100.0)
    picture[:, 30:] += np.interp(np.arange(90), [25, 60], [60, 14])[:, None]
    picture[65:85, 90:110] += 14
    followed, strong = edges_between(picture, 0.1, 0.2), edges_between(picture, 0.2, 0.2)
    assert (strong[:40, 29:31].sum(axis=1) == 1).all() and not strong[65:].any()
    assert (followed[:, 29:31].sum(axis=1) == 1).all()
    assert not followed[:, 31:].any()
    assert edges_between(picture, 0.1, 0.1)[70:80, [89, 109]].all()


def edges_between(picture, low, high):
    return canny(gray(picture), low, high)[0, ..., 0] > 0


@pytest.mark.parametrize("seed", range(4))
def test_hysteresis_keeps_the_components_that_hold_a_strong_pixel(seed):
    random = np.random.default_rng(seed)
    weak = random.random((60, 70)) < 0.35
    strong = weak & (random.random((60, 70)) < 0.02)
    labels, _ = ndimage.label(weak, np.ones((3, 3)))
    np.testing.assert_array_equal(
        connected(strong, weak), np.isin(labels, np.unique(labels[strong]))
    )


def test_hysteresis_does_not_wrap_around_the_picture():
    strong, weak = np.zeros((3, 5), bool), np.zeros((3, 5), bool)
    strong[1, 4] = weak[1, 4] = weak[2, 0] = weak[1, 0] = weak[0, 0] = True
    np.testing.assert_array_equal(connected(strong, weak), strong)


def test_blur_and_gradient_are_the_textbook_ones():
    picture = NOISE.random((23, 31)).astype(np.float32)
    for sigma in (0.5, 1.0, 2.5):
        wanted = ndimage.gaussian_filter(picture, sigma, mode="nearest", truncate=4)
        np.testing.assert_allclose(blurred(picture, sigma), wanted, atol=2e-6)
    down, right = sobel(picture)
    np.testing.assert_allclose(down, ndimage.sobel(picture, 0, mode="nearest"), atol=2e-6)
    np.testing.assert_allclose(right, ndimage.sobel(picture, 1, mode="nearest"), atol=2e-6)


def test_no_blur_leaves_the_picture_alone():
    picture = NOISE.random((9, 7)).astype(np.float32)
    np.testing.assert_array_equal(blurred(picture, 0), picture)


@pytest.mark.parametrize("turns", range(4))
def test_turning_the_picture_turns_its_gradient(turns):
    picture = ndimage.gaussian_filter(NOISE.random((40, 40)), 3).astype(np.float32) * 4
    here = edges(picture, 0.05, 0.1, 1.0)
    there = np.rot90(edges(np.rot90(picture, turns), 0.05, 0.1, 1.0), -turns)
    assert here.sum() > 50
    assert (here == there).mean() > 0.99


def test_flat_pictures_have_no_edge_at_any_threshold():
    assert not canny(gray(np.full((16, 16), 77)), 0, 0).any()


def test_a_step_of_twenty_levels_is_strong_and_one_of_nineteen_is_not():
    for step, found in ((19, False), (20, True)):
        picture = np.full((16, 32), 50, np.uint8)
        picture[:, 16:] += step
        assert edges_between(picture, 0.2, 0.2).any() == found


def test_every_picture_of_a_clip_is_treated_alone():
    clip = np.concatenate([gray(p) for p in (rectangle(), 0 * rectangle(), rectangle()[::-1])])
    together = canny(clip)
    np.testing.assert_array_equal(together, np.concatenate([canny(f[None]) for f in clip]))
    assert not together[1].any()


def test_luma_weighs_the_primaries_and_keeps_gray():
    primaries = np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]], np.uint8)
    assert luma(primaries)[0, 0].tolist() == [[54] * 3, [182] * 3, [18] * 3]
    ramp = gray(np.arange(256).reshape(1, 256))
    np.testing.assert_array_equal(luma(ramp), ramp)


def test_a_gray_depth_map_stays_and_a_tinted_one_loses_its_tint():
    ramp = gray(np.arange(256).reshape(16, 16))
    np.testing.assert_array_equal(depth(ramp), ramp)
    tinted = np.clip(ramp + np.array([3, 0, -4]), 0, 255).astype(np.uint8)
    untinted = depth(tinted)
    assert (np.ptp(untinted, axis=-1) == 0).all()
    assert np.abs(untinted.astype(int) - ramp).max() <= 2


def test_poses_pass_unchanged():
    clip = NOISE.integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(pose(clip), clip)
    np.testing.assert_array_equal(control_frames("none", clip), clip)


@pytest.mark.parametrize("kind", [kind for kind in CONTROLS if kind != "tracks"])
def test_every_kind_keeps_shape_and_type(kind):
    clip = gray(rectangle())
    got = control_frames(kind, clip)
    assert got.shape == clip.shape and got.dtype == np.uint8
    wanted = {"canny": canny, "luma": luma, "depth": depth}.get(kind, pose)(clip)
    np.testing.assert_array_equal(got, wanted)


def centre(frame):
    """x, y of the centre of brightness."""
    weight = frame.max(axis=-1).astype(float)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()


def test_a_dot_moves_in_a_straight_line_between_its_points(tmp_path):
    path = table(tmp_path, "a,2,10,20", "a,10,50,28.5")
    clip = motion_tracks(path, 13, 48, 64, radius=3, trail=0)
    for frame in range(2, 11):
        wanted = 10 + (frame - 2) * 5, 20 + (frame - 2) * 8.5 / 8
        np.testing.assert_allclose(centre(clip[frame]), wanted, atol=0.05)
    assert not clip[[0, 1, 11, 12]].any()


def test_a_dot_is_a_disc_of_its_radius_with_a_soft_rim(tmp_path):
    clip = motion_tracks(table(tmp_path, "a,0,16,16"), 1, 32, 32, radius=5, trail=0)
    red = clip[0, ..., 0].astype(float) / 255
    assert clip[0, 16, 16].tolist() == [255, 0, 0]
    assert clip[0, 16, [11, 21]].tolist() == [[128, 0, 0]] * 2
    assert not clip[0, 16, [10, 22]].any()
    np.testing.assert_allclose(red.sum(), np.pi * 25, rtol=0.01)


def test_fractions_pixels_and_pixels_of_a_larger_clip_mean_the_same_place(tmp_path):
    fractions = table(tmp_path, "a,0,0.25,0.5", header="track,frame,x_norm,y_norm")
    np.testing.assert_allclose(read_tracks(fractions, 1, 32, 64)[0].positions, [[15.5, 15.5]])
    pixels = table(tmp_path, "a,0,15.5,15.5")
    np.testing.assert_allclose(read_tracks(pixels, 1, 32, 64)[0].positions, [[15.5, 15.5]])
    larger = table(tmp_path, "a,0,31.5,31.5")
    np.testing.assert_allclose(
        read_tracks(larger, 1, 32, 64, (64, 128))[0].positions, [[15.5, 15.5]]
    )


def test_trails_fade_with_age_and_stay_behind_a_dot_that_ended(tmp_path):
    path = table(tmp_path, "a,0,4,8", "a,4,44,8")
    clip = motion_tracks(path, 8, 16, 64, radius=2, trail=3)
    assert clip[4, 8, [39, 29, 19, 9, 44], 0].tolist() == [191, 128, 64, 0, 255]
    assert clip[5, 8, [39, 29, 19], 0].tolist() == [128, 64, 0]
    assert clip[6, 8, [39, 29], 0].tolist() == [64, 0]
    assert not clip[7].any()


def test_tracks_have_colours_of_their_own_and_keep_them(tmp_path):
    path = table(tmp_path, "left,0,8,8", "right,0,40,8", "left,3,8,20", "right,3,40,20")
    clip = motion_tracks(path, 4, 32, 48, radius=3, trail=2)
    colours = [np.rint(track_colour(index)).astype(int).tolist() for index in range(2)]
    assert clip[0, 8, [8, 40]].tolist() == clip[3, 20, [8, 40]].tolist() == colours
    distances = [
        np.abs(track_colour(i) - track_colour(j)).sum() for i in range(8) for j in range(i)
    ]
    assert min(distances) > 60


def test_rows_may_come_in_any_order_with_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(b"\xef\xbb\xbfX, Y ,Track,FRAME\r\n\r\n30,8,a,4\r\n ,,,\r\n10,8,a,0.0\r\n")
    np.testing.assert_allclose(
        read_tracks(path, 5, 16, 40)[0].positions[:, 0], [10, 15, 20, 25, 30]
    )


def test_dots_outside_the_picture_are_cut_at_its_border(tmp_path):
    path = table(tmp_path, "a,0,-10,8", "a,2,10,8", "b,0,31,15", "c,0,60,30")
    clip = motion_tracks(path, 3, 16, 32, radius=3)
    assert clip[1, 8, 0, 0] == 255
    assert clip[0, 15, 31].any() and not clip[0, :, :20].any()


BAD_TABLES = {
    "missing column": ("track,frame,x", ["a,0,1"], r"line 1: column 'y' is missing"),
    "missing fraction": ("track,frame,x_norm,y", ["a,0,1,1"], "column 'y_norm' is missing"),
    "surplus": ("track,frame,x,y,visible", ["a,0,1,1,1"], "line 1: column 'visible' is unknown"),
    "twice": ("track,frame,x,x,y", ["a,0,1,1,1"], "line 1: a column appears twice"),
    "no header": ("a,0,10,10", ["a,1,10,10"], "column 'track' is missing"),
    "no rows": ("track,frame,x,y", [], "holds no point"),
    "short row": ("track,frame,x,y", ["a,0,1,2", "a,1,5"], "line 3: 3 values for 4 columns"),
    "word": ("track,frame,x,y", ["a,0,left,2"], "line 2: x='left' is not a number"),
    "empty": ("track,frame,x,y", ["a,0,3,"], "line 2: y='' is not a number"),
    "not finite": ("track,frame,x,y", ["a,0,nan,2"], "line 2: x='nan' is not a number"),
    "half frame": ("track,frame,x,y", ["a,1.5,3,2"], "line 2: frame=1.5 is not whole; use 1"),
    "negative": ("track,frame,x,y", ["a,-1,3,2"], "line 2: frame=-1 .* use 0 to 8"),
    "beyond": ("track,frame,x,y", ["a,0,3,2", "", "a,9,3,2"], "line 4: frame=9 .* use 0 to 8"),
    "same frame": ("track,frame,x,y", ["a,1,3,2", "a,1,3,4"], "line 3: track a has a second"),
    "nameless": ("track,frame,x,y", [",1,3,2"], "line 2: the track has no name"),
    "far": ("track,frame,x,y", ["a,0,3,900"], "line 2: y=900 is far outside .* 0 to 32"),
    "unit": ("track,frame,x_norm,y_norm", ["a,0,30,20"], "name the columns x and y"),
    "fractions": ("track,frame,x,y", ["a,0,.3,.2", "a,3,.9,.2"], "name the columns x_norm"),
    "unseen": ("track,frame,x,y", ["a,0,-20,5", "a,4,-3,5"], "ever inside the picture"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_mistakes_in_a_table_are_named_with_their_line(tmp_path, case):
    header, rows, message = BAD_TABLES[case]
    with pytest.raises(UserError, match=message) as raised:
        read_tracks(table(tmp_path, *rows, header=header), 9, 32, 48)
    assert "\n" not in str(raised.value)


BAD_CALLS = {
    "edge order": (lambda: canny(gray(rectangle()), 0.3, 0.2), "low=0.3, high=0.2"),
    "edge range": (lambda: canny(gray(rectangle()), 0.1, 30), "<= 4"),
    "edge nan": (lambda: canny(gray(rectangle()), float("nan")), "low=nan"),
    "blur": (lambda: canny(gray(rectangle()), sigma=-1), "sigma=-1"),
    "float frames": (lambda: luma(np.zeros((1, 4, 4, 3))), "float64"),
    "one picture": (lambda: pose(np.zeros((4, 4, 3), np.uint8)), "uint8 .4, 4, 3.; give"),
    "coloured depth": (lambda: depth(np.tile(np.uint8([200, 40, 90]), (1, 8, 8, 1))), "100.0%"),
    "typo": (lambda: control_frames("cany", gray(rectangle())), "did you mean 'canny'"),
    "unknown": (lambda: check_control("normals"), "use none, canny, luma, depth, pose, tracks"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_mistakes_in_a_call_are_one_line(case):
    call, message = BAD_CALLS[case]
    with pytest.raises(UserError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("knob", [{"radius": 0.2}, {"radius": float("nan")}, {"trail": -1}])
def test_impossible_dots_are_refused(tmp_path, knob):
    with pytest.raises(UserError, match=f"{next(iter(knob))}="):
        motion_tracks(table(tmp_path, "a,0,3,3"), 1, 16, 16, **knob)


def test_without_control_a_reference_is_the_video_itself(tmp_path):
    clip = NOISE.integers(0, 256, (5, 32, 48, 3), np.uint8)
    path = write_clip(tmp_path / "a.mp4", clip)
    for control in ("none", "pose"):
        np.testing.assert_array_equal(
            reference_clip(path, control, 3, 64, 64), read_video(path, 3)[0]
        )
    assert len(reference_clip(path, "none", 9, 64, 64)) == 5


def test_edges_of_a_reference_are_found_at_the_size_asked_for(tmp_path):
    large = np.repeat(np.repeat(rectangle(), 4, axis=0), 4, axis=1)
    Image.fromarray(large).save(tmp_path / "a.png")
    got = reference_clip(tmp_path / "a.png", "canny", 2, 64, 96)
    assert got.shape == (2, 64, 96, 3)
    for row in range(26, 34):
        left, right = np.flatnonzero(got[1, row, :, 0])
        assert left in (29, 30) and right in (69, 70)


@pytest.mark.parametrize("size", [(30, 50), (300, 200), (64, 96)])
def test_edges_lie_where_the_plain_resize_puts_the_picture(tmp_path, size):
    rows, columns = (np.mgrid[: size[0], : size[1]].T / size).T - 0.5
    disc = np.uint8(40 + 180 * (np.hypot(rows, columns) < 0.3))
    Image.fromarray(disc).save(tmp_path / "a.png")
    plain = canny(np.rint(cover_resize(gray(disc), 64, 96)).astype(np.uint8))[0, ..., 0] > 0
    got = reference_clip(tmp_path / "a.png", "canny", 1, 64, 96)[0, ..., 0] > 0
    assert got.sum() > 60
    assert not (got & ~ndimage.binary_dilation(plain, np.ones((3, 3)))).any()
    assert not (plain & ~ndimage.binary_dilation(got, np.ones((3, 3)))).any()


def test_a_still_reference_is_repeated(tmp_path):
    picture = NOISE.integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    got = reference_clip(tmp_path / "a.png", "none", 9, 32, 32)
    np.testing.assert_array_equal(got, np.tile(picture, (9, 1, 1, 1)))


def test_a_table_becomes_a_reference_of_full_length(tmp_path):
    path = table(tmp_path, "a,0,31.5,31.5", "a,4,95.5,31.5")
    got = reference_clip(path, "tracks", 9, 32, 64, clip_size=(64, 128))
    assert got.shape == (9, 32, 64, 3)
    np.testing.assert_array_equal(
        got, motion_tracks(table(tmp_path, "a,0,15.5,15.5", "a,4,47.5,15.5"), 9, 32, 64)
    )
    np.testing.assert_array_equal(
        control_frames("tracks", path, (9, 32, 64)), motion_tracks(path, 9, 32, 64)
    )


@pytest.mark.parametrize(
    ("name", "control", "message"),
    [
        ("clip.mp4", "cany", "did you mean 'canny'"),
        ("clip.mp4", "depth", "coloured"),
        ("clip.mp4", "tracks", "cannot be read as a table"),
        ("points.csv", "canny", "use control=tracks"),
        ("points.csv", "tracks", "line 2: frame=9 .* use 0 to 4"),
        ("gone.csv", "tracks", "gone.csv does not exist"),
        ("gone.mp4", "canny", "gone.mp4 does not exist"),
        ("gone.png", "luma", "gone.png does not exist"),
        (".", "tracks", "is a folder"),
        (".", "none", "is a folder"),
    ],
)
def test_a_reference_is_checked_before_anything_is_computed(tmp_path, name, control, message):
    write_clip(tmp_path / "clip.mp4", np.tile(np.uint8([200, 40, 90]), (3, 16, 16, 1)))
    table(tmp_path, "a,9,3,3")
    with pytest.raises(UserError, match=message) as raised:
        check_reference(tmp_path / name, control, 5, 32, 32)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("control", CONTROLS)
def test_good_references_pass_the_check(tmp_path, control):
    write_clip(tmp_path / "clip.mp4", np.concatenate([gray(rectangle())] * 2))
    path = table(tmp_path, "a,0,3,3") if control == "tracks" else tmp_path / "clip.mp4"
    check_reference(path, control, 9, 32, 32)
