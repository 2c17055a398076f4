"""A picture for docs/upscaling.md: what bundles of upscalers make of a small photo, beside its pixels.

    .venv/bin/python benchmarks/upscaled_sheet.py docs/upscaling.jpg NAME=BUNDLE:BUNDLE ...

scikit-learn's `china.jpg` is made a quarter as large, and every row shows a part of it: the pixels as they are, what
the first bundle of the row makes of them, what the second does, and eight times the difference of the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

from aigc_runtime import open_pipeline
from aigc_runtime.core.tensors import Array

SMALLER, SCALE = 4, 4
PART = (slice(180, 380), slice(190, 470))
"""Rows and columns of the enlarged photo that are shown."""
AMPLIFIED = 8
LABEL = 14


def enlarged(bundle: Path, photo: Array) -> Array:
    """The photo by one bundle, uint8 [H, W, 3]."""
    with open_pipeline(bundle) as pipeline:
        made: Array = np.asarray(pipeline.generate(photo))
    return made


def row(name: str, first: Path, second: Path, photo: Array) -> Image.Image:
    """The four pictures of one network, with what they are above them."""
    pixels = photo.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    one, other = enlarged(first, photo), enlarged(second, photo)
    difference = np.abs(one.astype(np.int32) - other) * AMPLIFIED
    shown = [pixels, one, other, difference.clip(0, 255).astype(np.uint8)]
    labels = ["pixels", f"{name}, {first.name}", f"{name}, {second.name}", f"difference x {AMPLIFIED}"]
    height, width = PART[0].stop - PART[0].start, PART[1].stop - PART[1].start
    sheet = Image.new("RGB", (len(shown) * (width + 4), height + LABEL + 4), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (picture, label) in enumerate(zip(shown, labels, strict=True)):
        draw.text((place * (width + 4) + 2, 1), label, fill="black")
        sheet.paste(Image.fromarray(picture[PART]), (place * (width + 4), LABEL))
    return sheet


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("rows", nargs="+", help="NAME=BUNDLE:BUNDLE; a bundle is called by its folder's name")
    given = parser.parse_args()
    photo = Image.fromarray(load_sample_image("china.jpg"))
    small = photo.resize((photo.width // SMALLER, photo.height // SMALLER), Image.Resampling.LANCZOS)
    rows = []
    for text in given.rows:
        name, _, bundles = text.partition("=")
        first, _, second = bundles.partition(":")
        rows.append(row(name, Path(first), Path(second), np.asarray(small)))
    sheet = Image.new("RGB", (rows[0].width, sum(one.height for one in rows)), "white")
    top = 0
    for one in rows:
        sheet.paste(one, (0, top))
        top += one.height
    sheet.save(given.output, quality=88)


if __name__ == "__main__":
    main()
