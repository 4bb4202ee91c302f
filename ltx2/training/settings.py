"""What `task=train` accepts: the schema of conf/training. Imports no array framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ltx2.pipelines.settings import PathSettings

UNSET = "???"  # omegaconf's mark of a value that a config file must give


@dataclass
class TrainSettings:
    """`folder`: of the whole model; each part has its state in a folder below.

    `start`: a state whose averages are the first weights. `dtype` fp32 or bf16 (masters stay fp32).
    `clip`: largest norm of the gradient. `average`: decay of the moving average of the weights.
    `threads` 0 leaves torch's choice; `workers` processes share one model's gradients.
    """

    folder: str = UNSET
    steps: int = 1000
    dtype: str = "fp32"
    clip: float = 1.0
    average: float = 0.999
    seed: int = 0
    start: str = ""
    threads: int = 0
    workers: int = 1
    log_every: int = 20
    evaluate_every: int = 500
    save_every: int = 200


@dataclass
class OptimiserSettings:
    """AdamW; decay acts on matrices only."""

    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.01
    eps: float = 1e-8


@dataclass
class ScheduleSettings:
    """`warmup` steps up; then `shape` down to `floor` of the rate, from the share `hold` on."""

    shape: str = "cosine"
    warmup: int = 100
    floor: float = 0.02
    hold: float = 0.0


@dataclass
class ObjectiveSettings:
    """What is trained: `_target_` makes the objective, `name` is the folder of its state."""

    _target_: str = UNSET
    name: str = UNSET


@dataclass
class VideoVaeSettings(ObjectiveSettings):
    """`edges_from`: step; `settle`: share of the run after which the statistics stay.

    `statistics_seed` draws the latent statistics that the file will have. `emphasis`: weight of
    pixels of things, which is 1 until the step `plain_until`.
    """

    edges_from: int = 600
    settle: float = 0.8
    noise: float = 0.1
    frozen_encoder: bool = False
    statistics_seed: int = 7
    emphasis: float = 6.0
    plain_until: int = 150


@dataclass
class AudioVaeSettings(ObjectiveSettings):
    """`length`: spectrogram frames of a piece."""

    batch: int = 6
    length: int = 81
    noise: float = 0.15


@dataclass
class VocoderSettings(ObjectiveSettings):
    """`length`: spectrogram frames of a piece. `spectra`: weight of their error, from a step on.

    `from_vae`: half of the spectrograms are those that the audio autoencoder makes.
    """

    batch: int = 6
    length: int = 61
    spectra: float = 0.3
    spectra_from: int = 800
    from_vae: bool = True


@dataclass
class UpsamplerSettings(ObjectiveSettings):
    """`sets`: of data.sets, with clips at two sizes each."""

    batch: int = 8
    noise: float = 0.15
    sets: list[str] = field(default_factory=list)


@dataclass
class TaskShares:
    """How often each task is trained, in shares of their sum."""

    generate: float = 0.60
    image: float = 0.14
    region: float = 0.08
    independent: float = 0.06
    audio_to_video: float = 0.06
    video_to_audio: float = 0.06


@dataclass
class FlowSettings(ObjectiveSettings):
    """As `ltx2.training.flow.FlowOptions`; `trains_text`: the language model as well."""

    dropout: float = 0.1
    audio: float = 0.7
    head: float = 0.1
    head_until: int = 2500
    centre: float = 0.8
    width: float = 1.3
    tasks: TaskShares = field(default_factory=TaskShares)
    trains_text: bool = True


@dataclass
class DistilSettings(ObjectiveSettings):
    """`sigmas` and `late`: the student's two schedules; `cfg`: the teacher's scale."""

    sigmas: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    cfg: float = 3.0
    real: float = 0.1
    audio: float = 0.7


@dataclass
class AdaptSettings(ObjectiveSettings):
    """A LoRA of `rank` for layers whose names hold one of `layers`; 0: the whole transformer."""

    rank: int = 8
    layers: list[str] = field(default_factory=list)
    dropout: float = 0.1
    audio: float = 0.7
    centre: float = 0.8
    width: float = 1.3
    tasks: TaskShares = field(default_factory=TaskShares)


@dataclass
class ClipEntry:
    """Batches of rendered clips of one shape."""

    batch: int = 1
    frames: int = 9
    height: int = 64
    width: int = 64
    share: float = 1.0


@dataclass
class SoundsEntry:
    """So many rendered sounds for training and for evaluation, of so many seconds."""

    count: int = 1200
    held_out: int = 24
    seconds: float = 2.0


@dataclass
class SetEntry:
    """Clips to be encoded once: each at all `sizes` ("HEIGHTxWIDTH"), in files of `shard` clips.

    `style`: a look of `ltx2.pocket.styles`. `reference`: "edges", encoded beside the clips.
    """

    seed: int = 0
    count: int = 100
    sizes: list[str] = field(default_factory=list)
    frames: int = 25
    held_out: bool = False
    shard: int = 500
    style: str = ""
    reference: str = ""


@dataclass
class BucketEntry:
    """Batches of encoded clips of one size, from several sets, noised up to `highest`."""

    sets: list[str] = field(default_factory=list)
    size: str = ""
    batch: int = 8
    share: float = 1.0
    highest: float = 1.0


@dataclass
class DataSettings:
    """What is trained on: rendered clips, or clips with captions in a folder."""


@dataclass
class PocketData(DataSettings):
    """The rendered world: raw clips and sounds for the autoencoders, encoded ones for the rest."""

    fps: float = 12.0
    clips: dict[str, ClipEntry] = field(default_factory=dict)
    evaluate: dict[str, ClipEntry] = field(default_factory=dict)
    sounds: SoundsEntry = field(default_factory=SoundsEntry)
    sets: dict[str, SetEntry] = field(default_factory=dict)
    buckets: dict[str, BucketEntry] = field(default_factory=dict)
    held_out: dict[str, BucketEntry] = field(default_factory=dict)


@dataclass
class FolderData(DataSettings):
    """Clips in a folder, each with its caption in a text file of the same name.

    They are cut to `frames` (1 + a multiple of the model's) and scaled to `height` x `width`.
    """

    folder: str = ""
    frames: int = 25
    height: int = 64
    width: int = 96
    fps: float = 12.0
    batch: int = 4
    held_out: int = 2


@dataclass
class PartSettings:
    """Folders of finished parts that others stand on."""

    video: str = ""
    audio: str = ""
    vocoder: str = ""
    upsampler: str = ""
    flow: str = ""
    gemma: str = ""
    latents: str = ""


@dataclass
class StageEntry:
    """One step of a recipe: options as on the command line, or something else to `do`: export."""

    name: str = ""
    do: str = "train"
    options: list[str] = field(default_factory=list)


@dataclass
class RecipeSettings:
    """Stages in their order, and `options` for all; `export`: the finished model's folder."""

    name: str = ""
    options: list[str] = field(default_factory=list)
    stages: list[StageEntry] = field(default_factory=list)
    export: str = "model"


@dataclass
class TrainRoot:
    """Everything `launch.py task=train` accepts.

    `architecture`: a file of the package, or a path. `base`: options such as model=dev that choose
    the checkpoint which a LoRA or a fine-tuning starts from; empty for one trained here.
    """

    task: str = "train"
    debug: bool = False
    architecture: str = "package:pocket/architecture.yaml"
    train: TrainSettings = field(default_factory=TrainSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    parts: PartSettings = field(default_factory=PartSettings)
    recipe: RecipeSettings = field(default_factory=RecipeSettings)
    base: list[str] = field(default_factory=list)
    logger: dict[str, Any] = field(default_factory=dict)
    paths: PathSettings = field(default_factory=PathSettings)


OBJECTIVES: dict[str, type[ObjectiveSettings]] = {
    "video_vae": VideoVaeSettings,
    "audio_vae": AudioVaeSettings,
    "vocoder": VocoderSettings,
    "upsampler": UpsamplerSettings,
    "flow": FlowSettings,
    "distil": DistilSettings,
    "lora": AdaptSettings,
    "finetune": AdaptSettings,
}
# By option; other options are variations of the pocket world.
DATA: dict[str, type[DataSettings]] = {"pocket": PocketData, "folder": FolderData}
