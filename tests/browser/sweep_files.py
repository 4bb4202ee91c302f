"""Folders of sweeps and runs as the framework leaves them, with small real clips."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.media.video import VideoWriter

FPS, FRAMES, SIZE, RATE = 24.0, 41, 64, 48000
SWEEP = "study-0a1b2c3d"
AXES_24 = {
    "prompt": ["a red circle", 'two "squares" </script><b id=injected>&amp; \u2028 é'],
    "seed": ["0", "1", "2", "3"],
    "guidance.video.cfg": ["2", "3", "4"],
}
AXES_200 = {
    "prompt": ["a red circle", "two squares"],
    "seed": [str(seed) for seed in range(10)],
    "guidance.video.cfg": ["1.5", "2", "3", "4", "5"],
    "scheduler.steps": ["8", "12"],
}


def write_clip(path: Path, shade: float, frames: int = FRAMES, tone: float = 220.0) -> None:
    """A square that moves over a ground of `shade` in [0, 1], with a tone of `tone` Hz."""
    x = np.arange(SIZE)
    clip = np.full((frames, SIZE, SIZE, 3), [shade, 0.35, 1 - shade], np.float32)
    for index in range(frames):
        left = 2 + index * (SIZE - 20) // frames
        clip[index][np.ix_(abs(x - SIZE // 2) < 8, (x >= left) & (x < left + 16))] = 1.0
    seconds = np.arange(round(frames / FPS * RATE)) / RATE
    sound = 0.2 * np.sin(2 * np.pi * tone * seconds, dtype=np.float64).astype(np.float32)
    with VideoWriter(path, FPS, audio_rate=RATE) as writer:
        writer.add_audio(np.stack([sound, sound]))
        writer.write(clip)


def grid(axes: dict[str, list[str]]) -> list[dict[str, str]]:
    """The values of every cell of a sweep over `axes`."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def settings_of(values: dict[str, str]) -> dict[str, Any]:
    """Resolved settings of a cell, nested, with a few that no axis touches."""
    nested: dict[str, Any] = {
        "prompt": "a red circle", "height": SIZE, "width": SIZE, "frames": FRAMES, "fps": FPS,
        "model": {"name": "pocket"},
        "pipeline": {"name": "one_stage", "stages": [{"name": "base"}]},
        "paths": {"outputs": "elsewhere"},
    }  # fmt: skip
    for key, value in values.items():
        *path, last = key.split(".")
        table = nested
        for name in path:
            table = table.setdefault(name, {})
        number = value.replace(".", "").isdigit()
        table[last] = json.loads(value) if number else value
    return nested


def write_run(folder: Path, values: dict[str, str], clip: Path, **record: Any) -> dict[str, Any]:
    """A finished run: record, config, steps, a curve and the clip (hard copy of `clip`)."""
    folder.mkdir(parents=True)
    shutil.copy(clip, folder / "video.mp4")
    seed = float(values.get("seed", 0))
    cfg = float(values.get("guidance.video.cfg", 1))
    steps = [
        {"stage": stage, "step": step, "sigma": 1 - step / 8, "sigma_next": 1 - (step + 1) / 8,
         "seconds": 0.05, "memory_bytes": 300_000_000, "video_mean": 0.01 * step,
         "video_std": 1 - 0.1 * cfg * math.sin(step / 3), "audio_mean": 0.0,
         "audio_std": 1 + 0.02 * seed}
        for stage, count in (("base", 8), ("refine", 3)) for step in range(count)
    ]  # fmt: skip
    curve = {"metric": "pitch_track", "x": [0.0, 0.5, 1.0], "y": [220.0, None, 230.0 + seed],
             "x_unit": "s", "y_unit": "Hz"}  # fmt: skip
    (folder / "metrics.jsonl").write_text(json.dumps(curve) + "\n")
    settings = settings_of(values)
    (folder / "config.yaml").write_text(json.dumps(settings))
    known = {
        "status": "completed", "seed": int(seed), "size": {"height": SIZE, "width": SIZE},
        "frames": FRAMES, "fps": FPS, "settings": settings, "seconds": 1.5 + 0.1 * seed,
        "peak_rss_bytes": 380_000_000, "steps": steps, "files": {"video": "video.mp4"},
        "started": "2026-01-02T03:04:05Z", "warnings": [],
        "stages": [{"name": "base", "action": "computed", "key": "1", "seconds": 0.8},
                   {"name": "decode", "action": "reused", "key": "2", "seconds": 0.1}],
        "metrics": {"brightness": 0.3 + 0.05 * seed, "motion": 1 + cfg * seed / 10,
                    "psnr": 30 - cfg, "loudness": None if seed == 3 else -20 - seed},
    }  # fmt: skip
    known |= record
    (folder / "run.json").write_text(json.dumps(known))
    return known


