"""`ltx2 show`: what the record of a clip, of a run or of saved latents says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltx2.errors import MissingFile, UserError
from ltx2.experiment.record import to_json
from ltx2.experiment.reproduce import Run, load_run
from ltx2.pipelines.guidance import OFF

LATENTS = ("ltx2 latents", "ltx2 steps")
LABEL = 16


def main(arguments: list[str]) -> int:
    """Run `ltx2 show SOURCE [--json]`."""
    parser = argparse.ArgumentParser(prog="ltx2 show", description=__doc__)
    parser.add_argument("source", help="a clip, the folder of a run, or saved latents")
    parser.add_argument("--json", action="store_true", help="the record itself")
    options = parser.parse_args(arguments)
    path = Path(options.source)
    if path.suffix == ".safetensors":
        record, lines = _latents(path)
    else:
        run = load_run(path)
        record, lines = run.record, _run(run)
        if options.json and not record:
            raise UserError(f"{path} has no record yet: the run goes on, or it was killed")
    text = to_json(record, indent=1) if options.json else "\n".join(lines)
    sys.stdout.write(f"{text}\n")
    return 0


def _latents(path: Path) -> tuple[dict[str, Any], Iterator[str]]:
    """Metadata and tensors of a file that save_latents or save_steps left."""
    from ltx2.weights.header import read_header

    if not path.exists():
        raise MissingFile(f"{path} does not exist; name a file of a run's folder latents/")
    header = read_header(path)
    if not header.metadata.get("format", "").startswith(LATENTS):
        raise UserError(f"{path} holds no saved latents; `ltx2 inspect` tells what a model file is")
    tensors = {
        name: {"dtype": info.dtype, "shape": list(info.shape)}
        for name, info in header.tensors.items()
    }
    rows = [(key.replace("_", " "), value) for key, value in sorted(header.metadata.items())]
    rows += [(name, f"{t['dtype']} {t['shape']}") for name, t in sorted(tensors.items())]
    return {**header.metadata, "tensors": tensors}, _lines(rows)


def _run(run: Run) -> Iterator[str]:
    record, settings = run.record, run.settings or run.record.get("settings") or {}
    identity = _joined(record, "run", "status", "started") or run.status
    rows: list[tuple[str, Any]] = [("run", identity)]
    rows += [(key, record.get(key)) for key in ("error", "sweep", "cell")]
    rows.append(("prompt", settings.get("prompt", "(left out: output.private=true)")))
    rows.append(("enhanced prompt", record.get("enhanced_prompt")))
    rows.append(("negative prompt", settings.get("negative_prompt")))
    rows.append(("model", _name(settings, "model")))
    rows.append(("pipeline", _name(settings, "pipeline")))
    rows.append(("seed", settings.get("seed")))
    rows.append(("size", _size(record, settings)))
    rows += [(f"sigmas {stage}", _sigmas(v)) for stage, v in record.get("sigmas", {}).items()]
    rows.append(("guidance", _guidance(settings)))
    rows += [(f"lora {n}", f"{v.get('file')} {v.get('strength')}") for n, v in _loras(settings)]
    rows.append(("stages", _stages(record)))
    rows.append(("metrics", ", ".join(_metric(*m) for m in record.get("metrics", {}).items())))
    rows.append(("time", _times(record)))
    rows.append(("peak memory", _bytes(record.get("peak_rss_bytes"))))
    rows.append(("device", _joined(record.get("device", {}), "backend", "device", "device_name")))
    rows.append(("dtypes", _pairs(record.get("dtypes", {}))))
    rows.append(("versions", _pairs(record.get("versions", {}))))
    rows += [("weights", _weights(row)) for row in record.get("weights", [])]
    rows += [("notice", text) for text in record.get("notices", [])]
    rows += [("warning", text) for text in record.get("warnings", [])]
    rows.append(("command", " ".join(record.get("command", []))))
    rows += [(name, path) for name, path in record.get("files", {}).items()]
    return _lines(rows)


def _lines(rows: list[tuple[str, Any]]) -> Iterator[str]:
    """Label and value, of those that have one."""
    for label, value in rows:
        if value not in (None, "", [], {}):
            yield f"{label:{LABEL}} {value}"


def _joined(table: dict[str, Any], *keys: str) -> str:
    return " ".join(dict.fromkeys(str(table[key]) for key in keys if table.get(key)))


def _pairs(table: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in table.items())


def _name(settings: dict[str, Any], group: str) -> Any:
    return (settings.get(group) or {}).get("name")


def _size(record: dict[str, Any], settings: dict[str, Any]) -> str:
    size = record.get("size") or settings
    frames, fps = (record.get(key, settings.get(key)) for key in ("frames", "fps"))
    if not (size.get("width") and frames and fps):
        return ""
    seconds = f"{frames / fps:.2f} s"
    return f"{size['width']}x{size['height']}, {frames} frames at {fps:g} fps, {seconds}"


def _sigmas(values: list[float]) -> str:
    return f"{len(values) - 1} steps: " + " ".join(f"{value:.4g}" for value in values)


def _guidance(settings: dict[str, Any]) -> str:
    guidance = settings.get("guidance") or {}
    told = [str(guidance.get("kind", ""))]
    for stream in ("video", "audio"):
        given = guidance.get(stream) or {}
        on = {k: v for k, v in given.items() if v not in (None, [], {}) and v != OFF.get(k)}
        if on:
            told.append(f"{stream} " + " ".join(f"{key}={value}" for key, value in on.items()))
    return "; ".join(told) if told[0] else ""


def _loras(settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list((settings.get("lora") or {}).items())


def _stages(record: dict[str, Any]) -> str:
    return ", ".join(f"{s['name']} {s['action']}" for s in record.get("stages") or [])


def _metric(name: str, value: float | None) -> str:
    return f"{name} {'-' if value is None else format(value, '.4g')}"


def _times(record: dict[str, Any]) -> str:
    phases = ", ".join(f"{p['phase']} {p['seconds']:.2f}" for p in record.get("phases", []))
    return f"{record['seconds']:.2f} s ({phases})" if phases else ""


def _bytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e9:.2f} GB"


def _weights(row: dict[str, Any]) -> str:
    digest = str(row.get("header_sha256", ""))[:12]
    return f"{row.get('role')}: {row.get('name')}, {row.get('bytes')} bytes, header {digest}"
