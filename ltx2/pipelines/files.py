"""Finding the files of a model and saying precisely what is absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ltx2.errors import MissingFile
from ltx2.pipelines.settings import LoraSettings, ModelFile, Settings
from ltx2.weights.hub_cache import cached

PACKAGE = "package:"
_PACKAGE_FOLDER = Path(__file__).parent.parent


@dataclass(frozen=True)
class Wanted:
    """A file that a run needs: its role, how the config names it, where it was looked for."""

    role: str
    file: ModelFile
    places: tuple[Path, ...]

    @property
    def found(self) -> Path | None:
        return next((place for place in self.places if place.exists()), None)


def places(file: str, folder: Path, source: str = "") -> tuple[Path, ...]:
    """Where `file` may stand: in the package, at its own path, below the models folder, or cached.

    `folder` may also be that of ComfyUI, or its models. `source` is the repository on the Hub.
    """
    if file.startswith(PACKAGE):
        return (_PACKAGE_FOLDER / file.removeprefix(PACKAGE),)
    path = Path(file).expanduser()
    if path.is_absolute():
        return (path,)
    # Repositories are often cloned as folders, and ComfyUI has one per kind of file, with
    # folders of the user's own in them: so the bare name is tried below them too.
    below = [
        found
        for pattern in (f"*/{path}", path.name, f"*/{path.name}", f"*/*/{path.name}")
        for found in sorted(folder.glob(pattern))
    ]
    hub = cached(source, name_on_hub(ModelFile(file, source))) if source else ()
    return tuple(dict.fromkeys((folder / path, path, *below, *hub)))


def name_on_hub(file: ModelFile) -> str:
    """The path of a file within its repository; empty if it is the whole repository."""
    path = Path(file.file)
    if path.suffix != ".safetensors":
        return ""
    return path.name if path.is_absolute() else path.as_posix()


def download_target(file: ModelFile, folder: Path) -> Path:
    """Where a file, or the folder of a repository, is put when it is downloaded."""
    return folder / Path(file.file).expanduser()


def media_path(path: str) -> str:
    """`path`, with `package:` standing for the package's own files."""
    return str(places(path, Path())[0]) if path.startswith(PACKAGE) else path


def recorded_path(path: str) -> str:
    """The reverse of `media_path`: a record must be of use on another machine."""
    inside = path and Path(path).is_relative_to(_PACKAGE_FOLDER)
    return f"{PACKAGE}{Path(path).relative_to(_PACKAGE_FOLDER).as_posix()}" if inside else path


def with_media_paths(settings: Settings, convert: Callable[[str], str] = media_path) -> Settings:
    """Settings with the paths of input media and conditions converted, by default to real ones."""
    given = settings.input
    return replace(
        settings,
        input=replace(
            given,
            video=convert(given.video),
            audio=convert(given.audio),
            mask=convert(given.mask),
        ),
        conditioning={
            name: replace(item, path=convert(item.path), mask=convert(item.mask))
            for name, item in settings.conditioning.items()
        },
    )


def recorded_settings(settings: Settings) -> dict[str, Any]:
    """The settings as a record keeps them."""
    return asdict(with_media_paths(settings, recorded_path))


# Files that together are the model: one, or one per component.
MODEL_ROLES = ("checkpoint", "video_vae", "audio_vae")


def needed_roles(settings: Settings) -> list[str]:
    """Roles of the model's files that the pipeline's stages use, in the order of use."""
    files = settings.model.files
    roles = ["checkpoint", *(r for r in MODEL_ROLES[1:] if files.get(r, ModelFile()).file)]
    if settings.frames == "auto":
        roles.append("duration_head")
    stages = [stage for stage in settings.pipeline.stages if stage.round <= settings.dfr.rounds]
    if any(stage.do == "sample" for stage in stages):
        roles.append("text_encoder")
    for stage in stages:
        if stage.do == "upscale":
            roles.append(stage.upscaler)
        if "distilled" in stage.loras and settings.model.kind == "dev":
            roles.append("distilled_lora")
    return list(dict.fromkeys(roles))


def wanted_files(settings: Settings) -> list[Wanted]:
    """The files that the pipeline's stages use, LoRAs as `lora.<name>`, and where they may be."""
    folder = Path(settings.paths.models).expanduser()
    files = {r: settings.model.files.get(r, ModelFile()) for r in needed_roles(settings)}
    files |= {f"lora.{n}": ModelFile(lora.file, lora.source) for n, lora in settings.lora.items()}
    return [
        Wanted(role, file, places(file.file, folder, file.source) if file.file else ())
        for role, file in files.items()
    ]


def find_files(settings: Settings) -> dict[str, Path]:
    """Paths by role. Raises MissingFile with a table of what is absent."""
    wanted = wanted_files(settings)
    absent = [w for w in wanted if w.found is None]
    if absent:
        folder = Path(settings.paths.models).expanduser()
        raise MissingFile(_absent_message(settings.model.name, absent, folder))
    return {w.role: w.found for w in wanted if w.found is not None}


def _absent_message(model: str, absent: list[Wanted], folder: Path) -> str:
    lines = [f"model={model}: {len(absent)} needed file(s) not found"]
    for want in absent:
        if not want.file.file:
            lines.append(f"  {want.role}: no file is configured; set model.files.{want.role}.file")
            continue
        size = f", {want.file.bytes / 1e9:.1f} GB" if want.file.bytes else ""
        lines.append(f"  {want.role}: {want.file.file}{size}")
        lines.append(f"    looked for: {', '.join(str(p) for p in want.places)}")
        if want.file.source:
            lines.append(f"    get it: {_command(want.file, folder)}")
    if any(want.file.source for want in absent):
        lines.append("  add download=true to fetch them now, or: ltx2 pull MODEL --pipeline NAME")
    lines.append(
        f"  put the files into {folder} (or set paths.models=FOLDER, which may be ComfyUI's);"
        " model=pocket needs no download"
    )
    return "\n".join(lines)


def _command(file: ModelFile, folder: Path) -> str:
    if "." not in Path(file.file).name:
        return f"hf download {file.source} --local-dir {folder / file.file}"
    if Path(file.file).is_absolute():
        name, target = Path(file.file).name, Path(file.file).parent
    else:
        name, target = file.file, folder
    return f"hf download {file.source} {name} --local-dir {target}"


def active_loras(loras: dict[str, LoraSettings]) -> dict[str, LoraSettings]:
    """LoRAs with a strength other than 0 on some stage; 0 is the identity and is not read."""
    return {n: lora for n, lora in loras.items() if lora.strength != 0 or any(lora.stages.values())}
