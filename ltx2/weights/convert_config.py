"""The architecture as official metadata and as diffusers' config.json files say it, both ways.

What diffusers has no key for is the same in every released file, and is added from here on the way
back. Source: spec transformer.md 2, text.md, video_vae.md 1.2, audio.md; diffusers 0.42's classes.
"""

from __future__ import annotations

from typing import Any

from ltx2.errors import UserError
from ltx2.models.text_features import SEPARATE
from ltx2.models.transformer_config import REQUIRED
from ltx2.models.video_vae_config import VideoDecoderConfig, VideoEncoderConfig
from ltx2.models.vocoder import GeneratorConfig
from ltx2.models.vocoder_bwe import ExtendedVocoderConfig
from ltx2.weights.convert_names import Depth

Config = dict[str, Any]

# Official key -> diffusers' key, with the same value.
_TRANSFORMER = {
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "num_attention_heads": "num_attention_heads",
    "attention_head_dim": "attention_head_dim",
    "cross_attention_dim": "cross_attention_dim",
    "audio_in_channels": "audio_in_channels",
    "audio_out_channels": "audio_out_channels",
    "audio_num_attention_heads": "audio_num_attention_heads",
    "audio_attention_head_dim": "audio_attention_head_dim",
    "audio_cross_attention_dim": "audio_cross_attention_dim",
    "num_layers": "num_layers",
    "caption_channels": "caption_channels",
    "rope_type": "rope_type",
    "positional_embedding_theta": "rope_theta",
    "timestep_scale_multiplier": "timestep_scale_multiplier",
    "av_ca_timestep_scale_multiplier": "cross_attn_timestep_scale_multiplier",
    "apply_gated_attention": "gated_attn",
    "cross_attention_adaln": "cross_attn_mod",
    "ff_bias": "ff_bias",
    "audio_ff_bias": "audio_ff_bias",
    "use_prompt_adaln_single": "use_prompt_adaln_single",
    "use_keyframes_abs_pos_embedding": "use_keyframes_abs_pos_embedding",
}
# Switches that older official files do not state, with the meaning of their absence.
_ABSENT: Config = {
    "audio_in_channels": 128, "apply_gated_attention": False, "cross_attention_adaln": False,
    "ff_bias": True, "audio_ff_bias": True, "use_prompt_adaln_single": True,
    "use_keyframes_abs_pos_embedding": False, "connector_apply_gated_attention": False,
    "connector_num_layers": 2, "connector_num_attention_heads": 30,
    "connector_attention_head_dim": 128, "connector_num_learnable_registers": 128,
    "rope_type": "split", "num_layers": 48, "positional_embedding_theta": 10000.0,
    "timestep_scale_multiplier": 1000, "av_ca_timestep_scale_multiplier": 1,
}  # fmt: skip
_CONSTANT: Config = REQUIRED | {
    "_class_name": "AVTransformer3DModel",
    "attention_type": "default",
    "causal_temporal_positioning": True,
    "connector_norm_output": True,
    "norm_num_groups": 32,
    "use_embeddings_connector": True,
}
_CONNECTOR_SIZES = {
    "num_attention_heads": "num_attention_heads",
    "attention_head_dim": "attention_head_dim",
    "num_layers": "num_layers",
}
_SCALED = {
    "compress_space": "spatial",
    "compress_time": "temporal",
    "compress_all": "spatiotemporal",
}
_AUDIO = {
    "ch": "base_channels",
    "out_ch": "output_channels",
    "ch_mult": "ch_mult",
    "num_res_blocks": "num_res_blocks",
    "in_channels": "in_channels",
    "resolution": "resolution",
    "z_channels": "latent_channels",
    "norm_type": "norm_type",
    "causality_axis": "causality_axis",
    "dropout": "dropout",
    "mid_block_add_attention": "mid_block_add_attention",
    "mel_bins": "mel_bins",
    "double_z": "double_z",
}
_GENERATOR = {
    "upsample_initial_channel": "hidden_channels",
    "upsample_kernel_sizes": "upsample_kernel_sizes",
    "upsample_rates": "upsample_factors",
    "resblock_kernel_sizes": "resnet_kernel_sizes",
    "resblock_dilation_sizes": "resnet_dilations",
}
_SPECTROGRAM = {
    "n_fft": "filter_length",
    "hop_length": "hop_length",
    "win_size": "window_length",
    "num_mels": "num_mel_channels",
    "input_sampling_rate": "input_sampling_rate",
    "output_sampling_rate": "output_sampling_rate",
}
_FINAL = {"tanh": "tanh", "clamp": "clamp", "none": None}


