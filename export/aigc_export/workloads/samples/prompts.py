"""Prompts that models from text to pictures are proven, calibrated and evaluated on, and pictures to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aigc_calibration.data.draws import stream
from aigc_calibration.errors import CalibrationError
from aigc_export.workloads.samples.upscale import photo
from aigc_runtime.core.tensors import Array
from aigc_runtime.io.prompt_file import read_text
from aigc_runtime.pipelines.tiles import reflected

__all__ = ["PROMPTS", "choose_prompts", "photo_crops", "read_prompts", "rectangle_mask"]

STREAM = 8
"""Of random numbers; see `draws.stream`."""

PROMPTS = (
    "a lighthouse at dusk",
    "a photo of a red fox in the snow",
    "portrait of an old fisherman, oil painting",
    "a bowl of oranges on a wooden table, soft light",
    "city street in the rain at night, neon signs",
    "a watercolor of mountains behind a lake",
    "two children flying a kite on a beach",
    "macro photograph of a bee on a sunflower",
    "an astronaut riding a horse, pencil drawing",
    "interior of a library with tall windows",
    "a steam train crossing a stone bridge in autumn",
    "a cup of coffee and an open book, top view",
    "a dragon made of clouds above a castle, concept art",
    "a small cabin in a pine forest, morning fog",
    "street market full of colorful fabrics",
    "a cat asleep on a windowsill",
    "a sailing ship in a storm, detailed engraving",
    "isometric view of a tiny island with a windmill",
    "a ballerina on an empty stage, dramatic light",
    "desert dunes under a starry sky, long exposure",
    "a plate of sushi, studio photograph",
    "an abandoned greenhouse overgrown with plants",
    "a golden retriever running through shallow water",
    "a simple logo of a mountain, flat colors",
)
"""Subjects, media and lights of many kinds, short and long."""


def choose_prompts(prompts: Sequence[str], count: int) -> list[str]:
    """Take as many prompts as there are samples, in turn where there are fewer."""
    return [prompts[i % len(prompts)] for i in range(count)]


def read_prompts(path: Path | str) -> tuple[str, ...]:
    """Read a file of prompts, one in each line.

    Raises:
        CalibrationError: it holds none.
        InputError: it cannot be read, or is no text.
    """
    lines = tuple(line.strip() for line in read_text(str(path), what="the prompts").splitlines() if line.strip())
    if not lines:
        raise CalibrationError(f"{str(path)!r} holds no prompts", hint="give a text file with one in each line")
    return lines


def photo_crops(name: str, size: tuple[int, int], count: int, seed: int) -> Array:
    """Cut places of one of scikit-learn's photos, (H, W) each: [count, H, W, 3] uint8."""
    picture = np.rint(photo(name) * 255).astype(np.uint8).transpose(1, 2, 0)
    rng = stream(seed, STREAM)
    crops = []
    for _ in range(count):
        sides = [(length, wanted) for length, wanted in zip(picture.shape[:2], size, strict=True)]
        starts = [int(rng.integers(max(length - wanted, 0) + 1)) for length, wanted in sides]
        rows, columns = (
            reflected(length, max(length, wanted))[start : start + wanted]
            for (length, wanted), start in zip(sides, starts, strict=True)
        )
        crops.append(picture[rows[:, None], columns])
    return np.stack(crops)


def rectangle_mask(size: tuple[int, int], rng: np.random.Generator) -> Array:
    """A mask [H, W] uint8 whose white part is a rectangle of about a quarter of it."""
    mask = np.zeros(size, dtype=np.uint8)
    (top, left) = (int(rng.integers(side // 2 + 1)) for side in size)
    mask[top : top + max(1, size[0] // 2), left : left + max(1, size[1] // 2)] = 255
    return mask
