"""`ltx2 convert`: a model in another layout, with LoRAs merged, a part of it, or quantised."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from ltx2.errors import MissingFile, UserError
from ltx2.weights.convert_names import PARTS

LAYOUTS = ("single", "split", "diffusers")
_EXAMPLES = """
  ltx2 convert dev.safetensors parts --to split          a file per component, in folder parts
  ltx2 convert parts/*.safetensors dev.safetensors       one file again
  ltx2 convert dev.safetensors folder --to diffusers     what diffusers loads
  ltx2 convert folder dev.safetensors                    and back
  ltx2 convert dev.safetensors vae.safetensors --component video-vae
  ltx2 convert dev.safetensors mine.safetensors --lora style.safetensors:0.8
  ltx2 convert dev.safetensors small.safetensors --quantise int8 --backend mlx
  ltx2 convert gemma gemma-int8 --quantise int8          a text encoder's folder
"""


def main(arguments: list[str]) -> int:
    """Run `ltx2 convert SOURCE [SOURCE ...] TARGET`; prints what was written."""
    given = _parser().parse_args(arguments)
    sources, target = given.sources, given.target
    for path in sources:
        if not path.exists():
            raise MissingFile(f"{path} does not exist; name the files of a model, or a folder")
    _check_target(sources, target)
    for path in _quantised(given) if given.quantise else _converted(given):
        sys.stdout.write(f"{path}  {path.stat().st_size / 1e9:.2f} GB\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ltx2 convert",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE")
    parser.add_argument("target", type=Path, metavar="TARGET")
    parser.add_argument("--to", choices=LAYOUTS, help="layout (default: single)")
    parser.add_argument("--component", choices=list(PARTS), help="write only this component")
    parser.add_argument("--lora", action="append", default=[], metavar="FILE[:STRENGTH]")
    parser.add_argument("--quantise", metavar="MODE", help="int8, int4, mxfp8, fp8 or fp8-cast")
    parser.add_argument("--group", type=int, default=64, help="inputs per scale of int8 and int4")
    parser.add_argument("--keep", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--backend", choices=["torch", "mlx"], help="for --lora and --quantise")
    return parser


def _check_target(sources: list[Path], target: Path) -> None:
    if any(source.resolve() == target.resolve() for source in sources):
        raise UserError(f"{target} is read; give the result another name")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError(f"{target} exists; remove it or give another name")


def _converted(given: Namespace) -> list[Path]:
    from ltx2.weights import convert

    to = given.to or "single"
    if given.component and given.to:
        raise UserError("--component writes one file; drop --to")
    if to == "single" and given.target.suffix != ".safetensors":
        raise UserError(
            f"{given.target} does not end in .safetensors; for a folder add --to split or diffusers"
        )
    model = convert.read_model(given.sources)
    if given.lora:
        from ltx2.weights.convert_lora import with_loras

        loras = [_lora(text) for text in given.lora]
        model = with_loras(model, loras, _backend(given.backend))
    if given.component:
        return convert.write_component(model, given.component, given.target)
    write = {
        "single": convert.write_single,
        "split": convert.write_split,
        "diffusers": convert.write_diffusers,
    }[to]
    return write(model, given.target)


def _quantised(given: Namespace) -> list[Path]:
    from ltx2.weights.header import read_header
    from ltx2.weights.quantise import Quantisation
    from ltx2.weights.quantise_file import save_quantised, save_quantised_folder

    if given.lora or given.component or given.to or len(given.sources) != 1:
        raise UserError(
            "--quantise takes one file, or a text encoder's folder, and nothing else; convert it in"
            " two steps"
        )
    (source,) = given.sources
    how = Quantisation(given.quantise, given.group, tuple(given.keep))
    if source.is_dir():
        from ltx2.pipelines.components.gemma import read_gemma

        read_gemma(source)  # refuses what is no text encoder
        made = save_quantised_folder(source, given.target, how, _backend(given.backend))
        return sorted(made.glob("*.safetensors"))
    if given.target.suffix != ".safetensors":
        raise UserError(f"{given.target} does not end in .safetensors; give the new file's name")
    return [save_quantised(read_header(source), given.target, how, _backend(given.backend))]


def _lora(text: str) -> tuple[Path, float]:
    name, colon, strength = text.rpartition(":")
    if not colon or not strength:
        return Path(text), 1.0
    try:
        return Path(name), float(strength)
    except ValueError:  # a path with a colon of its own
        return Path(text), 1.0


def _backend(name: str | None) -> Any:
    from ltx2.backends import installed, open_backend

    present = installed()
    if not present and name is None:
        raise UserError("adding LoRAs and quantising need torch or mlx; pip install 'ltx2[torch]'")
    return open_backend(name or present[0], device="cpu")
