"""Between the layouts of LTX-2 models: a single file, one file per component, diffusers' folder.

Tensors are copied byte for byte, one after another. What diffusers has no place for, and the
official metadata, stand in a file beside its folders, so that the way back is exact.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltx2.errors import MissingFile, UserError
from ltx2.weights import convert_config as configs
from ltx2.weights.checkpoint import component_of, describe_kind
from ltx2.weights.convert_names import (
    FOLDERS,
    PARTS,
    SPLIT_FILES,
    Depth,
    canonical,
    to_diffusers,
    to_official,
)
from ltx2.weights.header import Header, read_header
from ltx2.weights.writing import Piece, copied, write_file

log = logging.getLogger(__name__)

WEIGHTS = "diffusion_pytorch_model.safetensors"
# What diffusers' folders do not hold.
REST = "ltx2_original.safetensors"
# Sections of the metadata that describe a component; its file is believed about them.
_SECTIONS = {
    "transformer": ("transformer", "scheduler"),
    "video-vae": ("vae",),
    "audio-vae": ("audio_vae",),
    "vocoder": ("vocoder",),
    "duration-head": ("duration_head",),
}
# Of diffusers' LTX-2.5.
_NEWER_FOLDERS = ("duration_head", "diffusion_decoder")
_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1,
    "base_image_seq_len": 1024, "max_image_seq_len": 4096, "num_train_timesteps": 1000,
}  # fmt: skip
_COMPONENT_OF = {part: component for component, parts in PARTS.items() for part in parts}


@dataclass(frozen=True)
class Model:
    """A model's tensors by official name, and the metadata that describes them; nothing is read."""

    tensors: dict[str, Piece]
    metadata: dict[str, str]
    name: str

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self.metadata.get("config", "{}"))

    @property
    def depth(self) -> Depth:
        return configs.depth_of(self.config.get("vae", {}))

    def pieces(self, component: str) -> list[Piece]:
        """The tensors of a component of `PARTS`; of "" those that belong to none."""
        return [
            piece
            for name, piece in self.tensors.items()
            if _COMPONENT_OF.get(component_of(name), "") == component
        ]

    @property
    def components(self) -> list[str]:
        present = {_COMPONENT_OF.get(component_of(name), "") for name in self.tensors}
        return [name for name in PARTS if name in present]


def read_model(paths: Sequence[Path]) -> Model:
    """A model from its files, or from a folder of diffusers. Raises UserError."""
    if len(paths) == 1 and paths[0].is_dir():
        if (paths[0] / "model_index.json").is_file() or (paths[0] / "transformer").is_dir():
            return _from_diffusers(paths[0])
        if (paths[0] / "config.json").is_file():
            raise UserError(
                f"{paths[0]} is a text encoder's folder, which has one layout; add --quantise MODE"
                " to write a smaller one"
            )
        raise UserError(
            f"{paths[0]} is no folder of diffusers: it has no model_index.json; give files"
        )
    headers = [read_header(path) for path in paths]
    for header in headers:
        if _components(header) == [""]:
            raise UserError(f"{header.path.name} is {describe_kind(header)}, no part of a model")
    tensors: dict[str, Piece] = {}
    for header in headers:
        for name in header.tensors:
            new = canonical(name)
            if new in tensors:
                raise UserError(f"'{new}' is in two of the files, one is {header.path.name}")
            tensors[new] = copied(header, name, new)
    return Model(tensors, _merged(headers), headers[0].path.stem)


def _components(header: Header) -> list[str]:
    found = {_COMPONENT_OF.get(component_of(name), "") for name in header.tensors}
    return sorted(found)


def _merged(headers: Sequence[Header]) -> dict[str, str]:
    """The first file's metadata, with the sections of the files that hold their components."""
    if len(headers) == 1 or len({h.metadata.get("config") for h in headers}) == 1:
        return dict(headers[0].metadata)
    merged: dict[str, str] = {}
    config: dict[str, Any] = {}
    for header in headers:
        merged = header.metadata | merged
        own = header.config if "config" in header.metadata else {}
        held = [key for name in _components(header) for key in _SECTIONS.get(name, ())]
        config = own | config | {key: own[key] for key in held if key in own}
    return merged | {"config": json.dumps(config)}