def depth_of(vae: Config) -> Depth:
    """Numbers of blocks of a convolutional video VAE; zeros for another one."""
    return Depth(len(vae.get("encoder_blocks", ())), len(vae.get("decoder_blocks", ())))


def transformer_to_diffusers(section: Config, audio: Config) -> Config:
    """config.json of the transformer, from the sections `transformer` and `audio_vae`."""
    section = _ABSENT | section
    frames, height, width = section["positional_embedding_max_pos"]
    made = {theirs: section[official] for official, theirs in _TRANSFORMER.items()}
    made |= {
        "audio_gated_attn": made["gated_attn"],
        "audio_cross_attn_mod": made["cross_attn_mod"],
        "pos_embed_max_pos": frames,
        "base_height": height,
        "base_width": width,
        "audio_pos_embed_max_pos": section["audio_positional_embedding_max_pos"][0],
        "rope_double_precision": section.get("frequencies_precision") == "float64",
        "use_prompt_embeddings": not section.get("caption_proj_before_connector", False),
    }
    if audio:
        made["audio_sampling_rate"] = audio["preprocessing"]["audio"]["sampling_rate"]
        made["audio_hop_length"] = audio["preprocessing"]["stft"]["hop_length"]
    return made


def transformer_to_official(config: Config, connectors: Config) -> Config:
    """Section `transformer`, from the config.json files of transformer and connectors."""
    made = _CONSTANT | {o: config[theirs] for o, theirs in _TRANSFORMER.items() if theirs in config}
    made = {key: value for key, value in made.items() if _ABSENT.get(key, ...) != value}
    made["positional_embedding_max_pos"] = [
        config[key] for key in ("pos_embed_max_pos", "base_height", "base_width")
    ]
    made["audio_positional_embedding_max_pos"] = [config["audio_pos_embed_max_pos"]]
    if config.get("rope_double_precision", True):
        made["frequencies_precision"] = "float64"
    if not config.get("use_prompt_embeddings", True):
        made |= SEPARATE | {"text_encoder_norm_type": "per_token_rms"}
    if not connectors:
        return made
    for name, theirs in _CONNECTOR_SIZES.items():
        made[f"connector_{name}"] = connectors[f"video_connector_{theirs}"]
        made[f"audio_connector_{name}"] = connectors[f"audio_connector_{theirs}"]
    registers = connectors["video_connector_num_learnable_registers"]
    made["connector_num_learnable_registers"] = registers
    made["connector_apply_gated_attention"] = connectors.get("video_gated_attn", False)
    made["connector_positional_embedding_max_pos"] = [connectors["connector_rope_base_seq_len"]]
    return made


def connectors_to_diffusers(section: Config, projections: dict[str, tuple[int, ...]]) -> Config:
    """config.json of the connectors; `projections` are the shapes of their input projections."""
    section = _ABSENT | section
    if not section.get("connector_ff_bias", True):
        raise UserError("diffusers has no text connectors without biases (LTX-2.5)")
    widths = {n.split(".")[-2]: shape for n, shape in projections.items() if len(shape) == 2}
    shared = widths.get("aggregate_embed")
    video, audio = (widths.get(f"{s}_aggregate_embed", shared) for s in ("video", "audio"))
    if video is None or audio is None:
        raise UserError("the text projections are missing; add the file that holds them")
    made: Config = {
        "caption_channels": section["caption_channels"],
        "text_proj_in_factor": video[1] // section["caption_channels"],
        "per_modality_projections": shared is None,
        "video_hidden_dim": video[0],
        "audio_hidden_dim": audio[0],
        "proj_bias": any(name.endswith(".bias") for name in projections),
        "connector_rope_base_seq_len": section["connector_positional_embedding_max_pos"][0],
        "rope_theta": section["positional_embedding_theta"],
        "rope_double_precision": section.get("frequencies_precision") == "float64",
        "rope_type": section["rope_type"],
    }
    for stream in ("video", "audio"):
        for name, theirs in _CONNECTOR_SIZES.items():
            value = section[f"connector_{name}"]
            if stream == "audio":
                value = section.get(f"audio_connector_{name}", value)
            made[f"{stream}_connector_{theirs}"] = value
        registers = section["connector_num_learnable_registers"]
        made[f"{stream}_connector_num_learnable_registers"] = registers
        made[f"{stream}_gated_attn"] = section["connector_apply_gated_attention"]
    return made


