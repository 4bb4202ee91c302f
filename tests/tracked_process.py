"""Follows a run with one logger in a process of its own, and prints what it noticed as JSON.

python tests/tracked_process.py OUTPUTS OPTION '{"key": "value"}' [sweep] [private] [leave]

`leave` ends the process at once, with the logger still at work.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROUNDS = 400


class Kept(logging.Handler):
    """Keeps the messages of warnings."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def sample() -> str:
    """Some seconds of arithmetic that draws from the global generators, as a digest."""
    digest = hashlib.sha256()
    for _ in range(ROUNDS):
        noise = np.random.standard_normal((160, 160))
        digest.update((noise @ noise).tobytes())
        digest.update(str(random.random()).encode())
    return digest.hexdigest()


def main(outputs: Path, option: str, keys: dict, *wishes: str) -> None:
    """Follow a run, perhaps a sweep, and print the facts."""
    from tracked_run import STEPS, config, info, write_run, write_sweep

    from ltx2.app.build import build
    from ltx2.experiment.trackers.fanout import Trackers
    from ltx2.experiment.trackers.local import LocalTracker

    kept = Kept()
    logging.getLogger("ltx2").addHandler(kept)
    folder = outputs / "2026-11-20" / "12-00-00-abcdef"
    record = write_run(folder)
    target = f"ltx2.experiment.trackers.{option}.{option.capitalize()}Tracker"
    chosen = {} if option == "none" else {option: build({"_target_": target, **keys})}
    np.random.seed(1)
    random.seed(1)
    environment = dict(os.environ)
    trackers = Trackers({"local": LocalTracker(outputs), **chosen})
    began = time.monotonic()
    trackers.start(info(folder), config(outputs, private="private" in wishes))
    start_seconds = time.monotonic() - began
    for step in STEPS:
        trackers.step(step)
    digest = sample()
    finishing = time.monotonic()
    trackers.finish(record)
    ended = time.monotonic()
    if "sweep" in wishes:
        trackers.finish_sweep(*write_sweep(outputs))
    for lane in trackers._lanes.values() if "leave" not in wishes else ():
        lane.wait(60)
    left = {key for key in {*os.environ, *environment}
            if os.environ.get(key) != environment.get(key)}  # fmt: skip
    facts = {"start_seconds": start_seconds, "finish_seconds": ended - finishing,
             "run_seconds": ended - began, "digest": digest, "environment": sorted(left),
             "warnings": kept.messages}  # fmt: skip
    print(json.dumps(facts))


def followed(outputs: Path, option: str, *wishes: str, env: dict | None = None, **keys) -> dict:
    """Run this file; `output` among the facts is what was written beside them."""
    outputs.mkdir(parents=True, exist_ok=True)
    home = outputs.parent / "home"
    home.mkdir(exist_ok=True)
    names = {"PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT"}
    clean = {key: value for key, value in os.environ.items() if key in names}
    clean |= {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, str(outputs), option, json.dumps(keys), *wishes]
    done = subprocess.run(command, env=clean | (env or {}), cwd=outputs, capture_output=True,
                          text=True, timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    *output, facts = done.stdout.splitlines()
    return json.loads(facts) | {"output": "\n".join(output) + done.stderr}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), *sys.argv[4:])
