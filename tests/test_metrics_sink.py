"""Metrics beside a sink: nothing is changed or failed by them; and the options of conf/metrics."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import yaml
from metric_clips import FPS, RATE, clip_of, grey, noise, sine

from ltx2.app.build import build
from ltx2.app.compose import compose
from ltx2.app.groups import group_options
from ltx2.errors import UserError
from ltx2.experiment.metrics.base import Curve, Measure
from ltx2.experiment.metrics.info import METRIC_INFO, metric_info
from ltx2.experiment.metrics.sink import MetricSink, numbers, write_metrics
from ltx2.experiment.metrics.video import Brightness, Contrast
from ltx2.experiment.sink import ClipSink, SoundSink
from ltx2.media.video import read_video
from ltx2.pipelines.catalogue import conf_folder
from ltx2.pipelines.settings import OutputSettings

CONF = conf_folder()
OPTIONS = group_options(CONF, "metrics")
FREE = ["basic", "video", "audio", "all"]
FRAMES = noise(12, size=(64, 96), smooth=2)


class Failing(Measure):
    """Raises at the second frame."""

    names = ("fails",)
    calls = 0

    def frame(self, picture):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("broken")

    def result(self):
        return {"fails": 1.0}


def run(folder, metrics, frames=FRAMES, sound=None, chunk=5):
    """Stream a clip through a MetricSink; the sink and its results."""
    inner = ClipSink(folder, OutputSettings(), FPS, len(frames))
    sink = MetricSink(inner, metrics, clip_of(frames, folder))
    with sink:
        if sound is not None:
            sink.audio(sound, RATE)
        for begin in range(0, len(frames), chunk):
            sink.frames(frames[begin : begin + chunk])
    sink.write_sheet()
    return sink, sink.results()


def test_a_clip_is_the_same_with_and_without_metrics(tmp_path):
    for name, options in (("with", ["all"]), ("without", [])):
        (tmp_path / name).mkdir()
        metrics = built(*options) if options else {}
        sink, _ = run(tmp_path / name, metrics, sound=sine(440, 0.5))
        assert sink.path == tmp_path / name / "video.mp4" and sink.carries_comment
        assert (tmp_path / name / "frames.png").exists()
    one, other = (read_video(tmp_path / name / "video.mp4")[0] for name in ("with", "without"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("chunk", [1, 5, 12])
def test_results_do_not_depend_on_how_frames_are_cut_into_chunks(tmp_path, chunk):
    _, found = run(tmp_path, built("all"), sound=sine(440, 0.5), chunk=chunk)
    (tmp_path / "whole").mkdir()
    _, whole = run(tmp_path / "whole", built("all"), sound=sine(440, 0.5), chunk=12)
    assert found.keys() == whole.keys()
    for name, value in numbers(whole).items():
        assert found[name] == pytest.approx(value, nan_ok=True)


def test_a_metric_that_raises_is_turned_off_with_one_warning(tmp_path, caplog):
    _, found = run(tmp_path, {"bad": Failing(), "brightness": Brightness()})
    assert math.isnan(found["fails"])
    assert found["brightness"] == pytest.approx(float(FRAMES.mean()), abs=0.05)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["metrics=bad is off: RuntimeError: broken"]
    assert (tmp_path / "video.mp4").exists()


def test_a_metric_that_cannot_start_stops_the_run_before_it_begins(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.psnr\.reference is not set"):
        run(tmp_path, built("psnr"))
    assert list(tmp_path.iterdir()) == []


def test_metrics_that_raise_an_exception_of_the_clip_leave_it_to_the_sink(tmp_path):
    class Stopped(Exception):
        pass

    inner = ClipSink(tmp_path, OutputSettings(), FPS, len(FRAMES))
    with pytest.raises(Stopped), MetricSink(inner, built("basic"), clip_of(FRAMES)) as sink:
        sink.frames(FRAMES[:3])
        raise Stopped
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_pictures_is_measured_by_its_sound(tmp_path):
    sink = MetricSink(SoundSink(tmp_path), built("all"), clip_of())
    with sink:
        sink.audio(sine(1000), RATE)
    found = numbers(sink.results())
    assert found["pitch"] == pytest.approx(1000, rel=1e-3)
    assert found["duration_error"] == 0
    assert math.isnan(found["brightness"]) and math.isnan(found["av_offset"])


def test_steps_reach_the_metrics_and_time_is_kept(tmp_path):
    seen = []

    class Watching(Measure):
        def step(self, stage, index, video, audio):
            seen.append((stage, index))

    sink = MetricSink(SoundSink(tmp_path), {"watch": Watching()}, clip_of())
    sink.step("base", 0, None, None)
    sink.step("base", 1, None, None)
    assert seen == [("base", 0), ("base", 1)]
    assert sink.seconds > 0


def test_metrics_jsonl_has_a_line_per_number_and_curve_and_null_for_unknown(tmp_path):
    results = {"a": 0.5, "b": math.nan, "c": Curve([0.0, 1.0], [math.nan, 2.0], "s", "Hz")}
    path = write_metrics(tmp_path, results)
    assert path == tmp_path / "metrics.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"metric": "a", "value": 0.5},
        {"metric": "b", "value": None},
        {"metric": "c", "x": [0.0, 1.0], "y": [None, 2.0], "x_unit": "s", "y_unit": "Hz"},
    ]
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert set(numbers(results)) == {"a", "b"}


def built(*options):
    """The metrics that options of conf/metrics describe."""
    return {name: build(node) for name, node in nodes(*options).items()}


@cache
def nodes(*options):
    """Tables of the composed settings."""
    return compose([f"metrics=[{','.join(options)}]"]).metrics


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_builds_metrics_under_its_name(option):
    metrics = built(option)
    assert set(metrics) == {option} or option in FREE
    assert all(isinstance(metric, Measure) and metric.names for metric in metrics.values())


def test_options_say_the_defaults_of_the_classes_they_build():
    for option in OPTIONS:
        node = yaml.safe_load((CONF / "metrics" / f"{option}.yaml").read_text())
        for part in [node] if "_target_" in node else node.values():
            metric = build({"_target_": part["_target_"]})
            assert part == {"_target_": part["_target_"]} | vars(metric)
            assert set(vars(metric)) == set(inspect.signature(type(metric)).parameters)


def test_bundles_hold_what_their_members_hold():
    tables = {
        option: yaml.safe_load((CONF / "metrics" / f"{option}.yaml").read_text())
        for option in OPTIONS
    }
    for bundle in FREE:
        for name, node in tables[bundle].items():
            assert node == tables[name]
    assert set(tables["all"]) == {*tables["video"], *tables["audio"], "av_offset"}
    paid = {"reference", "clip", "lpips", "pocket_adherence"}
    paid |= {name for name, node in tables.items() if "reference" in node}
    assert set(OPTIONS) == {*tables["all"], *FREE, *paid}


def test_bundles_and_single_metrics_are_chosen_together():
    assert set(built("basic", "brightness", "motion")) == {*built("basic"), "motion"}
    chosen = compose(["metrics=[basic,clipped]", "metrics.clipped.levels=2"]).metrics
    assert chosen["clipped"]["levels"] == 2


def test_every_number_and_curve_has_its_unit_range_and_direction(tmp_path):
    _, found = run(tmp_path, built("all"), sound=sine(440, 0.5))
    names = {
        name for option in OPTIONS for metric in built(option).values() for name in metric.names
    }
    assert set(found) | names == set(METRIC_INFO)
    for name, value in numbers(found).items():
        info = METRIC_INFO[name]
        assert math.isnan(value) or (info.low or -math.inf) <= value <= (info.high or math.inf)
        assert info.better in ("higher", "lower", "neither") and info.text
    assert metric_info("latent_distance_audio_base") == METRIC_INFO["latent_distance_audio"]
    assert metric_info("latent_distance_base") == METRIC_INFO["latent_distance"]
    assert metric_info("unheard_of") is None


def test_the_bundle_basic_loads_no_library_beside_numpy():
    code = (
        "import sys; from ltx2.app.compose import compose; from ltx2.app.build import build\n"
        "for node in compose(['metrics=basic']).metrics.values(): build(node)\n"
        "print([m for m in ('cv2','scipy','skimage','pyloudnorm','transformers','torch')"
        " if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize(
    ("option", "module", "package"),
    [
        ("motion", "cv2", "opencv-python-headless"),
        ("loudness", "pyloudnorm", "pyloudnorm"),
        ("ssim", "cv2", "opencv-python-headless"),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    option, module, package, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, module, None)
    metric = built(option)[option]
    message = rf"^metrics={option} needs {package}; pip install 'ltx2\[metrics\]'$"
    with pytest.raises(UserError, match=message):
        if option == "ssim":
            metric.prepare(clip_of(FRAMES))
        else:
            metric.start(clip_of(FRAMES))


def test_of_two_metrics_with_the_same_number_the_first_counts(tmp_path):
    class Other(Measure):
        def result(self):
            return {"contrast": 7.0}

    _, found = run(tmp_path, {"contrast": Contrast(), "other": Other()}, grey(0.5, 0.5))
    assert found["contrast"] == pytest.approx(0, abs=1e-6)
