"""What the checkpoint's metadata says about the audio VAE and its spectrograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx2.errors import UserError
from ltx2.models.mel import MelConfig


@dataclass(frozen=True)
class AudioVaeConfig:
    """Section `audio_vae` of the metadata. Source: spec audio.md 3.1."""

    mel: MelConfig
    in_channels: int
    out_channels: int
    base_channels: int
    multipliers: tuple[int, ...]
    blocks: int
    latent_channels: int
    double_z: bool
    resolution: int
    attention_resolutions: tuple[int, ...]
    mid_attention: bool

    @classmethod
    def from_metadata(cls, section: dict[str, Any]) -> AudioVaeConfig:
        """Raises UserError for a missing key or an architecture that was never released."""
        model = required(section, "model.params.ddconfig")
        supported(model, "norm_type", "pixel")
        supported(model, "causality_axis", "height")
        config = cls(
            mel=mel_config(section),
            in_channels=required(model, "in_channels"),
            out_channels=required(model, "out_ch"),
            base_channels=required(model, "ch"),
            multipliers=tuple(required(model, "ch_mult")),
            blocks=required(model, "num_res_blocks"),
            latent_channels=required(model, "z_channels"),
            double_z=required(model, "double_z"),
            resolution=required(model, "resolution"),
            # Absent keys mean attention: the defaults of the format differ from released files.
            attention_resolutions=tuple(model.get("attn_resolutions", (8, 16, 32))),
            mid_attention=model.get("mid_block_add_attention", True),
        )
        if config.mel.bins != required(model, "mel_bins") or config.mel.bins % config.scale:
            raise UserError(
                f"audio_vae metadata has {config.mel.bins} mel bins in 'preprocessing' and"
                f" {model['mel_bins']} in 'ddconfig'; they must agree and divide by {config.scale}"
            )
        return config

    @property
    def scale(self) -> int:
        """Spectrogram frames per latent frame, and mel bins per latent bin."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def latent_bins(self) -> int:
        """Mel bins of the latent."""
        return self.mel.bins // self.scale

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(self.base_channels * m for m in self.multipliers)

    def level_has_attention(self, level: int) -> bool:
        """Whether the residual blocks of `level` (0 is the finest) are followed by attention."""
        return self.resolution // 2**level in self.attention_resolutions


def mel_config(section: dict[str, Any]) -> MelConfig:
    """The spectrogram described by section `audio_vae`."""
    return MelConfig(
        sample_rate=required(section, "model.params.sampling_rate"),
        n_fft=required(section, "preprocessing.stft.filter_length"),
        win_length=required(section, "preprocessing.stft.win_length"),
        hop=required(section, "preprocessing.stft.hop_length"),
        bins=required(section, "preprocessing.mel.n_mel_channels"),
        f_min=required(section, "preprocessing.mel.mel_fmin"),
        f_max=required(section, "preprocessing.mel.mel_fmax"),
    )


def required(section: dict[str, Any], path: str) -> Any:
    """The value at the dotted `path`. Raises UserError naming the key that is absent."""
    value: Any = section
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"audio metadata lacks '{key}' (of '{path}'); is the file complete?")
        value = value[key]
    return value


def supported(section: dict[str, Any], key: str, value: Any) -> None:
    """Raises UserError unless `section` has exactly this value, the only one in known files."""
    found = required(section, key)
    if found != value:
        raise UserError(f"audio metadata has {key}={found!r}; only {value!r} is supported")
