"""What TensorBoard shows of a run, read with its own loader."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from tracked_run import RATE, config, follow, info, write_run, write_sweep

from ltx2.app.build import build
from ltx2.errors import UserError
from ltx2.experiment.trackers.tensorboard import TensorboardTracker


def loaded(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


@pytest.fixture
def run(tmp_path):
    """The folder of a run that was followed."""
    folder = tmp_path / "run"
    follow(TensorboardTracker(), folder, config(tmp_path), write_run(folder))
    return folder


def points(run, tag):
    return [(event.step, event.value) for event in loaded(run).Scalars(tag)]


def text(accumulator, tag):
    return accumulator.Tensors(tag)[0].tensor_proto.string_val[0].decode()


def test_step_curves_run_over_the_steps_of_their_stage(run):
    assert points(run, "base/sigma") == [(0, 1.0), (1, 0.5)]
    assert points(run, "refine/sigma") == [(0, 0.25)]


def test_metrics_and_curves_are_scalars(run):
    assert points(run, "metrics/brightness") == [(0, 0.5)]
    assert points(run, "curves/pitch_track") == [(0, 440.0), (1, 220.0)]
    assert "metrics/psnr" not in loaded(run).Tags()["scalars"]


def test_config_is_a_table(run):
    found = loaded(run)
    assert "| guidance.video.cfg | 3.0 |" in text(found, "config")
    assert "| prompt | a secret circle moves |" in text(found, "config")
    assert text(found, "status") == "completed"


def test_contact_sheet_is_the_picture(run):
    (image,) = loaded(run).Images("frames")
    assert image.encoded_image_string == (run / "frames.png").read_bytes()
    assert (image.width, image.height) == (64, 64)


def test_sound_of_the_clip_is_a_wav(run):
    (audio,) = loaded(run).Audio("audio")
    assert (audio.sample_rate, audio.content_type) == (RATE, "audio/wav")
    with wave.open(io.BytesIO(audio.encoded_audio_string)) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, RATE)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    assert abs(len(samples) / RATE - 0.5) < 0.3
    assert 0.4 < np.abs(samples / 32767).max() < 0.6


def test_swept_values_are_hyperparameters(run):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = loaded(run).PluginTagToContent("hparams")["_hparams_/session_start_info"]
    found = HParamsPluginData.FromString(content).session_start_info
    assert found.hparams["seed"].number_value == 3


def test_sweep_has_a_table_of_results(tmp_path):
    folder, summary = write_sweep(tmp_path)
    TensorboardTracker().finish_sweep(folder, summary)
    lines = text(loaded(folder), "results").splitlines()
    assert lines[0] == "| cell | seed | status | seconds | brightness |"
    assert lines[2:] == ["| 0 | 0 | completed | 1.5 | 0.25 |", "| 1 | 1 | failed | 1.5 | 1.25 |"]


def test_failed_run_without_files_is_closed(tmp_path):
    follow(TensorboardTracker(), tmp_path, config(tmp_path), {"status": "failed"})
    assert text(loaded(tmp_path), "status") == "failed"


def test_private_run_keeps_prompts_and_paths_back(tmp_path):
    folder = tmp_path / "run"
    tracker = TensorboardTracker()
    write_run(folder)
    tracker.start(info(folder), config(tmp_path, private=True))
    tracker.finish({"status": "completed"})
    (events,) = (folder / "tensorboard").iterdir()
    assert b"secret" not in events.read_bytes()


def test_switches_leave_media_out(tmp_path):
    folder = tmp_path / "run"
    tracker = TensorboardTracker(log_audio=False, log_sheet=False)
    follow(tracker, folder, config(tmp_path), write_run(folder))
    tags = loaded(folder).Tags()
    assert (tags["images"], tags["audio"]) == ([], [])


def test_number_for_a_switch_is_refused():
    target = "ltx2.experiment.trackers.tensorboard.TensorboardTracker"
    with pytest.raises(UserError, match=r"logger\.tensorboard\.log_audio=2 is not true or false"):
        build({"_target_": target, "log_audio": 2})
