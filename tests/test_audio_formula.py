"""Audio models whose weights and inputs follow from a formula, against recorded samples."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from einops import rearrange

from ltx2.models.audio_vae import AudioDecoder, AudioEncoder
from ltx2.models.audio_vae_config import AudioVaeConfig
from ltx2.models.vocoder import Generator, GeneratorConfig
from ltx2.models.vocoder_bwe import ExtendedVocoder, ExtendedVocoderConfig
from ltx2.nn.module import params

DATA = Path(__file__).parent / "data"
SAMPLES = 64


def wave(name: str, shape: tuple[int, ...], base: float, scale: float) -> np.ndarray:
    """base + scale * sin(0.731 j + 0.113 c + 0.0007 j^2 c / n), c from the CRC of the name."""
    n = int(np.prod(shape))
    j = np.arange(n, dtype=np.float64)
    c = zlib.crc32(name.encode()) % 1000
    values = base + scale * np.sin(0.731 * j + 0.113 * c + 0.0007 * j * j * c / n)
    return values.astype(np.float32).reshape(shape)


def base_and_scale(
    name: str, shape: tuple[int, ...], kind: str, stride: int
) -> tuple[float, float]:
    """First matching rule for a tensor; `stride` 0 stands for the audio VAE."""
    rules = {"std-of-means": (1, 0.2), "mean-of-means": (0, 0.3), "mel_basis": (0.05, 0.04)}
    for end, rule in rules.items():
        if name.endswith(end):
            return rule
    if name.endswith("_basis"):
        return 0, 0.05
    if len(shape) < 2:
        return 0, 0.1
    if not stride:
        return 0, 1.6 / np.sqrt(np.prod(shape[1:]))
    if kind == "conv_transpose":
        return 0, 1 / np.sqrt(shape[0] * shape[2] / stride)
    return 0, 0.5 / np.sqrt(shape[1] * shape[2])


def fill(module, backend, vocoder: bool):
    strides = {id(up): up.stride for up in _ups(module)} if vocoder else {}
    for slot in params(module):
        param = slot.value
        if param.default is not None:
            value = param.default()
        else:
            stride = strides.get(id(slot.owner), 1) if vocoder else 0
            rule = base_and_scale(slot.name, param.shape, param.kind, stride)
            value = wave(slot.name, param.shape, *rule)
        slot.replace(backend.place(backend.array(value), "fp32", param.kind))
    return module


def _ups(module) -> list:
    if isinstance(module, Generator):
        return module.ups
    return [*module.vocoder.ups, *module.bwe_generator.ups]


def check(key: str, got: np.ndarray, atol: float = 2e-6):
    want = json.loads((DATA / "audio-formula.json").read_text())[key]
    assert list(got.shape) == want["shape"]
    index = [i * got.size // SAMPLES for i in range(SAMPLES)]
    np.testing.assert_allclose(got.reshape(-1)[index], want["values"], rtol=1e-4, atol=atol)
    np.testing.assert_allclose([got.mean(), got.std()], [want["mean"], want["std"]], atol=atol)


def sections(generation: str) -> dict:
    name = {"2.0": "ltx-2-19b-config.json", "2.3": "ltx-2.3-22b-config.json"}[generation]
    return json.loads((DATA / name).read_text())


def small_vae() -> AudioVaeConfig:
    section = sections("2.0")["audio_vae"]
    section["model"]["params"]["ddconfig"] |= {"ch": 32, "z_channels": 2}
    return AudioVaeConfig.from_metadata(section)


def spectrogram(backend, name: str, frames: int):
    mel = wave(name, (1, 2, frames, 64), 0, 1)
    return backend.array(np.ascontiguousarray(rearrange(mel, "b c t m -> b t m c")))


def test_encoder_gives_the_recorded_latent(backend):
    encoder = fill(AudioEncoder.declare(small_vae()), backend, vocoder=False)
    latent = backend.numpy(encoder(spectrogram(backend, "in.mel", 21)))
    check("audio/encode", rearrange(latent, "b t m c -> b c t m"))


def test_decoder_gives_the_recorded_spectrogram(backend):
    decoder = fill(AudioDecoder.declare(small_vae()), backend, vocoder=False)
    latent = rearrange(wave("in.alatent", (1, 2, 6, 16), 0, 1), "b c t m -> b t m c")
    mel = backend.numpy(decoder(backend.array(np.ascontiguousarray(latent))))
    check("audio/decode", rearrange(mel, "b t m c -> b c t m"))


def test_hifi_gan_gives_the_recorded_waveform(backend):
    section = sections("2.0")["vocoder"] | {"upsample_initial_channel": 32}
    config = GeneratorConfig.from_metadata(section, 64, 24000, amp=False)
    vocoder = fill(Generator.declare(config), backend, vocoder=True)
    waveform = backend.numpy(vocoder(spectrogram(backend, "in.mel_v", 5)))
    check("vocoder/2.0", rearrange(waveform, "b t c -> b c t"))


def test_extended_vocoder_gives_the_recorded_waveforms(backend):
    section = sections("2.3")["vocoder"]
    section["vocoder"]["upsample_initial_channel"] = 64
    section["bwe"]["upsample_initial_channel"] = 32
    config = ExtendedVocoderConfig.from_metadata(section, 64)
    vocoder = fill(ExtendedVocoder.declare(config), backend, vocoder=True)
    mel = spectrogram(backend, "in.mel_v", 5)
    low = backend.numpy(vocoder.vocoder(mel))
    check("vocoder/2.3_base16k", rearrange(low, "b t c -> b c t"))
    check("vocoder/2.3", rearrange(backend.numpy(vocoder(mel)), "b t c -> b c t"))


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
def test_released_audio_vae_has_the_published_tensor_counts(generation):
    config = AudioVaeConfig.from_metadata(sections(generation)["audio_vae"])
    assert counts(AudioDecoder.declare(config)) == (56, 31_915_138)
    assert counts(AudioEncoder.declare(config)) == (44, 21_333_008)


def test_released_vocoders_have_the_published_tensor_counts():
    config = GeneratorConfig.from_metadata(sections("2.0")["vocoder"], 64, 24000, amp=False)
    assert counts(Generator.declare(config)) == (194, 55_592_802)
    extended = ExtendedVocoderConfig.from_metadata(sections("2.3")["vocoder"], 64)
    tensors, values = counts(ExtendedVocoder.declare(extended))
    # Files also hold the inverse Fourier basis, which decoding does not use.
    assert (tensors + 1, values + 514 * 512) == (1227, 129_085_032)


def counts(module) -> tuple[int, int]:
    """Tensors and values of a file, without the statistics and without what no file stores."""
    skipped = ("per_channel_statistics.", "resampler.")
    shapes = [s.value.shape for s in params(module) if not s.name.startswith(skipped)]
    return len(shapes), sum(int(np.prod(shape)) for shape in shapes)