def video_vae_to_diffusers(vae: Config) -> Config:
    """config.json of the convolutional video VAE. Raises UserError for another one."""
    encoder = VideoEncoderConfig.from_metadata(vae)
    decoder = VideoDecoderConfig.from_metadata(vae)
    _check_alternates([block.kind for block in encoder.blocks], "_res")
    _check_alternates([block.kind for block in decoder.blocks], "")
    if vae.get("encoder_base_channels", 128) != encoder.latent_channels:
        raise UserError("diffusers' video VAE begins with as many channels as the latent has")
    downs, ups = encoder.blocks[1::2], decoder.blocks[1::2]
    widths = [encoder.latent_channels]
    for block in downs:
        widths.append(widths[-1] * block.multiplier)
    outs = [decoder.base_channels]
    for block in ups:
        outs.append(outs[-1] * block.multiplier)
    return {
        "in_channels": encoder.in_channels,
        "out_channels": decoder.out_channels,
        "latent_channels": encoder.latent_channels,
        "block_out_channels": widths[1:],
        "down_block_types": ["LTX2VideoDownBlock3D"] * len(downs),
        "layers_per_block": [block.layers for block in encoder.blocks[::2]],
        "spatio_temporal_scaling": [True] * len(downs),
        "downsample_type": [_SCALED[block.kind.removesuffix("_res")] for block in downs],
        "decoder_block_out_channels": outs[1:],
        "decoder_layers_per_block": [block.layers for block in decoder.blocks[::2]],
        "decoder_spatio_temporal_scaling": [True] * len(ups),
        "decoder_inject_noise": [block.inject_noise for block in decoder.blocks[::2]],
        # The one list of the decoder that its class does not turn round.
        "upsample_type": [_SCALED[block.kind] for block in reversed(ups)],
        "upsample_residual": [block.residual for block in ups],
        "upsample_factor": [block.multiplier for block in ups],
        "timestep_conditioning": decoder.timestep_conditioning,
        "patch_size": encoder.patch_size,
        "patch_size_t": 1,
        "encoder_causal": True,
        "decoder_causal": decoder.causal,
        "encoder_spatial_padding_mode": vae.get("spatial_padding_mode", "zeros"),
        "decoder_spatial_padding_mode": vae.get("spatial_padding_mode", "reflect"),
        "spatial_compression_ratio": encoder.scale.space,
        "temporal_compression_ratio": encoder.scale.time,
    }


def _check_alternates(kinds: list[str], ending: str) -> None:
    wanted = tuple(f"{kind}{ending}" for kind in _SCALED)
    plain = all(kind == "res_x" for kind in kinds[::2]) and len(kinds) % 2 == 1
    if not plain or any(kind not in wanted for kind in kinds[1::2]):
        raise UserError(f"diffusers has no video VAE with blocks {', '.join(kinds)}")


