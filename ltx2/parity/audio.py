"""Golden components of the audio path: spectrograms, audio VAE, vocoders."""

from __future__ import annotations

import numpy as np
from einops import rearrange

from ltx2.media.audio import resample
from ltx2.models.mel import MelConfig, filter_bank, mel_spectrogram
from ltx2.models.vocoder_bwe import ExtendedVocoder
from ltx2.parity.registry import Case, component
from ltx2.pipelines.components.audio import (
    Vocoder,
    decode_audio,
    encode_audio,
    load_audio_decoder,
    load_audio_encoder,
    load_vocoder,
)
from ltx2.weights.header import read_header

PCM_SCALE = np.float32(32768)
STORED_FREQUENCY_STRIDE = 16


@component("audio.mel")
def mel(case: Case) -> dict[str, np.ndarray]:
    """Each `pcm.<rate>` resampled and transformed; `pcm.quiet` has the target rate."""
    config = _mel_config(case)
    outputs = {"filterbank_rows": filter_bank(config)[::STORED_FREQUENCY_STRIDE]}
    for name, pcm in case.inputs.items():
        key = name.removeprefix("pcm.")
        waveform = pcm / PCM_SCALE
        if key.isdigit() and int(key) != config.sample_rate:
            waveform = resample(waveform, int(key), config.sample_rate)
            outputs[f"resampled.{key}"] = waveform[None]
        spectrogram = mel_spectrogram(waveform, config)
        outputs[f"mel.{key}"] = rearrange(spectrogram, "t m c -> 1 c t m")
    return outputs


def _mel_config(case: Case) -> MelConfig:
    settings = case.settings
    return MelConfig(
        sample_rate=settings["sample_rate"],
        n_fft=settings["n_fft"],
        win_length=settings["win_length"],
        hop=settings["hop_length"],
        bins=settings["n_mels"],
        f_min=settings["f_min"],
        f_max=settings["f_max"],
    )


@component("audio.vae")
def vae(case: Case) -> dict[str, np.ndarray]:
    """Spectrogram and waveform to latents, latent to spectrogram."""
    header = read_header(case.checkpoints[0])
    encoder = load_audio_encoder(header, case.backend, case.dtype)
    decoder = load_audio_decoder(header, case.backend, case.dtype)
    waveform = case.inputs["pcm"] / PCM_SCALE
    encoded = encode_audio(encoder, waveform, case.settings["sample_rate"])
    return {
        "latent": _channels_first(case, encoder(_channels_last(case, "spectrogram_in"))),
        "latent_from_waveform": _channels_first(case, encoded),
        "spectrogram": _channels_first(case, decoder(_channels_last(case, "latent_in"))),
    }


@component("audio.vocoder")
def vocoder(case: Case) -> dict[str, np.ndarray]:
    """Spectrogram to waveform with the stages between; latent to waveform."""
    header = read_header(case.checkpoints[0])
    model = load_vocoder(header, case.backend)
    decoder = load_audio_decoder(header, case.backend, case.dtype)
    spectrogram = rearrange(case.backend.array(case.inputs["spectrogram"]), "b c t m -> b t m c")
    outputs = {name: case.numpy(x) for name, x in _stages(model, spectrogram).items()}
    outputs["decoded"], _ = decode_audio(decoder, model, _channels_last(case, "latent"))
    return outputs


def _stages(model: Vocoder, spectrogram) -> dict:
    outputs = {"waveform": _samples_last(model(spectrogram))}
    if isinstance(model, ExtendedVocoder):
        low = model.vocoder(spectrogram)
        outputs["low_rate_waveform"] = _samples_last(low)
        outputs["bandwidth_mel"] = rearrange(model.mel_stft(low), "b t m c -> b c m t")
        outputs["resampled"] = _samples_last(model.resampler(low))
    else:
        outputs["no_final_activation"] = _samples_last(model.unlimited(spectrogram))
    return outputs


def _samples_last(x):
    return rearrange(x, "b t c -> b c t")


def _channels_last(case: Case, name: str):
    return rearrange(case.array(name), "b c t m -> b t m c")


def _channels_first(case: Case, x) -> np.ndarray:
    return case.numpy(rearrange(x, "b t m c -> b c t m"))
