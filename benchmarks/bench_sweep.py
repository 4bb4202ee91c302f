"""A sweep of 24 cells against 24 separate runs: what sharing stages and models is worth.

2 prompts x 3 strengths of a second-stage LoRA x 2 tilings x 2 formats on the pocket model. The
separate runs keep no cache. Also: running the finished sweep again, and what the framework adds to
a cell beyond the model's own time (from the phases in its record).

    python benchmarks/bench_sweep.py [--separate 24]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).parent.parent
PROMPTS = (
    "a red circle moves right on a white background with a high tone",
    "a blue square moves left on a black background with a low tone",
)
AXES = {
    "lora.user.stages": ["{refine:0.0}", "{refine:0.5}", "{refine:1.0}"],
    "tiling": ["off", "auto"],
    "output": ["mp4", "webm"],
}


def make_lora(path: Path) -> None:
    """A small random LoRA with the sizes of the pocket transformer."""
    from ltx2.app.compose import compose
    from ltx2.pipelines.planning import make_plan

    header = make_plan(compose()).headers["checkpoint"]
    random, factors = np.random.default_rng(0), {}
    for block in range(2):
        layer = f"diffusion_model.transformer_blocks.{block}.attn1.to_q"
        out, width = header.tensors[f"model.{layer}.weight"].shape
        for name, shape in (("lora_A", (2, width)), ("lora_B", (out, 2))):
            factors[f"{layer}.{name}.weight"] = random.normal(0, 0.05, shape).astype(np.float32)
    save_file(factors, path)


def timed(arguments: list[str]) -> float:
    """Wall seconds of a run of the program."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "launch.py", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{arguments} failed:\n{done.stderr}")
    return time.monotonic() - start


def overheads(folder: Path) -> list[float]:
    """Seconds of each cell that are not phases of the run: the framework's own."""
    summary = json.loads(next(folder.glob("sweeps/*/summary.json")).read_text())
    found = []
    for cell in summary["cells"]:
        record = json.loads(next(folder.glob(f"sweeps/*/{cell['folder']}/run.json")).read_text())
        found.append(cell["seconds"] - record["seconds"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--separate", type=int, default=24, help="separate runs to time (of 24)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lora = folder / "lora.safetensors"
        make_lora(lora)
        common = ["lora=user", f"lora.user.file={lora}", "lora.user.strength=0"]
        place = [f"paths.outputs={folder / 'sweep'}"]
        prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
        axes = [f"{key}={','.join(values)}" for key, values in AXES.items()]
        sweep = ["-m", *prompts, *common, *axes, *place]
        swept = timed(sweep)
        again = timed(sweep)
        cells = list(itertools.product(PROMPTS, *AXES.values()))[: given.separate]
        separate = []
        for index, (prompt, *values) in enumerate(cells):
            own = [f"{key}={value}" for key, value in zip(AXES, values, strict=True)]
            target = f"paths.outputs={folder / f'single{index}'}"
            separate.append(timed(["--prompt", prompt, *common, *own, target, "cache=off"]))
        total = sum(separate) / len(separate) * 24
        added = overheads(folder / "sweep")
    print(f"24 separate runs, cache off   {total:8.1f} s ({len(separate)} timed)")
    print(f"sweep of 24 cells             {swept:8.1f} s, {total / swept:.1f} times faster")
    print(f"the finished sweep again      {again:8.2f} s")
    print(f"framework per cell, median    {1000 * statistics.median(added):8.0f} ms")


if __name__ == "__main__":
    main()
