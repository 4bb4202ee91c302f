"""Typed settings of one generation; the config schema is made of these dataclasses.

Plain data without array frameworks. `None` means: take the value of the model's preset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SigmaGuidance:
    """What changes below a noise level; None keeps the stream's own value."""

    cfg: float | None = None
    stg: float | None = None
    stg_blocks: list[int] | None = None
    rescale: float | None = None
    modality: float | None = None


@dataclass
class StreamGuidance:
    """Guidance of one stream (spec sampling.md section 11). cfg 1, stg 0, modality 1 are off.

    `eta`, `threshold` and `momentum` belong to the kinds apg and apg_momentum. Keys of `by_sigma`
    are upper bounds of sigma in (0, 1].
    """

    cfg: float | None = None
    stg: float | None = None
    stg_blocks: list[int] | None = None
    rescale: float | None = None
    modality: float | None = None
    skip_step: int | None = None
    eta: float | None = None
    threshold: float | None = None
    momentum: float | None = None
    by_sigma: dict[Any, SigmaGuidance] = field(default_factory=dict)


@dataclass
class GuidanceSettings:
    """kind: none, cfg, cfg_star, stg, apg, apg_momentum or multimodal.

    `max_batch` passes share one transformer call; 0: all, auto: as many as are worth it.
    """

    kind: str = "multimodal"
    video: StreamGuidance = field(default_factory=StreamGuidance)
    audio: StreamGuidance = field(default_factory=StreamGuidance)
    max_batch: Any = "auto"


@dataclass
class SchedulerSettings:
    """Sigma schedule. kind: ltx2, linear_quadratic, beta or list.

    `sigmas` gives the values of kind list, and replaces any other kind when set. `tokens` is the
    token count of the ltx2 shift: a number, or auto for the stage's own count.
    """

    kind: str = "ltx2"
    steps: int | None = None
    sigmas: list[float] | None = None
    tokens: Any = 4096
    max_shift: float = 2.05
    base_shift: float = 0.95
    terminal: float = 0.1


@dataclass
class SamplerSettings:
    """kind: auto, euler, euler_ancestral, res_2s, gradient_estimation or cfg_pp.

    auto is euler, and in the distilled pipeline's first stage what the model's release prefers.
    The other keys are options of some samplers; None is the sampler's own default.
    """

    kind: str = "euler"
    eta: float | None = None
    s_noise: float | None = None
    gamma: float | None = None


@dataclass
class StageSettings:
    """One stage of a pipeline. do: encode, load (`input.latents`), sample, upscale or decode.

    `scale` is the stage's size relative to the output. `schedule` is `main` (the scheduler group)
    or a name under `schedules`; `guidance` is `main` or `none`; `sampler` is `main`, a kind, or
    `release`: the one of the model's release where sampler=auto, else main.
    `streams` are the streams sampled, decoded or encoded. `start` names the stage whose latents
    are renoised to the first sigma, `freeze` the streams among them that are held as they are.
    `conditions` are the kinds of condition the stage takes, `keyframes` appends every image
    instead of writing the first over the latent, `keyframe_slots` generates the frames of
    `generated_keyframes` beside the clip. `region` limits a stage to the input's seconds,
    `extend` continues the input clip, `windows` walks a long clip in overlapping windows, and
    `audio_reference` names the stage whose sound is shown as a reference.
    `loras` lists `user`, `distilled` and `detailing`; `video_from`, `audio_from` are stages, or
    `input`. `dense` (pipeline=dfr) pads the clip to whole segments with a keyframe at the end of
    each, `round` is the doubling of the frame rate that a stage belongs to, and `detail_from` the
    stage whose pictures are shown as a reference where a detailing LoRA is given. An upscale stage
    with `keyframe_slots` enlarges the generated keyframes, too.
    """

    name: str = ""
    do: str = "sample"
    scale: float = 1.0
    schedule: str = "main"
    guidance: str = "main"
    sampler: str = "main"
    streams: list[str] = field(default_factory=lambda: ["video", "audio"])
    loras: list[str] = field(default_factory=list)
    distilled_strength: float = 1.0
    start: str | None = None
    freeze: list[str] = field(default_factory=list)
    conditions: list[str] = field(default_factory=lambda: ["image"])
    keyframes: bool = False
    keyframe_slots: bool = False
    region: bool = False
    windows: bool = False
    extend: bool = False
    audio_reference: str | None = None
    dense: bool = False
    round: int = 0
    detail_from: str | None = None
    upscaler: str = "spatial_upscaler"
    video_from: str | None = None
    audio_from: str | None = None


@dataclass
class PipelineSettings:
    """Stages in the order they run."""

    name: str = ""
    stages: list[StageSettings] = field(default_factory=list)


@dataclass
class ModelFile:
    """One file of a model: its name or path, where to get it, its size in bytes and sha256."""

    file: str = ""
    source: str = ""
    bytes: int | None = None
    sha256: str | None = None