def write_single(model: Model, path: Path) -> list[Path]:
    """One file with everything; what diffusers never had is in it again."""
    pieces = [piece for name in ("", *model.components) for piece in model.pieces(name)]
    return [write_file(path, pieces, model.metadata)]


def write_split(model: Model, folder: Path) -> list[Path]:
    """A file for the transformer with its text side, the VAEs and the duration head, as present.

    Each has the whole metadata: the parts of one model are known by it, and join exactly.
    """
    written = []
    for name, components in SPLIT_FILES.items():
        pieces = [piece for component in components for piece in model.pieces(component)]
        if pieces:
            path = folder / f"{model.name}-{name}.safetensors"
            written.append(write_file(path, pieces, model.metadata))
    if model.pieces(""):
        path = folder / f"{model.name}-rest.safetensors"
        written.append(write_file(path, model.pieces(""), model.metadata))
    return written


def write_component(model: Model, component: str, path: Path) -> list[Path]:
    """One component alone, with the metadata that describes it."""
    pieces = model.pieces(component)
    if not pieces:
        known = ", ".join(model.components)
        raise UserError(f"{model.name} holds no {component}; it holds {known}")
    return [write_file(path, pieces, model.metadata)]


def write_diffusers(model: Model, folder: Path) -> list[Path]:
    """diffusers' folder: a subfolder with weights and config.json per component."""
    _check_plain(model)
    _check_generation(model)
    made: list[tuple[Path, dict[str, Any], list[Piece]]] = []
    rest, index = model.pieces(""), _index()
    for component in model.components:
        pieces, left = _renamed(model, component)
        rest += left
        if component not in FOLDERS or not pieces:
            continue
        subfolder, usual = FOLDERS[component]
        class_name, config = _diffusers_config(model, component, usual)
        made.append((folder / subfolder, {"_class_name": class_name} | config, pieces))
        # Classes that stand beside the pipeline are named by its folder.
        is_model = component in ("transformer", "video-vae", "audio-vae")
        index[subfolder] = ["diffusers" if is_model else "ltx2", class_name]
    written = []
    for place, config, pieces in made:
        written.append(write_file(place / WEIGHTS, pieces, {"format": "pt"}))
        _write_json(place / "config.json", config)
    written.append(write_file(folder / REST, rest, model.metadata))
    _write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
    _write_json(folder / "model_index.json", index)
    return written


def _index() -> dict[str, Any]:
    return {
        "_class_name": "LTX2Pipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Gemma3ForConditionalGeneration"],
        "tokenizer": ["transformers", "GemmaTokenizerFast"],
    }


def _check_plain(model: Model) -> None:
    quantised = [name for name, piece in model.tensors.items() if piece.dtype in ("F8_E4M3", "U32")]
    scales = [name for name in model.tensors if name.endswith((".weight_scale", ".scales"))]
    if quantised and scales:
        raise UserError(
            f"{model.name} is quantised ('{quantised[0]}'), which diffusers' folders cannot hold;"
            " start from the bf16 file"
        )


def _check_generation(model: Model) -> None:
    """diffusers 0.42 reads LTX-2.5 from folders of more classes, which are not written here."""
    if model.config.get("transformer", {}).get("use_keyframes_abs_pos_embedding"):
        raise UserError(
            f"{model.name} is LTX-2.5, of which diffusers' folders are not written: its video VAE,"
            " text projections and duration head are laid out otherwise; use --to single or split"
        )


def _renamed(model: Model, component: str) -> tuple[list[Piece], list[Piece]]:
    """The tensors that diffusers has a place for under its names, and the others."""
    placed, left = [], []
    for piece in model.pieces(component):
        name = to_diffusers(component, piece.name, model.depth) if component in FOLDERS else None
        if name is None or not _is_used(model, component, piece.name):
            left.append(piece)
        else:
            placed.append(replace(piece, name=name))
    return placed, left