def write_sweep(
    outputs: Path, axes: dict[str, list[str]], clips: list[Path], unfinished: bool = True
) -> Path:
    """A sweep over `axes`; unless told otherwise its last cells failed, run, wait and are lost."""
    folder = outputs / "sweeps" / SWEEP
    cells, rows = [], []
    values = grid(axes)
    states = dict(zip(range(len(values) - 4, len(values)),
                      ("failed", "running", "pending", "lost"), strict=True))  # fmt: skip
    for index, chosen in enumerate(values):
        name = f"{index:03d}-cell"
        overrides = ["pipeline=one_stage", *(f"{key}={value}" for key, value in chosen.items())]
        status = states.get(index, "completed") if unfinished else "completed"
        run, error = folder / name, None
        if status == "completed":
            write_run(run, chosen, clips[index % len(clips)], overrides=overrides)
        elif status != "pending":
            run.mkdir(parents=True)
            (run / "config.yaml").write_text(json.dumps(settings_of(chosen)))
        if status == "failed":
            error = "out of memory: 31.2 GB needed, 24.0 GB free; use tiling=both or frames=9"
            (run / "run.json").write_text(json.dumps({"status": "failed", "error": error}))
        if status == "running":
            line = {"stage": "base", "step": 4, "sigma": 0.5, "video_std": 0.9}
            (run / "steps.jsonl").write_text(json.dumps(line) + "\n" + '{"stage": "ba')
        cells.append({"index": index, "cell": f"{index:012x}", "folder": name,
                      "overrides": overrides, "values": chosen})  # fmt: skip
        rows.append({"index": index, "folder": name, "status": status, "error": error,
                     "seconds": 1.5 if status == "completed" else None,
                     "values": chosen})  # fmt: skip
    base = {"model.name": "pocket", "pipeline.name": "one_stage", "pipeline.stages.0.name": "base",
            "height": SIZE, "width": SIZE, "frames": FRAMES, "fps": FPS}  # fmt: skip
    if "prompt" not in axes:
        base["prompt"] = "a red circle"
    plan = {"sweep": SWEEP, "name": "study", "created": "2026-01-02T03:04:05Z", "command": [],
            "overrides": [f"{key}={','.join(axes[key])}" for key in axes],
            "axes": [{"key": key, "values": axes[key]} for key in axes], "base": base,
            "optimize": None, "cells": cells}  # fmt: skip
    counts = {state: sum(row["status"] == state for row in rows)
              for state in ("completed", "skipped", "failed", "lost", "pending")}  # fmt: skip
    summary = {"sweep": SWEEP, "status": "running" if unfinished else "completed",
               "started": "2026-01-02T03:04:05Z", "finished": "", "seconds": 61.5,
               "counts": counts, "cells": rows}  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_clips(folder: Path, count: int = 6) -> list[Path]:
    """`count` clips of different colour, tone and, for the last one, length."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.mp4" for index in range(count)]
    for index, path in enumerate(paths):
        frames = FRAMES - 4 if index == count - 1 else FRAMES
        write_clip(path, index / count, frames, tone=220.0 + 60 * index)
    return paths
