"""Runs through the real command line, as small as they get; what a refused one looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra
from hydra.types import RunMode

from ltx2.cli import main

SMALL = {
    "pipeline": "one_stage", "guidance": "none", "height": "64", "width": "64", "frames": "5",
    "scheduler.steps": "1",
}  # fmt: skip


# Below an outputs folder: the stage cache, the index of runs, what is known of the device.
SHARED = ("cache", "index.", "devices.json")


class CommandLine:
    """`python launch.py` in this process, writing below `folder`."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def run(self, *arguments: str, small: bool = True) -> tuple[int, str]:
        """Exit code and stderr; keys of `SMALL` that are not given are added."""
        given = {text.partition("=")[0].lstrip("+") for text in arguments}
        added = [f"{k}={v}" for k, v in SMALL.items() if small and k not in given]
        if given & {"scheduler", "scheduler.sigmas"} or "pipeline" in given:
            added = [text for text in added if not text.startswith("scheduler.steps")]
        if "paths.outputs" not in given:
            added.append(f"paths.outputs={self.folder / 'outputs'}")
        with pytest.MonkeyPatch.context() as patch:
            if "-m" not in given:
                # Hydra composes everything once more only to learn that this is no sweep.
                patch.setattr(Hydra, "get_mode", lambda *_args, **_named: RunMode.RUN)
            code = main([*added, *arguments])
        return code, self._capsys.readouterr().err

    def refused(self, *arguments: str, small: bool = True) -> str:
        """The one line that a refused run prints; asserts that it left and read nothing."""
        code, told = self.run(*arguments, small=small)
        lines = [line for line in told.splitlines() if line.startswith("error: ")]
        assert code == 2, told
        assert len(lines) == 1 and told.rstrip().endswith(lines[0]), told
        assert "Traceback" not in told and "internal" not in told
        assert "peak memory" not in told, "a phase ran before the mistake was found"
        assert self.left() == []
        return lines[0].removeprefix("error: ")

    def left(self) -> list[Path]:
        """What the runs left below their outputs folder, beside what all runs share there."""
        outputs = self.folder / "outputs"
        found = (path for path in outputs.rglob("*") if path != outputs / SHARED[0])
        return sorted(p for p in found if not p.relative_to(outputs).parts[0].startswith(SHARED))

    def only(self, name: str) -> Path:
        """The one file called `name` that the runs made."""
        [path] = (self.folder / "outputs").rglob(name)
        return path