@dataclass
class Preset:
    """What a model is meant to be run with; sizes are those of the first sampling stage.

    `distilled_sampler` is that of the distilled pipeline's first stage.
    """

    height: int = 512
    width: int = 768
    frames: int = 121
    fps: float = 24.0
    steps: int = 40
    negative_prompt: str = ""
    image_crf: int = 33
    distilled_sampler: str = "euler"
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)


@dataclass
class ModelSettings:
    """kind: dev, distilled, any (a model trained for both kinds of schedule) or "" (the file's).

    `release` takes preset and unnamed files from a row of conf/release: its generation, or auto
    for that of the checkpoint's version; "" takes them as given here.
    Roles of `files`: checkpoint, text_encoder, spatial_upscaler, temporal_upscaler, distilled_lora;
    for a model in parts (LTX-2.5), whose checkpoint is the transformer: video_vae, audio_vae,
    duration_head. A video_vae also replaces that of a whole model file.
    """

    name: str = ""
    generation: str = ""
    kind: str = "dev"
    release: str = ""
    files: dict[str, ModelFile] = field(default_factory=dict)
    preset: Preset = field(default_factory=Preset)


@dataclass
class LoraSettings:
    """A LoRA file applied to the stages that list `user`; strength in [-4, 4], 0 is off.

    `stages` gives single stages a strength of their own; `schedule` multiplies it by sigma, with
    upper bounds in (0, 1] as keys. `fused` adds it to the weights instead of running it beside.
    """

    file: str = ""
    source: str = ""
    strength: float = 1.0
    stages: dict[str, float] = field(default_factory=dict)
    schedule: dict[Any, float] = field(default_factory=dict)
    fused: bool = False
    allow_partial: bool = False


@dataclass
class ConditioningSettings:
    """One condition. kind: image, reference (video of an IC-LoRA) or video (latents of a clip).

    `frame` counts output frames, negative from the end; strength 1 keeps the condition, 0 ignores
    it. `crf` None takes the model's re-compression; 0 switches it off. `attention` in [0, 1] is
    how strongly a reference and the clip see each other, `mask` a video that scales it per pixel,
    `control` what is made of a reference first: none, canny, luma, depth, pose or tracks.
    `colour_space` is that of an EXR picture or of a folder of them, as in `output`.
    """

    kind: str = "image"
    path: str = ""
    frame: int = 0
    strength: float = 1.0
    crf: int | None = None
    attention: float = 1.0
    mask: str = ""
    control: str = "none"
    colour_space: str = ""


@dataclass
class EnhanceSettings:
    """Rewriting of the prompt by the text encoder's own language model before it is encoded.

    `seed` None takes the run's; `system_prompt` is a text file of your own.
    """

    enabled: bool = False
    seed: int | None = None
    temperature: float = 0.7
    max_new_tokens: int = 512
    top_k: int | None = None
    top_p: float | None = None
    system_prompt: str = ""


@dataclass
class InputSettings:
    """Media a pipeline starts from. Seconds count from the file's start.

    `audio_start` skips the beginning of the sound. Between `start` and `end` a retake generates
    anew the streams of `regenerate`; `mask` is a picture or video, white where an inpainting
    generates. An extension goes `after` or `before` the clip (`side`) and sees `overlap` frames of
    it. `frozen_noise` starts kept streams from noise labelled clean, as the reference does.
    `latents` is a file that an earlier run with save_latents=true left. `colour_space` says what
    the numbers of EXR frames are: srgb_linear, acescg or acescct.
    """

    video: str = ""
    colour_space: str = ""
    audio: str = ""
    latents: str = ""
    audio_start: float = 0.0
    start: float | None = None
    end: float | None = None
    regenerate: list[str] = field(default_factory=lambda: ["video", "audio"])
    mask: str = ""
    side: str = "after"
    overlap: int = 0
    frozen_noise: bool = False


@dataclass
class DurationSettings:
    """Limits in seconds of what frames=auto may choose."""

    min_seconds: float = 1.0
    max_seconds: float = 20.0


@dataclass
class DtypeSettings:
    """dtype of each component: auto, bf16, fp16 or fp32; `default` where none is given."""

    default: str = "auto"
    transformer: str | None = None
    text_encoder: str | None = None
    connectors: str | None = None
    video_vae: str | None = None
    audio_vae: str | None = None
    upsampler: str | None = None


@dataclass
class TilingSettings:
    """mode: off, auto or size. Tile sizes and overlaps in frames and pixels; 0: untiled axis."""

    mode: str = "auto"
    frames: int = 0
    frames_overlap: int = 0
    height: int = 0
    height_overlap: int = 0
    width: int = 0
    width_overlap: int = 0


@dataclass
class DecoderSettings:
    """The diffusion video decoder (LTX-2.5). border: shift (None) or replicate.

    It is how the decoder sees past the left and right edge of the picture: by moving its windows
    inward, or by continuing the outermost columns, which is what the reference does.
    """

    border: str | None = None


