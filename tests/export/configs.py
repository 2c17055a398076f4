"""Strategies over every field of the three families' configurations, at small sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from torch import nn

from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import ACTIVATIONS, LMConfig
from aigc_models.families.unet import UNet
from aigc_models.families.unet_config import UNetConfig
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.jsonable import to_json


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A configuration as a checkpoint holds it.

    Attributes:
        name: in the zoo.
        config: fields of the model's configuration.
        schedule: of a UNet.
        options: of the export.
    """

    name: str
    config: dict[str, Any]
    schedule: dict[str, Any] | None = None
    options: dict[str, Any] | None = None

    def build(self) -> tuple[nn.Module, dict[str, Any]]:
        """The module, and config.json."""
        if self.name == "lm":
            lm = TransformerLM(LMConfig(**self.config))
            return lm, {"family": "lm", "model": lm.config.to_dict(), "tokenizer": {"kind": "bytes"}}
        if self.name == "gan":
            gan = Generator(GeneratorConfig(**self.config))
            return gan, {"family": "gan", "model": gan.config.to_dict()}
        schedule = to_json(ScheduleConfig(**(self.schedule or {})))
        unet = UNet(UNetConfig(**self.config))
        return unet, {"family": "unet", "model": unet.config.to_dict(), "schedule": schedule}


@st.composite
def lm_configs(draw: st.DrawFn) -> Drawn:
    heads = draw(st.sampled_from([1, 2, 3]))
    kv_heads = draw(st.sampled_from([None, *(n for n in (1, 2, 3) if heads % n == 0)]))
    size = draw(st.sampled_from([2, 4]))
    config: dict[str, Any] = {
        "vocab_size": 256,
        "context_length": draw(st.one_of(st.integers(1, 20), st.sampled_from([31, 64, 100]))),
        "d_model": draw(st.sampled_from([size * heads, 8])) if heads != 3 else size * heads,
        "head_dim": draw(st.sampled_from([None, 2, 6])),
        "n_layers": draw(st.integers(1, 2)),
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "d_ff": draw(st.sampled_from([1, 8, 12])),
        "norm": draw(st.sampled_from(["rmsnorm", "layernorm"])),
        "norm_position": draw(st.sampled_from(["pre", "post", "output", "sandwich"])),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "position": draw(st.sampled_from(["rope", "learned", "sinusoidal"])),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
        "final_norm": draw(st.sampled_from([None, True, False])),
        "dropout": draw(st.sampled_from([0.0, 0.1])),
    }
    for flag in ("qkv_bias", "out_bias", "mlp_bias", "head_bias", "tie_embeddings"):
        config[flag] = draw(st.booleans())
    config["qk_norm"] = draw(st.sampled_from(["none", "head", "width"]))
    config["embedding_scale"] = draw(st.sampled_from([1.0, 3.0]))
    config["parallel"] = config["norm_position"] == "pre" and draw(st.booleans())
    config["window"] = draw(st.sampled_from([None, 2]))
    if config["window"] is not None:
        config["window_layers"] = draw(st.sampled_from([None, [0]]))
    config["attention_soft_cap"] = draw(st.sampled_from([None, 4.0]))
    config["logit_soft_cap"] = draw(st.sampled_from([None, 4.0]))
    return Drawn(name="lm", config=config, options={"cache": draw(st.sampled_from(["growing", "buffer"]))})


@st.composite
def gan_configs(draw: st.DrawFn) -> Drawn:
    config = {
        "image_size": draw(st.sampled_from([8, 16, 12])),
        "image_channels": draw(st.integers(1, 4)),
        "latent_size": draw(st.integers(1, 9)),
        "num_classes": draw(st.integers(1, 12)),
        "class_embedding_size": draw(st.integers(1, 5)),
        "base_channels": draw(st.integers(1, 5)),
        "upsampling": draw(st.sampled_from(["conv_transpose", "upsample_conv"])),
    }
    return Drawn(name="gan", config=config)


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    prediction = draw(st.sampled_from(["epsilon", "v_prediction", "sample"]))
    return {
        "num_train_timesteps": draw(st.one_of(st.integers(1, 25), st.sampled_from([50, 100, 1000]))),
        "beta_schedule": draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"])),
        "prediction_type": prediction,
        "timestep_spacing": draw(st.sampled_from(["leading", "linspace", "trailing"])),
        "steps_offset": draw(st.sampled_from([0, 0, 1, 3, 30])),
        "rescale_betas_zero_snr": draw(st.booleans()) and prediction != "epsilon",
        "clip_sample": draw(st.booleans()),
        "clip_sample_range": draw(st.sampled_from([1.0, 0.5, 3.0])),
        # Untrained weights of "learned" give variances below zero, which is refused.
        "variance_type": draw(st.sampled_from(["fixed_small", "fixed_large", "learned_range"])),
        "thresholding": draw(st.booleans()),
    }


@st.composite
def unet_configs(draw: st.DrawFn) -> Drawn:
    levels = draw(st.integers(1, 3))
    cross = draw(st.sampled_from([False, False, True]))
    attended = "CrossAttn" if cross else "Attn"
    kinds = draw(st.lists(st.booleans(), min_size=levels, max_size=levels))
    down = tuple(f"{attended}DownBlock2D" if kind else "DownBlock2D" for kind in kinds)
    up = tuple(f"{attended}UpBlock2D" if kind else "UpBlock2D" for kind in reversed(kinds))
    groups = draw(st.sampled_from([1, 2, 4]))
    channels = tuple(draw(st.sampled_from([4, 8])) for _ in range(levels))
    in_channels = draw(st.sampled_from([1, 3, 4]))
    schedule = draw(schedules())
    learned = schedule["variance_type"].startswith("learned")
    classes = draw(st.sampled_from([None, 1, 3]))
    config = {
        "sample_size": draw(st.sampled_from([1, 2, 3, 4, 8, 32] if levels < 3 else [4, 8, 32])),
        "in_channels": in_channels,
        "out_channels": in_channels * (2 if learned else 1),
        "block_out_channels": channels,
        "layers_per_block": draw(st.integers(1, 2)),
        "down_block_types": down,
        "up_block_types": up,
        "mid_block_type": "UNetMidBlock2DCrossAttn" if cross else "UNetMidBlock2D",
        "attention_head_dim": draw(st.sampled_from([None, 2, 4])),
        "num_attention_heads": draw(st.sampled_from([1, 2])),
        "transformer_layers_per_block": draw(st.sampled_from([1, 2])),
        "cross_attention_dim": draw(st.sampled_from([1, 5])) if cross else None,
        "use_linear_projection": draw(st.booleans()),
        "num_class_embeds": classes,
        "null_class": draw(st.sampled_from([None, classes - 1, 0])) if classes else None,
        "norm_num_groups": groups,
        "downsample_padding": draw(st.sampled_from([0, 1])),
        "flip_sin_to_cos": draw(st.booleans()),
        "freq_shift": draw(st.sampled_from([0, 1])),
    }
    dynamic = draw(st.sampled_from([None, True, False]))
    return Drawn(name="unet", config=config, schedule=schedule, options={"dynamic_size": dynamic})


CONFIGS = {"lm": lm_configs(), "unet": unet_configs(), "gan": gan_configs()}
