"""TensorBoard event files, written with TensorBoard's own writer; `tensorboard --logdir outputs`.

TensorBoard shows no videos: the contact sheet and the sound stand for the clip.
"""

from __future__ import annotations

import io
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ltx2.experiment.trackers.base import (
    Option,
    RunInfo,
    flat,
    need,
    shown,
)
from ltx2.experiment.trackers.results import (
    curves,
    media,
    metric_values,
    step_values,
    sweep_cells,
    sweep_table,
)
from ltx2.media.audio import pcm16, read_audio

FOLDER = "tensorboard"


@dataclass
class TensorboardTracker(Option):
    """logger=tensorboard. The event file of a run lies in its folder, below tensorboard/."""

    NAME: ClassVar[str] = "tensorboard"

    log_audio: bool = True
    log_sheet: bool = True
    _writer: Any = field(default=None, init=False, repr=False)
    _folder: Path = field(default=Path(), init=False, repr=False)

    def __post_init__(self) -> None:
        self.check()
        need(self.NAME)

    def start(self, run: RunInfo, config: dict[str, Any]) -> None:
        """Begin the event file with the config as a text and the swept values."""
        from tensorboard.plugins.hparams import summary_v2

        self._folder = run.folder
        self._writer = _writer(run.folder)
        rows = [f"| {key} | {_cell(value)} |" for key, value in flat(shown(config)).items()]
        self._text("config", "\n".join(["| key | value |", "|---|---|", *rows]))
        if run.values:
            values = {key: _number_or_text(value) for key, value in run.values.items()}
            self._add(summary_v2.hparams_pb(values, trial_id=run.run))

    def step(self, record: dict[str, Any]) -> None:
        """A point of the step curves, at the step of its stage."""
        for tag, value in step_values(record).items():
            self._scalar(tag, value, record["step"])

    def finish(self, record: dict[str, Any]) -> None:
        """Add metrics, curves, contact sheet and sound, and close the file."""
        if self._writer is None:
            return
        try:
            for name, value in metric_values(record).items():
                self._scalar(f"metrics/{name}", value, 0)
            for line in curves(self._folder):
                for index, value in enumerate(line["y"]):
                    if value is not None:
                        self._scalar(f"curves/{line['metric']}", value, index)
            self._text("status", record["status"])
            paths = media(self._folder, record)
            if self.log_sheet and "sheet" in paths:
                self._image("frames", paths["sheet"])
            sound = paths.get("audio") or paths.get("video")
            if self.log_audio and sound is not None:
                self._sound("audio", sound)
        finally:
            self._writer.close()
            self._writer = None

    def finish_sweep(self, folder: Path, summary: dict[str, Any]) -> None:
        """An event file in the sweep's folder with the table of the cells."""
        columns, rows = sweep_table(sweep_cells(folder, summary))
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join("| " + " | ".join(_cell(item) for item in line) + " |" for line in lines)
        self._writer = _writer(folder)
        try:
            self._text("results", text)
        finally:
            self._writer.close()
            self._writer = None

    def _add(self, summary: Any, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _value(self, step: int = 0, **content: Any) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(Summary(value=[Summary.Value(**content)]), step)

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._value(step, tag=tag, simple_value=float(value))

    def _text(self, tag: str, text: str) -> None:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text.metadata import create_summary_metadata

        content = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        self._value(tag=tag, tensor=content, metadata=create_summary_metadata(tag, ""))

    def _image(self, tag: str, path: Path) -> None:
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as picture:
            width, height = picture.size
        data = path.read_bytes()
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        self._value(tag=tag, image=image)

    def _sound(self, tag: str, path: Path) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = read_audio(path) if path.is_file() else None
        if found is None:
            return
        waveform, rate = found
        audio = Summary.Audio(
            sample_rate=rate,
            num_channels=waveform.shape[0],
            length_frames=waveform.shape[1],
            encoded_audio_string=_wav(waveform, rate),
            content_type="audio/wav",
        )
        self._value(tag=tag, audio=audio)


def _writer(folder: Path) -> Any:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    return EventFileWriter(str(folder / FOLDER))


def _wav(waveform: np.ndarray, rate: int) -> bytes:
    """(C, N) float32 in [-1, 1] as a WAV file of 16 bits."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(waveform.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm16(waveform).T.astype("<i2").tobytes())
    return buffer.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _number_or_text(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float)) else str(value)