@dataclass
class MemorySettings:
    """Whether models are loaded whole. transformer, text_encoder: auto, resident or stream.

    Streamed blocks are read while the model runs, `ahead` blocks before they are needed, from
    `source`: disk, or ram (read from disk once). auto streams what would not fit.
    """

    transformer: str = "auto"
    text_encoder: str = "auto"
    source: str = "disk"
    ahead: int = 1


@dataclass
class QuantSettings:
    """How the linear layers of the transformer's blocks and of the text encoder are held.

    none: as the file has them; unpack: quantised files in the component's dtype; fp8, fp8-cast,
    int8, int4, mxfp8: quantised while they are read. `group_size` (32, 64, 128) inputs share a
    scale in int8 and int4. `keep`: patterns of layers that stay, such as transformer_blocks.0.*.
    `fp8_matmul` multiplies float8 layers as float8, on CUDA devices that can.
    """

    blocks: str = "none"
    text: str = "none"
    group_size: int | None = None
    keep: list[str] = field(default_factory=list)
    fp8_matmul: bool = False


@dataclass
class DenoiseTilesSettings:
    """Tiles of the video in every denoising call: their number along each axis, 1 is off.

    Overlaps are latents that neighbours share; None is 5, or what an axis has room for. Stages of
    at most `above_tokens` video tokens stay whole.
    """

    frames: int = 1
    frames_overlap: int | None = None
    height: int = 1
    height_overlap: int | None = None
    width: int = 1
    width_overlap: int | None = None
    above_tokens: int = 0


@dataclass
class DfrSettings:
    """pipeline=dfr: `rounds` 0 to 2 double the frame rate; `detailing` names the LoRA for detail.

    That one of the run's LoRAs is applied in the second stage alone, with the first stage's
    pictures as its reference.
    """

    rounds: int = 1
    detailing: str = ""


@dataclass
class WindowSettings:
    """Windows of a long clip in frames; `overlap` frames are carried from one to the next."""

    frames: int | None = None
    overlap: int | None = None


@dataclass
class PreviewSettings:
    """A decoded strip of the running stage after every `every` steps; 0: none."""

    every: int = 0


@dataclass
class OutputSettings:
    """format: mp4, webm, gif or png (a folder of frames); HDR: exr (a folder) or hevc_hlg.

    `colour_space` of EXR files: srgb_linear, acescg or acescct.

    `private` leaves prompts, paths and the command out of the record inside the clip.
    """

    format: str = "mp4"
    crf: int = 19
    preset: str = "veryfast"
    colour_space: str = ""
    contact_sheet: bool = True
    private: bool = False


@dataclass
class CacheSettings:
    """Results of stages kept on disk and reused by later runs.

    mode: on, off, or refresh (computes anew and replaces what is kept). `max_gb` is the size above
    which the least recently used results go. Weight files are told apart by `weights`: header (its
    hash, with the file's size and time) or content. Decoded frames are kept of clips of at most
    `media_mb` (in 16 bits). `steps` keeps the estimates of a running stage, so that an interrupted
    one can go on.
    """

    mode: str = "on"
    folder: str = "outputs/cache"
    max_gb: float = 50.0
    weights: str = "header"
    media_mb: float = 512.0
    steps: bool = True


@dataclass
class PathSettings:
    """Folders: outputs receives runs, models is searched for weights."""

    outputs: str = "outputs"
    models: str = "models"


@dataclass
class Settings:
    """One generation.

    `frames` is a number or auto: as long as the prompt asks for (LTX-2.5). `generated_keyframes`
    is a number of frames, evenly spread, or a list of frames that are generated beside the clip.
    """

    prompt: str = ""
    negative_prompt: str | None = None
    seed: int = 10
    height: int | None = None
    width: int | None = None
    frames: Any = None
    fps: float | None = None
    generated_keyframes: Any = 0
    snap: bool = False
    noise: str = "host"
    checks: str = "warn"
    keep_loaded: str = "auto"
    on_interrupt: str = "stop"
    save_latents: bool = False
    save_steps: bool = False
    schedules: dict[str, list[float]] = field(default_factory=dict)
    model: ModelSettings = field(default_factory=ModelSettings)
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    dtype: DtypeSettings = field(default_factory=DtypeSettings)
    tiling: TilingSettings = field(default_factory=TilingSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    denoise_tiles: DenoiseTilesSettings = field(default_factory=DenoiseTilesSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    quant: QuantSettings = field(default_factory=QuantSettings)
    lora: dict[str, LoraSettings] = field(default_factory=dict)
    conditioning: dict[str, ConditioningSettings] = field(default_factory=dict)
    enhance: EnhanceSettings = field(default_factory=EnhanceSettings)
    duration: DurationSettings = field(default_factory=DurationSettings)
    input: InputSettings = field(default_factory=InputSettings)
    window: WindowSettings = field(default_factory=WindowSettings)
    dfr: DfrSettings = field(default_factory=DfrSettings)
    preview: PreviewSettings = field(default_factory=PreviewSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    paths: PathSettings = field(default_factory=PathSettings)
