"""What a diffusion UNet may see beside the time: the embedding of a text, and sizes of pictures.

References:
    Podell et al. 2023, "SDXL": sections 2.1 (embedding of the text), 2.2 and 2.3 (sizes).
"""

from __future__ import annotations

from aigc_runtime.errors import ConfigError

__all__ = ["SIZE_IDS", "check_additions", "text_embed_dim"]

SIZE_IDS = 6
"""Sizes that are seen: height and width before resizing, top and left of the crop, height and width aimed at."""


def text_embed_dim(per_size: int | None, total: int | None) -> int:
    """P, the size of the embedding of a text; 0 where none is seen.

    Args:
        per_size: `addition_time_embed_dim`.
        total: `projection_class_embeddings_input_dim`.
    """
    return (total or 0) - SIZE_IDS * (per_size or 0)


def check_additions(embed_type: str | None, per_size: int | None, total: int | None) -> None:
    """Refuse sizes of embeddings that make no model.

    Args:
        embed_type: `addition_embed_type`: None, or `text_time`.
        per_size: `addition_time_embed_dim`, numbers that each size is embedded in.
        total: `projection_class_embeddings_input_dim`, numbers of the text's embedding and the sizes' together.

    Raises:
        ConfigError: names the field.
    """
    for field, value in (("addition_time_embed_dim", per_size), ("projection_class_embeddings_input_dim", total)):
        if (embed_type is None) != (value is None):
            raise ConfigError(f"UNetConfig.{field} is {value}", hint="set it exactly where addition_embed_type is set")
    if per_size is None:
        return
    if per_size % 2 or per_size < 4:  # as many sines as cosines, at two frequencies or more
        raise ConfigError(f"UNetConfig.addition_time_embed_dim is {per_size}", hint="must be even and at least 4")
    if text_embed_dim(per_size, total) < 1:
        raise ConfigError(
            f"UNetConfig.projection_class_embeddings_input_dim is {total}",
            hint=f"must be above {SIZE_IDS} x addition_time_embed_dim = {SIZE_IDS * per_size}",
        )
