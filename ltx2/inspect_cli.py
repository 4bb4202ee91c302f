"""`ltx2 inspect`: what a checkpoint, LoRA, upsampler or Gemma folder is, from its headers alone."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ltx2.errors import UserError
from ltx2.pipelines.components.gemma import is_packed, read_gemma
from ltx2.pipelines.components.preflight import fit
from ltx2.weights.checkpoint import (
    NEEDED,
    Part,
    describe_kind,
    identify,
    split_parts,
)
from ltx2.weights.header import Header, read_header
from ltx2.weights.lora_file import LoraFile, read_lora

PAIRS = tuple[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Describe each path on standard output. Returns 1 when any of them cannot be used."""
    parser = argparse.ArgumentParser(
        prog="ltx2 inspect",
        description="Say what a .safetensors file or a Gemma folder is, from its header alone.",
    )
    parser.add_argument("paths", nargs="+", metavar="FILE", type=Path)
    failed = False
    for path in parser.parse_args(argv).paths:
        try:
            lines, problems = describe(path)
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        print("\n".join(lines))
        for problem in problems:
            print(f"  problem: {problem}")
        failed = failed or bool(problems)
    return int(failed)


def describe(path: Path) -> tuple[list[str], list[str]]:
    """Lines about one file or folder, and what would stop it from loading."""
    if path.is_dir():
        return _gemma(path), []
    header = read_header(path)
    if is_packed(header):
        return _gemma(path), []
    identity = identify(header)
    facts = [*_facts(header)]
    problems: list[str] = []
    if identity.kind == "lora":
        facts += _lora(read_lora(path))
    elif identity.kind == "unknown":
        problems.append(f"{path.name} is {describe_kind(header)}")
    elif identity.kind == "model" or "config" in header.metadata:
        result = fit(header)
        problems += result.problems
        unused = ", ".join(f"{n} of {part}" for part, n in sorted(result.unused.items()))
        built = f"{result.tensors:,} tensors, {result.parameters:,} parameters"
        facts += [("built", built), ("not built", unused or "none")]
    return [path.name, *_columns(facts), "", *_table(identity.parts)], problems


def _facts(header: Header) -> Iterator[PAIRS]:
    identity = identify(header)
    yield "kind", describe_kind(header)
    yield "generation", identity.generation
    if "model_version" in header.metadata:
        yield "version", header.metadata["model_version"]
    if identity.kind in ("model", "lora"):
        yield "training", identity.training
    if identity.kind == "model":
        yield "lacks", ", ".join(n for n in NEEDED if n not in identity.names) or "nothing"
    yield "quantisation", identity.quantisation
    yield "size", _size(header.file_size)
    data = sum(part.bytes for part in identity.parts)
    yield "data", f"{data:,} bytes"
    yield "tensors", f"{len(header.tensors):,}"
    yield "parameters", f"{sum(part.parameters for part in identity.parts):,}"
    yield "dtypes", _dtypes(identity.parts)


def _lora(lora: LoraFile) -> Iterator[PAIRS]:
    kinds = Counter(".".join(p for p in pair.module.split(".") if not p.isdigit())
                    for pair in lora.pairs)  # fmt: skip
    yield "pairs", f"{len(lora.pairs):,}"
    yield "rank", ", ".join(map(str, lora.ranks))
    yield "alpha / rank", ", ".join(f"{f:g}" for f in sorted({p.factor for p in lora.pairs}))
    yield "layers", ", ".join(f"{name} ({n})" for name, n in sorted(kinds.items()))
    if lora.text_side:
        yield "left out", ", ".join(lora.text_side)
    if lora.unknown:
        yield "not understood", f"{len(lora.unknown)} tensors, first {lora.unknown[0]}"
    if (lora.reference_downscale_factor, lora.reference_temporal_scale_factor) != (1, 1):
        space, time = lora.reference_downscale_factor, lora.reference_temporal_scale_factor
        yield "reference", f"{space} times smaller, {time} times slower"


def _gemma(path: Path) -> list[str]:
    files = read_gemma(path)
    files.match(files.declare())
    parts: dict[str, list[Part]] = {}
    for shard in files.shards:
        for part in split_parts(shard):
            parts.setdefault(part.name, []).append(part)
    merged = [_merge(name, group) for name, group in parts.items()]
    config = files.config
    facts = [
        ("kind", f"a {files.family} text encoder" + (" folder" if path.is_dir() else "")),
        ("layers", f"{len(config.layer_types)} of width {config.hidden}"),
        ("features", f"{config.feature_width:,} per token"),
        ("files", str(len(files.shards))),
        ("size", _size(sum(shard.file_size for shard in files.shards))),
        ("tensors", f"{sum(part.tensors for part in merged):,}"),
        ("parameters", f"{sum(part.parameters for part in merged):,}"),
        ("dtypes", _dtypes(merged)),
    ]
    return [path.name + ("/" if path.is_dir() else ""), *_columns(facts), "", *_table(merged)]


def _merge(name: str, group: Sequence[Part]) -> Part:
    dtypes: Counter[str] = Counter()
    for part in group:
        dtypes.update(dict(part.dtypes))
    return Part(
        name,
        sum(part.tensors for part in group),
        sum(part.parameters for part in group),
        sum(part.bytes for part in group),
        tuple(dtypes.most_common()),
    )


def _size(count: int) -> str:
    """Decimal units, as download pages use."""
    return f"{_short(count)} ({count:,} bytes)"


def _short(count: int) -> str:
    units = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
    return next((f"{count / u:.1f} {name}" for u, name in units if count >= u), f"{count} B")


def _dtypes(parts: Sequence[Part]) -> str:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(dict(part.dtypes))
    return ", ".join(f"{dtype} ({count:,})" for dtype, count in total.most_common())


def _columns(facts: Sequence[PAIRS]) -> list[str]:
    width = max(len(name) for name, _ in facts)
    return [f"  {name:<{width}}  {value}" for name, value in facts]


def _table(parts: Sequence[Part]) -> list[str]:
    rows = [("component", "tensors", "parameters", "size", "dtypes")]
    rows += [
        (p.name, f"{p.tensors:,}", f"{p.parameters:,}", _short(p.bytes), _dtypes([p]))
        for p in parts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"  {row[0]:<{widths[0]}}  "
        + "  ".join(f"{row[c]:>{widths[c]}}" for c in (1, 2, 3))
        + f"  {row[4]}"
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
