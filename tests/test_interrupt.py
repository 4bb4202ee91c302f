"""Ctrl-C: the step that runs is finished, what is there may be decoded, the second one ends it."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import BACKENDS, make_backend

from ltx2.app.compose import compose
from ltx2.experiment.interrupt import Interrupt
from ltx2.experiment.run import generate
from ltx2.media.audio import read_audio
from ltx2.media.images import read_image
from ltx2.media.video import read_metadata, read_video

SMALL = ["height=64", "width=64", "frames=9", "scheduler.steps=6", "dtype=fp32"]
ROOT = str(Path(__file__).parents[1])
FOLDERS = ("partial/video-partial", "whole/video")
# A process started in the background ignores SIGINT, and so would its children.
PROGRAM = """
import signal, sys
sys.path.insert(0, sys.argv.pop(1))
signal.signal(signal.SIGINT, signal.default_int_handler)
from ltx2.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def own_handler():
    """Whatever started the tests: SIGINT raises KeyboardInterrupt, and does so afterwards."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


class PressAt(logging.Handler):
    """Sends SIGINT to this process when a log line begins with the next of `lines`.

    A line written after `then:` is only waited for.
    """

    def __init__(self, *lines):
        super().__init__()
        self.lines = list(lines)

    def emit(self, record):
        wanted = self.lines[0] if self.lines else "nothing"
        if record.getMessage().startswith(wanted.removeprefix("then:")):
            self.lines.pop(0)
            if not wanted.startswith("then:"):
                signal.raise_signal(signal.SIGINT)


def interrupted(folder, backend, lines, *overrides):
    """Run until the presses have ended it; returns the record."""
    log = logging.getLogger("ltx2")
    handler, level = PressAt(*lines), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            generate(compose([*SMALL, *overrides]), lambda: backend, folder)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    assert not handler.lines, "a line that was waited for never came"
    return json.loads((folder / "run.json").read_text())


def media(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".mp4", ".wav"))


def test_the_first_press_ends_the_step_and_the_run(backend, tmp_path):
    told = interrupted(tmp_path, backend, ["step stage=base step=2"])
    assert told["status"] == "interrupted"
    assert [step["step"] for step in told["steps"]] == [0, 1, 2]
    assert told["interrupted_in"] == {"stage": "base", "steps_done": 3, "steps": 6}
    assert "partial" not in told and media(tmp_path) == []


def test_a_press_can_ask_for_what_is_there(backend, tmp_path):
    told = interrupted(tmp_path, backend, ["step stage=base step=2"], "on_interrupt=decode")
    assert told["status"] == "interrupted"
    assert told["partial"] == {"stage": "base", "frames": 9, "file": "video-partial.mp4"}
    assert media(tmp_path) == ["video-partial.mp4"]
    frames, fps = read_video(tmp_path / "video-partial.mp4")
    assert frames.shape == (9, 32, 32, 3) and fps == 12
    assert read_audio(tmp_path / "video-partial.mp4") is not None


def test_what_is_there_after_the_last_step_is_the_result(tmp_path):
    backend = make_backend(BACKENDS[0])
    options = ["pipeline=one_stage", "on_interrupt=decode", "output=png"]
    interrupted(tmp_path / "partial", backend, ["step stage=base step=5"], *options)
    generate(compose([*SMALL, *options]), lambda: backend, tmp_path / "whole")
    pairs = zip(*(sorted(tmp_path.glob(f"{name}/*.png")) for name in FOLDERS), strict=True)
    differences = [read_image(a).astype(int) - read_image(b) for a, b in pairs]
    # The last step to sigma 0 repeats the estimate but for its rounding.
    assert len(differences) == 9 and np.abs(differences).max() <= 1


def test_the_sound_of_an_earlier_stage_goes_with_the_pictures_of_a_later_one(tmp_path):
    backend = make_backend(BACKENDS[0])
    interrupted(tmp_path / "partial", backend, ["step stage=refine step=0"], "on_interrupt=decode")
    generate(compose(SMALL), lambda: backend, tmp_path / "whole")
    names = ("partial/video-partial.mp4", "whole/video.mp4")
    sounds = [read_audio(tmp_path / name)[0] for name in names]
    np.testing.assert_array_equal(*sounds)
    assert read_metadata(tmp_path / names[0]).height == 64


def test_between_stages_the_last_finished_one_is_decoded(tmp_path):
    lines = ["upscale: "]  # the phase has just ended
    told = interrupted(tmp_path, make_backend(BACKENDS[0]), lines, "on_interrupt=decode")
    assert told["partial"]["stage"] == "base" and "interrupted_in" not in told
    assert read_metadata(tmp_path / "video-partial.mp4").height == 32


def test_before_anything_was_sampled_there_is_nothing_to_decode(tmp_path, caplog):
    lines = ["load transformer: "]
    told = interrupted(tmp_path, make_backend(BACKENDS[0]), lines, "on_interrupt=decode")
    assert told["status"] == "interrupted" and "partial" not in told
    assert "interrupted before there was anything to decode" in caplog.text


def test_the_second_press_ends_the_decoding(tmp_path):
    lines = ["step stage=base step=1", "audio decode: "]
    told = interrupted(tmp_path, make_backend(BACKENDS[0]), lines, "on_interrupt=decode")
    assert told["interrupted_in"]["steps_done"] == 2
    assert "partial" not in told and media(tmp_path) == []
    assert not list(tmp_path.glob(".*")), "a temporary file was left"


def test_sound_alone_is_decoded_to_a_wav(tmp_path):
    options = ["pipeline=text_to_audio", "on_interrupt=decode"]
    lines = ["step stage=base step=1"]
    told = interrupted(tmp_path, make_backend(BACKENDS[0]), lines, *options)
    assert told["partial"]["file"] == "audio-partial.wav"
    assert media(tmp_path) == ["audio-partial.wav"]


def test_a_long_clip_is_decoded_up_to_the_window_that_runs(tmp_path):
    options = ["pipeline=long_video", "window.frames=5", "window.overlap=1", "on_interrupt=decode"]
    # Windows of two latent frames: frames 0 to 4, then 4 to 8.
    backend, line = make_backend(BACKENDS[0]), "step stage=base step=1"
    early = interrupted(tmp_path / "early", backend, [line], *options)
    assert early["partial"]["frames"] == 5
    assert early["interrupted_in"] == {"stage": "base", "steps_done": 2, "steps": 12}
    late = interrupted(tmp_path / "late", backend, [f"then:{line}", line], *options)
    assert late["partial"]["frames"] == 9


def test_outside_of_steps_a_press_interrupts_at_once():
    with Interrupt() as interrupt, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert interrupt.requested


def test_inside_of_steps_only_the_second_press_interrupts():
    with Interrupt() as interrupt, interrupt.deferred():
        assert not interrupt.requested
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert interrupt.signals == 2


def test_the_handler_of_the_surrounding_program_comes_back():
    seen = []

    def own(number, _frame):
        seen.append(number)

    before = signal.signal(signal.SIGINT, own)
    with Interrupt() as interrupt, interrupt.deferred():
        signal.raise_signal(signal.SIGINT)
    assert interrupt.signals == 1 and seen == []
    signal.raise_signal(signal.SIGINT)
    assert seen == [signal.SIGINT]
    signal.signal(signal.SIGINT, before)


def test_a_process_that_ignores_sigint_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
    assert interrupt.signals == 0
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


def test_another_thread_installs_no_handler():
    handlers = []

    def enter():
        with Interrupt():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def run_and_press(folder, *overrides):
    """The program in a process of its own, pressed after its first step; code, stderr, record."""
    arguments = ["pipeline=one_stage", *SMALL[:3], "dtype=fp32", "scheduler.steps=500", *overrides]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, ROOT, *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if "step stage=base step=0" in line:
                process.send_signal(signal.SIGINT)
                break
        told += process.communicate(timeout=60)[1].splitlines(keepends=True)
    records = list(folder.glob("outputs/*/*/run.json"))
    assert len(records) == 1, told
    return process.returncode, "".join(told), records[0].parent


@pytest.mark.parametrize(("wish", "expected"), [("stop", []), ("decode", ["video-partial.mp4"])])
def test_a_real_process_ends_with_130_and_keeps_its_record(wish, expected, tmp_path):
    code, told, folder = run_and_press(tmp_path, f"on_interrupt={wish}")
    assert code == 130, told
    assert "stopping after this step; Ctrl-C again stops at once\n" in told
    assert told.endswith("interrupted\n") and "Traceback" not in told
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert 0 < record["interrupted_in"]["steps_done"] == len(record["steps"]) < 500
    assert media(folder) == expected
    assert (folder / "config.yaml").is_file()