def _is_used(model: Model, component: str, name: str) -> bool:
    """First-generation files hold timestep conditioning that their metadata switches off."""
    if component != "video-vae" or model.config["vae"].get("timestep_conditioning", False):
        return True
    return not name.endswith(("scale_shift_table", "timestep_scale_multiplier"))


def _diffusers_config(model: Model, component: str, usual: str) -> tuple[str, dict[str, Any]]:
    config = model.config
    try:
        if component == "transformer":
            audio = config.get("audio_vae", {})
            return usual, configs.transformer_to_diffusers(config["transformer"], audio)
        if component == "connectors":
            shapes = {
                name: piece.shape
                for name, piece in model.tensors.items()
                if component_of(name) == "text projections"
            }
            return usual, configs.connectors_to_diffusers(config["transformer"], shapes)
        if component == "video-vae":
            return usual, configs.video_vae_to_diffusers(config["vae"])
        if component == "audio-vae":
            return usual, configs.audio_vae_to_diffusers(config["audio_vae"])
        return configs.vocoder_to_diffusers(config["vocoder"], config["audio_vae"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{model.name}: {component}: {error}") from None
        raise UserError(
            f"{model.name}: its metadata does not describe the {component} ({error!r})"
        ) from None


def _from_diffusers(folder: Path) -> Model:
    newer = [name for name in _NEWER_FOLDERS if (folder / name).is_dir()]
    if newer:
        raise UserError(
            f"{folder} is diffusers' LTX-2.5 ('{newer[0]}'), which is not read; use the published"
            " LTX-2.5 files, as in model=2.5-distilled"
        )
    described = {
        component: json.loads((folder / subfolder / "config.json").read_text(encoding="utf-8"))
        for component, (subfolder, _) in FOLDERS.items()
        if (folder / subfolder / "config.json").is_file()
    }
    rest = read_header(folder / REST) if (folder / REST).is_file() else None
    metadata = dict(rest.metadata) if rest is not None else _official_metadata(folder, described)
    depth = configs.depth_of(json.loads(metadata["config"]).get("vae", {}))
    tensors: dict[str, Piece] = {}
    for component in described:
        for header in _shards(folder / FOLDERS[component][0]):
            for name in header.tensors:
                official = to_official(component, name, depth)
                if official is None:
                    raise UserError(f"{header.path}: '{name}' is no tensor of LTX-2's {component}")
                tensors[official] = copied(header, name, official)
    for name in rest.tensors if rest is not None else ():
        assert rest is not None
        tensors[name] = copied(rest, name)
    return Model(tensors, metadata, folder.name)


def _shards(folder: Path) -> list[Header]:
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise MissingFile(
                f"{folder} lacks {len(absent)} of {len(names)} shards, first {absent[0]};"
                " download it again"
            )
        return [read_header(folder / name) for name in names]
    files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []
    files = files or sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise MissingFile(
            f"{folder} has {len(files)} weight files and no index; expected {WEIGHTS}"
        )
    return [read_header(files[0])]


def _official_metadata(folder: Path, described: dict[str, dict[str, Any]]) -> dict[str, str]:
    makers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "video-vae": configs.video_vae_to_official,
        "audio-vae": configs.audio_vae_to_official,
        "vocoder": configs.vocoder_to_official,
        "transformer": lambda own: configs.transformer_to_official(
            own, described.get("connectors", {})
        ),
    }
    config: dict[str, Any] = {}
    for component, make in makers.items():
        if component in described:
            try:
                config[_SECTIONS[component][0]] = make(described[component])
            except (KeyError, TypeError, IndexError) as error:
                where = folder / FOLDERS[component][0] / "config.json"
                raise UserError(f"{where} does not describe an LTX-2 model ({error!r})") from None
    metadata = {"config": json.dumps(config)}
    transformer = described.get("transformer", {})
    if transformer.get("use_keyframes_abs_pos_embedding"):
        metadata["model_version"] = "2.5.0"
    elif transformer.get("cross_attn_mod"):
        metadata["model_version"] = "2.3.0"
    return metadata


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
