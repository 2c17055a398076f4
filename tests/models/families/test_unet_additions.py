"""Sizes of what a UNet sees beside the time."""

from __future__ import annotations

import pytest

from aigc_models.families.unet_additions import SIZE_IDS, check_additions, text_embed_dim
from aigc_runtime.errors import ConfigError


def test_what_is_left_for_the_text() -> None:
    assert SIZE_IDS == 6
    assert text_embed_dim(256, 2816) == 1280  # as published
    assert text_embed_dim(None, None) == 0
    check_additions("text_time", 256, 2816)
    check_additions(None, None, None)


@pytest.mark.parametrize(
    ("kind", "per_size", "total", "message"),
    [
        ("text_time", None, 2816, "addition_time_embed_dim is None\nset it exactly where"),
        ("text_time", 256, None, "projection_class_embeddings_input_dim is None"),
        (None, 256, None, "addition_time_embed_dim is 256"),
        (None, None, 2816, "projection_class_embeddings_input_dim is 2816"),
        ("text_time", 2, 100, "addition_time_embed_dim is 2\nmust be even"),
        ("text_time", 5, 100, "addition_time_embed_dim is 5"),
        ("text_time", 8, 48, "must be above 6 x addition_time_embed_dim = 48"),
    ],
)
def test_what_makes_no_model(kind: str | None, per_size: int | None, total: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_additions(kind, per_size, total)