def video_vae_to_official(config: Config) -> Config:
    """Section `vae`, from diffusers' config.json."""
    kinds = {theirs: official for official, theirs in _SCALED.items()}
    widths = [config["latent_channels"], *config["block_out_channels"]]
    encoder: list[list[Any]] = []
    for index, layers in enumerate(config["layers_per_block"]):
        encoder.append(["res_x", {"num_layers": layers}])
        if index < len(config["downsample_type"]):
            kind = f"{kinds[config['downsample_type'][index]]}_res"
            encoder.append([kind, {"multiplier": widths[index + 1] // widths[index]}])
    decoder: list[list[Any]] = []
    ups = list(reversed(config["upsample_type"]))
    for index, layers in enumerate(config["decoder_layers_per_block"]):
        noise = config["decoder_inject_noise"][index]
        decoder.append(["res_x", {"num_layers": layers, "inject_noise": noise}])
        if index < len(ups):
            factor, residual = (config[f"upsample_{k}"][index] for k in ("factor", "residual"))
            decoder.append([kinds[ups[index]], {"multiplier": factor, "residual": residual}])
    made = {
        "_class_name": "CausalVideoAutoencoder",
        "causal_decoder": config["decoder_causal"],
        "decoder_base_channels": config["decoder_block_out_channels"][0]
        // config["upsample_factor"][0],
        "decoder_blocks": decoder,
        "dims": 3,
        "encoder_base_channels": config["latent_channels"],
        "encoder_blocks": encoder,
        "in_channels": config["in_channels"],
        "latent_channels": config["latent_channels"],
        "latent_log_var": "uniform",
        "norm_layer": "pixel_norm",
        "out_channels": config["out_channels"],
        "patch_size": config["patch_size"],
        "timestep_conditioning": config["timestep_conditioning"],
    }
    paddings = [config[f"{half}_spatial_padding_mode"] for half in ("encoder", "decoder")]
    if paddings[0] == paddings[1]:
        made["spatial_padding_mode"] = paddings[0]
    elif paddings != ["zeros", "reflect"]:
        raise UserError(f"official metadata cannot say the paddings {paddings}")
    return made


def audio_vae_to_diffusers(section: Config) -> Config:
    """config.json of the audio VAE."""
    model, spectrogram = section["model"]["params"]["ddconfig"], section["preprocessing"]
    made = {theirs: model[official] for official, theirs in _AUDIO.items()}
    return made | {
        "attn_resolutions": model["attn_resolutions"] or None,
        "sample_rate": section["model"]["params"]["sampling_rate"],
        "mel_hop_length": spectrogram["stft"]["hop_length"],
        "is_causal": spectrogram["stft"]["causal"],
    }


def audio_vae_to_official(config: Config) -> Config:
    """Section `audio_vae`; windows and mel range are those of all released files."""
    model = {official: config[theirs] for official, theirs in _AUDIO.items()}
    model |= {"attn_resolutions": config["attn_resolutions"] or [], "downsample_time": False}
    rate, hop = config["sample_rate"], config["mel_hop_length"]
    return {
        "model": {"params": {"ddconfig": model, "sampling_rate": rate}},
        "preprocessing": {
            "audio": {"sampling_rate": rate, "stereo": True, "causal_padding": 3},
            "mel": {"mel_fmax": rate // 2, "mel_fmin": 0, "n_mel_channels": config["mel_bins"]},
            "stft": {
                "causal": config["is_causal"], "filter_length": 1024, "hop_length": hop,
                "win_length": 1024,
            },
        },
    }  # fmt: skip


def vocoder_to_diffusers(section: Config, audio: Config) -> tuple[str, Config]:
    """Class and config.json of the vocoder, with bandwidth extension where it has one."""
    bins = audio["preprocessing"]["mel"]["n_mel_channels"]
    if "bwe" not in section:
        rate = section.get("output_sampling_rate", 24000)
        own = GeneratorConfig.from_metadata(section, bins, rate, amp=False)
        made = _generator(section, own)
        return "LTX2Vocoder", made | {"output_sampling_rate": rate}
    both = ExtendedVocoderConfig.from_metadata(section, bins)
    made = _generator(section["vocoder"], both.base)
    made |= {f"bwe_{k}": v for k, v in _generator(section["bwe"], both.extension).items()}
    made |= {theirs: section["bwe"][official] for official, theirs in _SPECTROGRAM.items()}
    return "LTX2VocoderWithBWE", made


def _generator(section: Config, config: GeneratorConfig) -> Config:
    made = {theirs: section[official] for official, theirs in _GENERATOR.items()}
    return made | {
        "in_channels": 2 * config.mel_bins,
        "out_channels": 2,
        "act_fn": "snakebeta" if config.amp else "leaky_relu",
        "antialias": config.amp,
        "final_act_fn": _FINAL[config.final],
        "final_bias": config.final_bias,
    }


def vocoder_to_official(config: Config) -> Config:
    """Section `vocoder`, from diffusers' config.json."""
    if "bwe_hidden_channels" not in config:
        made = _generator_to_official(config, "")
        if config["output_sampling_rate"] != 24000:
            made["output_sampling_rate"] = config["output_sampling_rate"]
        return made
    bwe = _generator_to_official(config, "bwe_")
    bwe |= {official: config[theirs] for official, theirs in _SPECTROGRAM.items()}
    return {"vocoder": _generator_to_official(config, ""), "bwe": bwe}


def _generator_to_official(config: Config, prefix: str) -> Config:
    made = {official: config[f"{prefix}{theirs}"] for official, theirs in _GENERATOR.items()}
    amp, final = config[f"{prefix}act_fn"] == "snakebeta", config[f"{prefix}final_act_fn"]
    made |= {"stereo": True, "resblock": "AMP1" if amp else "1"}
    if final is None:
        made["apply_final_activation"] = False
    if amp:
        made |= {
            "activation": "snakebeta",
            "use_bias_at_final": config[f"{prefix}final_bias"],
            "use_tanh_at_final": final == "tanh",
        }
    return made
