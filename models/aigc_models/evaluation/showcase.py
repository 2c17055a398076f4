"""Show what a model of images makes: a grid with a column for each class."""

from __future__ import annotations

from collections.abc import Callable

from aigc_runtime.core.tensors import Array
from aigc_runtime.io.png import encode_png, image_grid

__all__ = ["image_showcase"]

CLASSES, EACH = 10, 4
WIDTH = 64
"""Pixels that an image has in the grid, at least."""


def image_showcase(generate: Callable[..., Array], num_classes: int | None) -> bytes:
    """Draw images of the first classes, or of none, and put them into one PNG.

    Args:
        generate: of a pipeline of images, its seed aside.
        num_classes: of the model; None for one without classes.
    """
    columns = EACH if num_classes is None or num_classes == 1 else min(num_classes, CLASSES)
    labels = [column % (num_classes or 1) for _ in range(EACH) for column in range(columns)]
    images = generate(batch=len(labels)) if num_classes is None else generate(labels)
    return encode_png(image_grid(images, columns=columns, scale=max(1, WIDTH // images.shape[-1])))
