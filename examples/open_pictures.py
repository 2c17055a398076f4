"""Open pictures become folders to train on, a folder for each class: color emoji and Fashion-MNIST.

    apt-get install fonts-noto-color-emoji unicode-data dataset-fashion-mnist    # Debian's names
    python examples/open_pictures.py emoji out/emoji --groups smileys-emotion flags
    python examples/open_pictures.py fashion out/fashion
    aigc-export train unet --data out/emoji -o out/emoji-unet

The emoji are Noto's (SIL Open Font License 1.1), with the groups of Unicode's list as classes; Fashion-MNIST is
Zalando's (MIT), 28x28 gray, padded to 32x32.
"""

from __future__ import annotations

import argparse
import gzip
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PACKAGES = "fonts-noto-color-emoji unicode-data dataset-fashion-mnist"
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
LIST = Path("/usr/share/unicode/emoji/emoji-test.txt")
FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
FONT_SIZE = 109
"""The one size in which Noto's font holds pictures."""
SIDE = 136
"""Pixels of an emoji's square in that size."""
PADDING = 2
"""Pixels around a picture of Fashion-MNIST."""


def emoji_list(text: str, *, skin_tones: bool = False) -> Iterator[tuple[str, str]]:
    """Read Unicode's emoji-test.txt (UTS #51): group and characters of every fully-qualified emoji.

    Args:
        text: of the file.
        skin_tones: also the variants of people by skin tone.
    """
    group = ""
    for line in text.splitlines():
        if line.startswith("# group: "):
            group = re.sub("[^a-z]+", "-", line.removeprefix("# group: ").lower())
        codes, _, rest = line.partition(";")
        if rest.split("#")[0].strip() == "fully-qualified" and (skin_tones or "skin tone" not in rest):
            yield group, "".join(chr(int(code, 16)) for code in codes.split())


def draw_emoji(characters: str, font: ImageFont.FreeTypeFont, size: int) -> Image.Image | None:
    """Draw an emoji on white, `size` pixels on a side; None where the font has no single picture of it."""
    if font.getlength(characters) > SIDE:
        return None
    layer = Image.new("RGBA", (SIDE, SIDE))
    place = (SIDE // 2, SIDE // 2)
    ImageDraw.Draw(layer).text(place, characters, fill="black", font=font, embedded_color=True, anchor="mm")
    picture = Image.new("RGBA", layer.size, "white")
    picture.alpha_composite(layer)
    return picture.convert("RGB").resize((size, size), Image.Resampling.BOX)


def write_emoji(output: Path, *, groups: Sequence[str] = (), skin_tones: bool = False, size: int = 32) -> int:
    """Draw the emoji of some groups, all by default, into a folder each; return how many.

    Raises:
        ValueError: no such group.
    """
    font = ImageFont.truetype(FONT, FONT_SIZE)
    found = list(emoji_list(LIST.read_text(encoding="utf-8"), skin_tones=skin_tones))
    valid = dict.fromkeys(group for group, _ in found)
    if unknown := [group for group in groups if group not in valid]:
        raise ValueError(f"no group of emoji is called {', '.join(unknown)}; there are {', '.join(valid)}")
    count = 0
    for group, characters in found:
        if (not groups or group in groups) and (picture := draw_emoji(characters, font, size)) is not None:
            name = "-".join(f"{ord(character):x}" for character in characters)
            _save(picture, output / group / f"{name}.png")
            count += 1
    return count


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file of bytes: two zeros, type 8, the number of sizes, big-endian sizes, values.

    Raises:
        ValueError: another type of values, or another number of them.
    """
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no idx file of bytes")
    values = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:values])
    return np.frombuffer(data, np.uint8, offset=values).reshape(shape)


def write_fashion(output: Path, *, limit: int | None = None) -> int:
    """Write the pictures that Fashion-MNIST trains on, the first `limit` of every class; return how many."""
    images = read_idx(FASHION / "train-images-idx3-ubyte.gz")
    labels = read_idx(FASHION / "train-labels-idx1-ubyte.gz")
    count = 0
    for label, name in enumerate(FASHION_NAMES):
        for index in np.flatnonzero(labels == label)[:limit]:
            _save(Image.fromarray(np.pad(images[index], PADDING)), output / name / f"{index:05d}.png")
            count += 1
    return count


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write open pictures into a folder for each class.")
    what = parser.add_subparsers(dest="what", required=True)
    emoji = what.add_parser("emoji", help="Noto's color emoji")
    emoji.add_argument("output", type=Path)
    emoji.add_argument("--groups", nargs="+", default=[], help="of Unicode's list; default: all")
    emoji.add_argument("--skin-tones", action="store_true", help="also the variants of people by skin tone")
    emoji.add_argument("--size", type=int, choices=(16, 32, 64, 128), default=32, help="side of a picture (default 32)")
    fashion = what.add_parser("fashion", help="Fashion-MNIST, padded to 32x32")
    fashion.add_argument("output", type=Path)
    fashion.add_argument("--limit", type=int, help="pictures of a class at most")
    given = parser.parse_args(arguments)
    if given.output.exists():
        parser.error(f"{given.output} is there already: name a new folder")
    try:
        if given.what == "emoji":
            count = write_emoji(given.output, groups=given.groups, skin_tones=given.skin_tones, size=given.size)
        else:
            count = write_fashion(given.output, limit=given.limit)
    except (OSError, EOFError, ValueError, struct.error) as err:
        parser.error(f"{err}\nthe pictures come from: apt-get install {PACKAGES}")
    print(f"{count:,} pictures in {given.output}")


if __name__ == "__main__":
    main()
