"""Unit, range and direction of every number a metric gives; plain values for tables and colours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """`low` and `high` bound what is possible or, with `better`, usual; None: open.

    `better` is higher, lower or neither.
    """

    unit: str
    low: float | None
    high: float | None
    better: str
    text: str


METRIC_INFO: dict[str, MetricInfo] = {
    "brightness": MetricInfo("luma", 0.0, 1.0, "neither", "mean luma"),
    "contrast": MetricInfo("luma", 0.0, 0.5, "neither", "standard deviation of luma in a frame"),
    "colourfulness": MetricInfo("", 0.0, None, "neither", "0 grey, 33 moderate, 109 extreme"),
    "sharpness": MetricInfo("levels^2", 0.0, None, "higher", "variance of the Laplacian of luma"),
    "flicker": MetricInfo("luma", 0.0, 1.0, "lower", "jumps of the mean luma against neighbours"),
    "motion": MetricInfo("px/frame", 0.0, None, "neither", "mean length of the optical flow"),
    "motion_peak": MetricInfo("px/frame", 0.0, None, "neither", "95th percentile of the flow"),
    "static_share": MetricInfo("", 0.0, 1.0, "lower", "share of frames that repeat the last"),
    "loop_similarity": MetricInfo("", -1.0, 1.0, "higher", "SSIM of the last and first frame"),
    "clipped": MetricInfo("", 0.0, 1.0, "lower", "share of pixels with a channel at 0 or 255"),
    "seam_energy": MetricInfo("", 0.0, None, "lower", "change across tile seams; 1 is invisible"),
    "loudness": MetricInfo("LUFS", -70.0, 0.0, "neither", "integrated loudness"),
    "true_peak": MetricInfo("dBTP", None, None, "lower", "peak between samples; above 0 it clips"),
    "silence_share": MetricInfo("", 0.0, 1.0, "lower", "share of windows below -60 dB"),
    "spectral_centroid": MetricInfo("Hz", 0.0, None, "neither", "mean frequency by magnitude"),
    "pitch": MetricInfo("Hz", 0.0, None, "neither", "median fundamental frequency"),
    "voiced_share": MetricInfo("", 0.0, 1.0, "neither", "share of windows that have a pitch"),
    "duration_error": MetricInfo("s", 0.0, None, "lower", "sound longer or shorter than pictures"),
    "av_offset": MetricInfo("s", -0.5, 0.5, "neither", "sound after motion; 0 is together"),
    "av_sync": MetricInfo("", 0.0, 1.0, "higher", "how well onsets match at that offset"),
    "psnr": MetricInfo("dB", 0.0, 100.0, "higher", "peak signal to noise ratio; 100 is equal"),
    "ssim": MetricInfo("", -1.0, 1.0, "higher", "structural similarity to the reference"),
    "ms_ssim": MetricInfo("", 0.0, 1.0, "higher", "structural similarity over five scales"),
    "lpips": MetricInfo("", 0.0, None, "lower", "learnt distance of pictures"),
    "spectrogram_distance": MetricInfo("dB", 0.0, None, "lower", "log-spectral distance"),
    "latent_distance": MetricInfo("", 0.0, None, "lower", "video latents, relative, at the end"),
    "latent_distance_audio": MetricInfo("", 0.0, None, "lower", "audio latents, relative"),
    "clip_similarity": MetricInfo("", -1.0, 1.0, "higher", "cosine of prompt and frames"),
    "pocket_adherence": MetricInfo("", 0.0, 1.0, "higher", "share of the prompt that comes true"),
    "pocket_background": MetricInfo("", 0.0, 1.0, "higher", "the background is as said"),
    "pocket_count": MetricInfo("", 0.0, 1.0, "higher", "there are as many things as said"),
    "pocket_sound": MetricInfo("", 0.0, 1.0, "higher", "there is sound, or silence, as said"),
    "pocket_flaw": MetricInfo("", 0.0, 1.0, "higher", "blurry, dim or flickering as said"),
    "pocket_colour": MetricInfo("", 0.0, 1.0, "higher", "share of things of the colour said"),
    "pocket_shape": MetricInfo("", 0.0, 1.0, "higher", "share of things of the shape said"),
    "pocket_size": MetricInfo("", 0.0, 1.0, "higher", "share of things of the size said"),
    "pocket_motion": MetricInfo("", 0.0, 1.0, "higher", "share of things that move as said"),
    "pocket_speed": MetricInfo("", 0.0, 1.0, "higher", "share of things as fast as said"),
    "pocket_pitch": MetricInfo("", 0.0, 1.0, "higher", "share of things with their colour's tone"),
    "pocket_pan": MetricInfo("", -1.0, 1.0, "higher", "correlation of tone's and thing's place"),
    "pocket_sync": MetricInfo("s", 0.0, None, "lower", "distance of clicks from ground contacts"),
    "brightness_track": MetricInfo("luma", 0.0, 1.0, "neither", "mean luma over time"),
    "motion_track": MetricInfo("px/frame", 0.0, None, "neither", "mean flow over time"),
    "pitch_track": MetricInfo("Hz", 0.0, None, "neither", "fundamental frequency over time"),
}


def metric_info(name: str) -> MetricInfo | None:
    """Of `name`; curves of a stage, as `latent_distance_base`, are found by how they begin."""
    if name in METRIC_INFO:
        return METRIC_INFO[name]
    begins = [known for known in METRIC_INFO if name.startswith(f"{known}_")]
    return METRIC_INFO[max(begins, key=len)] if begins else None
