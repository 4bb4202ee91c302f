"""What plan=true tells: cost, memory, time, reuse; and what it costs to tell it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoint_files import write_sparse
from conftest import BACKENDS
from test_inspect import full_size_file

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.machine import Machine, machine
from ltx2.experiment.report import duration, report
from ltx2.experiment.run import component_dtypes
from ltx2.experiment.timings import Sample, Timings, read_timings
from ltx2.models.gemma3 import Gemma3
from ltx2.models.gemma_config import GemmaConfig
from ltx2.nn.module import params
from ltx2.pipelines.cost import (
    PhaseCost,
    phase_costs,
)
from ltx2.pipelines.memory_estimate import Place, phase_memory
from ltx2.pipelines.planning import make_plan

CPU = Machine("torch", "cpu", "cpu", True, 8 * 10**9)
POCKET_GEMMA = Path(__file__).parents[1] / "ltx2" / "pocket" / "gemma"


def plan_of(*overrides):
    return make_plan(compose(list(overrides)))


def told(plan, device=CPU, reused=None, outputs=None):
    return report(plan, component_dtypes(plan.settings, device), device, reused, outputs)


def row_of(text: str, phase: str) -> list[str]:
    """Cells of a row of the table."""
    line = next(line for line in text.splitlines() if line.startswith(f"{phase}  "))
    return re.split(r"  +", line.strip())


# --- time


def test_seconds_come_from_the_phases_of_nearest_size():
    samples = [
        Sample("sample", 10.0, 1.0),
        Sample("sample", 12.0, 1.2),
        Sample("sample", 11.0, 1.1),
    ]
    far = Sample("sample", 1e6, 1e3)
    timings = Timings(2, (*samples, far))
    assert timings.seconds(PhaseCost("base", 2, 10.0, "sample")) == pytest.approx(2.0)
    assert timings.seconds(PhaseCost("text", 1, 10.0, "text")) is None
    assert timings.seconds(PhaseCost("none", 1, 0.0, "video")) == 0.0


def record_for(plan, seconds_per_operation=1e-9, **other):
    """run.json of a run of the same plan at a known speed."""
    costs = [
        {"phase": row.phase, "kind": row.kind, "operations": row.total} for row in phase_costs(plan)
    ]
    phases = [
        {"phase": row["phase"], "seconds": row["operations"] * seconds_per_operation}
        for row in costs
    ]
    return {
        "status": "completed",
        "settings": {"model": {"name": "pocket"}},
        "device": {"backend": "torch", "device": "cpu"},
        "dtypes": {"transformer": "bf16"},
        "costs": costs,
        "phases": phases,
    } | other


def write(outputs: Path, folder: str, record) -> None:
    path = outputs / folder
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(record))


def test_earlier_runs_predict_a_larger_one(tmp_path):
    plan = plan_of()
    write(tmp_path, "2026-11-20/10-00-00-abc", record_for(plan))
    write(tmp_path, "sweeps/s-1/000-seed=1", record_for(plan))
    larger = plan_of("frames=33")
    text = told(larger, outputs=tmp_path)
    total = sum(row.total for row in phase_costs(larger)) * 1e-9
    assert f"time: about {duration(total)}, from 2 earlier runs" in text


@pytest.mark.parametrize(
    "other",
    [
        {"status": "failed"},
        {"settings": {"model": {"name": "dev"}}},
        {"device": {"backend": "mlx", "device": "cpu"}},
        {"device": {"backend": "torch", "device": "cuda:0"}},
        {"dtypes": {"transformer": "fp32"}},
        {"costs": []},
    ],
)
def test_runs_of_other_models_devices_and_dtypes_predict_nothing(tmp_path, other):
    plan = plan_of()
    write(tmp_path, "2026-11-20/10-00-00-abc", record_for(plan, **other))
    assert "time: no timings yet of this model on torch cpu" in told(plan, outputs=tmp_path)


def test_reused_stages_of_earlier_runs_have_no_speed(tmp_path):
    plan = plan_of()
    stages = [{"name": "base", "action": "reused"}, {"name": "refine", "action": "computed"}]
    write(tmp_path, "2026-11-20/10-00-00-abc", record_for(plan, stages=stages))
    found = read_timings(tmp_path, plan, CPU, {"transformer": "bf16"})
    operations = {row.phase: row.total for row in phase_costs(plan)}
    sampled = [sample.operations for sample in found.samples if sample.kind == "sample"]
    assert sampled == [operations["refine"]]


def test_streamed_runs_predict_streamed_ones_alone(tmp_path):
    rows = [{"model": "transformer", "mode": "streamed from disk"}]
    plan, streamed = plan_of(), plan_of("memory.transformer=stream")
    write(tmp_path, "2026-11-20/10-00-00-abc", record_for(plan))
    assert "without load transformer, base, refine" in told(streamed, outputs=tmp_path)
    assert row_of(told(streamed, outputs=tmp_path), "base")[-1] == "streamed"
    made = record_for(plan, 2e-9, statistics={"memory": rows})
    write(tmp_path, "2026-11-20/11-00-00-abc", made)
    seconds = {row["phase"]: row["seconds"] for row in made["phases"]}
    cells = row_of(told(streamed, outputs=tmp_path), "base")
    assert cells[-2:] == [duration(seconds["base"]), "streamed"]
    assert row_of(told(plan, outputs=tmp_path), "base")[-1] == duration(seconds["base"] / 2)


def test_damaged_records_are_passed_over(tmp_path):
    plan = plan_of()
    write(tmp_path, "2026-11-20/10-00-00-abc", record_for(plan))
    broken = tmp_path / "2026-11-20" / "11-00-00-abc"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    assert "from 1 earlier runs" in told(plan, outputs=tmp_path)


# --- the report


def test_the_report_tells_sizes_calls_and_files():
    text = told(plan_of())
    assert "pocket, two_stage: 128x128, 17 frames at 12 fps, 1.42 s, seed 10" in text
    assert (
        "stage base: 64x64 px, latent grid 5x4x4, 80 video and 35 audio tokens, 12 steps,"
        " 24 transformer calls"
    ) in text
    assert row_of(text, "refine")[:3] == ["refine", "320 + 35", "3"]
    assert "checkpoint ltx-2-pocket.safetensors" in text
    assert "cache: nothing to reuse" in text
    assert "cache: off" in told(plan_of("cache=off"))


def test_the_report_tells_what_the_cache_holds(tmp_path):
    plan = plan_of()
    write(tmp_path, "2026-11-20/10-00-00-abc", record_for(plan))
    held = {"text": True, "base": True, "upscale": True, "refine": False, "sound": True}
    text = told(plan, reused=lambda: held, outputs=tmp_path)
    assert "cache: reused text, base, upscale, sound; computed refine" in text
    assert row_of(text, "base")[-2:] == ["0.0 s", "cached"]
    assert row_of(text, "audio decode")[-1] == "cached"
    # A transformer is loaded as long as one stage samples.
    assert "cached" not in row_of(text, "load transformer")


def test_the_report_repeats_notices_and_warns_of_too_little_memory():
    plan = plan_of("frames=18", "snap=true")
    text = told(plan, device=replace(CPU, free_bytes=10**8))
    assert "notice: frames=18 is not 4k + 1: snapped to 17" in text
    assert re.search(r"notice: refine needs about \d+ MB, 100 MB are free", text)


def test_unknown_memory_is_called_unknown():
    cuda = Machine("torch", "cuda", "cuda", True, None)
    text = told(plan_of("memory.text_encoder=stream"), device=cuda)
    assert "device: torch cuda, free memory unknown" in text
    assert "transformer: whole or streamed, as the free memory says" in text
    assert "text encoder: streamed: memory.text_encoder=stream;" in text


def test_the_report_streams_what_the_run_will_stream():
    plan = plan_of()
    assert "transformer: loaded whole: 0.0 GB of weights" in told(plan)
    text = told(plan, device=replace(CPU, free_bytes=4 * 10**6))
    assert "transformer: streamed: 0.0 GB of weights" in text
    assert row_of(text, "refine")[-1] == "streamed" != row_of(text, "upscale")[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7500, "2 h 5 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


# --- the machine


def test_a_torch_device_is_told_from_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr("ltx2.experiment.machine.platform.system", lambda: "Linux")
    monkeypatch.setattr("ltx2.experiment.machine.version", lambda name: "2.13.0+cu130")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags : sse2 avx512f avx512_bf16\n")
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 2000 kB\n")
    assert machine("torch", "auto", tmp_path) == Machine("torch", "cpu", "cpu", True, 2048000)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").touch()
    assert machine("torch", "auto", tmp_path) == Machine("torch", "cuda", "cuda", True, None)
    monkeypatch.setattr("ltx2.experiment.machine.version", lambda name: "2.13.0+cpu")
    assert machine("torch", "auto", tmp_path).kind == "cpu"
    assert machine("torch", "cuda:1", tmp_path).device == "cuda:1"
    with pytest.raises(UserError, match=r"backend\.device=cpuu is unknown; did you mean 'cpu'"):
        machine("torch", "cpuu", tmp_path)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_machine_is_what_the_backend_will_find(name):
    from ltx2.backends import open_backend

    told_as, backend = machine(name, "auto"), open_backend(name, device="auto")
    assert (told_as.device, told_as.kind) == (backend.device, backend.kind)
    assert told_as.fast_bf16 == backend.fast_bf16


def test_planning_loads_no_torch():
    code = (
        "import sys; from ltx2.app.compose import compose;"
        "from ltx2.experiment.machine import machine; from ltx2.experiment.report import report;"
        "from ltx2.experiment.run import component_dtypes;"
        "from ltx2.pipelines.planning import make_plan;"
        "plan, device = make_plan(compose()), machine('torch', 'auto');"
        "report(plan, component_dtypes(plan.settings, device), device);"
        "assert not {'torch', 'mlx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- the released size


def write_gemma_12b(folder: Path) -> None:
    """A sparse folder with the sizes of Gemma 3 12B."""
    folder.mkdir()
    for path in POCKET_GEMMA.glob("*.json"):
        shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {
        "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
        "vocab_size": 262208, "layer_types": None,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    model = Gemma3.declare(GemmaConfig.from_metadata(config))
    shapes = {f"language_model.model.{s.name}": ("BF16", s.value.shape) for s in params(model)}
    write_sparse(folder / "model.safetensors", shapes, {"format": "pt"})


def test_the_19b_model_is_planned_within_two_seconds(tmp_path):
    full_size_file(tmp_path, "ltx-2-19b-dev", "ltx-2-19b", model_version="2.0.0")
    write_gemma_12b(tmp_path / "gemma")
    overrides = ["model=dev", "pipeline=one_stage", f"paths.models={tmp_path}",
                 "model.files.text_encoder.file=gemma"]  # fmt: skip
    settings = compose(overrides)
    # Of this process: other programs may use the machine meanwhile.
    start = time.process_time()
    plan = make_plan(settings)
    text = told(plan, machine("torch", "cpu"), outputs=tmp_path)
    assert time.process_time() - start < 2
    # 6144 tokens of width 4096 in 48 blocks: about 200 TFLOP in a pass, four passes in a step.
    assert row_of(text, "base")[1:3] == ["6,144 + 126", "160"]
    operations = float(row_of(text, "base")[3].replace(",", ""))
    assert operations == pytest.approx(160 * 200, rel=0.05)
    dtypes = dict.fromkeys(component_dtypes(plan.settings, CPU), "bf16")
    rows = {r.phase: r for r in phase_memory(plan, dtypes, Place("torch", "cuda"))}
    assert rows["base"].weights == pytest.approx(2 * 18_876_174_592, rel=0.01)
    assert rows["text"].weights == pytest.approx(2 * 11.8e9, rel=0.05)
