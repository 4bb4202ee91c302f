"""A small run and a small sweep in the layout of the real ones, for the tests of the trackers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ltx2.experiment.trackers.base import RunInfo
from ltx2.media.images import write_png
from ltx2.media.video import VideoWriter

RATE = 24_000
STEPS = [
    {"stage": "base", "step": 0, "sigma": 1.0, "seconds": 0.1, "video_std": 0.9},
    {"stage": "base", "step": 1, "sigma": 0.5, "seconds": 0.1, "video_std": 0.8},
    {"stage": "refine", "step": 0, "sigma": 0.25, "seconds": 0.2, "video_std": 0.7},
]
CURVE = {"metric": "pitch_track", "x": [0.0, 0.1], "y": [440.0, 220.0], "x_unit": "s",
         "y_unit": "Hz"}  # fmt: skip


def config(outputs: Path, private: bool = False, **changes) -> dict:
    """What matters of a resolved config."""
    return {
        "prompt": "a secret circle moves",
        "negative_prompt": "secret blur",
        "seed": 3,
        "task": "generate",
        "model": {"name": "pocket", "files": {"checkpoint": {"file": "/secret/pocket"}}},
        "pipeline": {"name": "two_stage"},
        "guidance": {"video": {"cfg": 3.0}},
        "lora": {"user": {"file": "secret.safetensors", "strength": 0.5}},
        "output": {"format": "mp4", "private": private},
        "paths": {"outputs": str(outputs), "models": "/secret/models"},
    } | changes


def info(folder: Path, run: str = "0123456789ab", **changes) -> RunInfo:
    """A run that begins in `folder`."""
    given = {
        "run": run,
        "cell": "c" * 12,
        "sweep": None,
        "name": "circle",
        "folder": folder,
        "tags": ("pocket",),
        "values": {"seed": 3},
        "started": "2026-11-20T12:00:00Z",
    }
    return RunInfo(**(given | changes))


def write_run(folder: Path, status: str = "completed", **changes) -> dict:
    """The files of a finished run; returns its record, which lies in run.json too."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.zeros((9, 64, 64, 3), np.float32) + np.linspace(0, 1, 9)[:, None, None, None]
    tone = np.sin(np.arange(RATE // 2) / 10).astype(np.float32) * 0.5
    with VideoWriter(folder / "video.mp4", fps=12.0, audio_rate=RATE) as writer:
        writer.write(frames.astype(np.float32))
        writer.add_audio(np.stack([tone, tone]))
    write_png(folder / "frames.png", np.zeros((64, 64, 3), np.uint8))
    (folder / "metrics.jsonl").write_text(
        json.dumps({"metric": "brightness", "value": 0.5}) + "\n" + json.dumps(CURVE) + "\n"
    )
    record = {
        "status": status,
        "run": "0123456789ab",
        "cell": "c" * 12,
        "sweep": None,
        "seed": 3,
        "size": {"height": 64, "width": 64},
        "frames": 9,
        "fps": 12.0,
        "device": {"backend": "torch", "device_name": "cpu"},
        "started": "2026-11-20T12:00:00Z",
        "finished": "2026-11-20T12:00:02Z",
        "seconds": 1.5,
        "phases": [{"phase": "text", "seconds": 0.25}, {"phase": "base", "seconds": 1.25}],
        "stages": [{"name": "text", "action": "reused"}, {"name": "base", "action": "computed"}],
        "metrics": {"brightness": 0.5, "psnr": None},
        "files": {"video": "video.mp4", "sheet": "frames.png"},
        "settings": config(folder.parent),
    } | changes
    (folder / "run.json").write_text(json.dumps(record))
    return record


def write_sweep(outputs: Path) -> tuple[Path, dict]:
    """A sweep of two cells, the second failed, and its summary."""
    folder = outputs / "sweeps" / "seeds-12345678"
    cells = []
    for index, status in enumerate(("completed", "failed")):
        name = f"00{index}-seed={index}"
        write_run(folder / name, status, metrics={"brightness": 0.25 + index},
                  values={"seed": str(index)})  # fmt: skip
        cells.append({"index": index, "cell": f"{index}" * 12, "folder": name, "status": status,
                      "seconds": 1.5, "error": "UserError: no" if index else None,
                      "values": {"seed": str(index)}})  # fmt: skip
    summary = {"sweep": "seeds-12345678", "status": "completed", "seconds": 3.0, "cells": cells,
               "counts": {"completed": 1, "failed": 1}}  # fmt: skip
    (folder / "plan.json").write_text(json.dumps({"sweep": "seeds-12345678", "cells": cells}))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder, summary


def follow(trackers, folder: Path, settings: dict, record: dict, **changes) -> None:
    """Tell trackers of a whole run."""
    trackers.start(info(folder, **changes), settings)
    for step in STEPS:
        trackers.step(step)
    trackers.finish(record)
