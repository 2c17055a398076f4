"""Which text encoders, UNet and autoencoder make a latent diffusion model together (Rombach et al. 2022, section 3)."""

from __future__ import annotations

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_models.families.tiny_vae_config import TinyVaeConfig
from aigc_models.families.unet_additions import SIZE_IDS, text_embed_dim
from aigc_models.families.unet_config import UNetConfig
from aigc_models.families.vae_config import VaeConfig
from aigc_runtime.errors import ConfigError

__all__ = ["check_components"]

PICTURE_CHANNELS = 3


def check_components(
    text: ClipTextConfig, unet: UNetConfig, vae: VaeConfig | TinyVaeConfig, *, second: ClipTextConfig | None = None
) -> None:
    """Refuse components that were not trained together.

    Args:
        text: of the text encoder.
        unet: of the UNet.
        vae: of the autoencoder.
        second: of another text encoder, whose states lie beside those of the first and which gives the embedding of
            the text (Podell et al. 2023, section 2.1).

    Raises:
        ConfigError: names both sizes.
    """
    states = text.hidden_size + (0 if second is None else second.hidden_size)
    if unet.cross_attention_dim != states:
        whose = "text encoder's" if second is None else "text encoders'"
        widths = " + ".join(str(one.hidden_size) for one in (text, second) if one is not None)
        raise _foreign(
            f"the UNet's cross_attention_dim is {unet.cross_attention_dim}, the {whose} hidden_size {widths}"
        )
    wanted = text_embed_dim(unet.addition_time_embed_dim, unet.projection_class_embeddings_input_dim)
    given = 0 if second is None else second.projection_dim or 0
    if wanted != given:
        raise _foreign(
            f"the UNet takes embeddings of a text of {wanted} numbers (projection_class_embeddings_input_dim less "
            f"{SIZE_IDS} sizes of addition_time_embed_dim), the second text encoder's projection_dim is {given}"
        )
    c = vae.latent_channels
    if unet.in_channels not in (c, 2 * c + 1):
        raise _foreign(f"the UNet's in_channels is {unet.in_channels}, the VAE's latent_channels {c}")
    if unet.out_channels != c:
        raise _foreign(f"the UNet's out_channels is {unet.out_channels}, the VAE's latent_channels {c}")
    if (vae.in_channels, vae.out_channels) != (PICTURE_CHANNELS, PICTURE_CHANNELS):
        raise ConfigError(
            f"the VAE takes {vae.in_channels} channels and gives {vae.out_channels}",
            hint=f"pictures have {PICTURE_CHANNELS}: red, green and blue",
        )
    if unet.num_class_embeds is not None:
        raise ConfigError(
            f"the UNet has num_class_embeds {unet.num_class_embeds}, a pipeline from text to pictures gives no class",
            hint="name the UNet's own folder: it runs alone, with classes and a context",
        )


def _foreign(message: str) -> ConfigError:
    return ConfigError(message, hint="the components do not belong together: copy the whole folder again")
