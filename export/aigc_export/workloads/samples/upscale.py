"""Patches of pictures, for generators that enlarge them: the user's own, or scikit-learn's two photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aigc_calibration.data.draws import stream
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import OnnxFunction
from aigc_models.data.image_folder import list_pictures
from aigc_models.data.image_resize import as_channels
from aigc_models.data.images import IMAGE_SUFFIXES, read_picture
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, InputError
from aigc_runtime.io.user_file import is_folder
from aigc_runtime.pipelines.tiles import reflected
from aigc_runtime.pipelines.upscale import IMAGE, UpscaleSettings

__all__ = ["CALIBRATION_PHOTO", "EVALUATION_PHOTO", "PatchData", "folder_patches", "photo", "photo_patches", "varied"]

STREAM, VARIED_STREAM = 7, 10
"""Of random numbers; see `draws.stream`."""
CALIBRATION_PHOTO, EVALUATION_PHOTO = "china.jpg", "flower.jpg"
"""Photos of 640 x 427 pixels, which scikit-learn brings: what is calibrated on is not evaluated on."""


@dataclass(frozen=True, kw_only=True)
class PatchData:
    """Patches of a tile's size, in the engine's range.

    Attributes:
        settings: of the pipeline.
        patches: [N, C, T, T] float32 in [0, 1].
        batch: patches at a time.
        notes: what they were cut from, for a stage's line.
    """

    settings: UpscaleSettings
    patches: Array
    batch: int = 1
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_samples(len(self.patches), self.batch)
        if self.patches.min() == self.patches.max():
            raise CalibrationError("the pictures are one constant", hint="give real pictures")

    @property
    def samples(self) -> int:
        """Number of patches."""
        return len(self.patches)

    @property
    def rows(self) -> int:
        """Number of rows: one for every patch."""
        return len(self.patches)

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the graph."""
        low, high = self.settings.value_range
        for first in range(0, len(self.patches), self.batch):
            some = self.patches[first : first + self.batch]
            yield {IMAGE: some * np.float32(high - low) + np.float32(low)}


def photo(name: str) -> Array:
    """Read one of scikit-learn's photos: [3, 427, 640] float32 in [0, 1]."""
    from sklearn.datasets import load_sample_image

    pixels: Array = load_sample_image(name)
    return (pixels.transpose(2, 0, 1) / 255).astype(np.float32)


def photo_patches(name: str, settings: UpscaleSettings, count: int, seed: int) -> Array:
    """Cut patches from one of scikit-learn's photos: [count, C, T, T] float32 in [0, 1]."""
    picture = as_channels(photo(name), settings.channels)
    rng = stream(seed, STREAM)
    return np.stack([_cut(picture, settings.tile, rng) for _ in range(count)])


def varied(patches: Array, seed: int) -> Array:
    """Vary every second patch of a picture: its channels in another order, its contrast as large as can be.

    A picture shows few of the colors that others have, and ranges that hold its own clip theirs: on Real-ESRGAN's
    RRDBNet, calibrated on one photo, one patch of four of another lost 6 dB by that.

    Args:
        patches: [N, C, T, T] float32 in [0, 1], of one picture.
        seed: of the orders.
    """
    rng = stream(seed, VARIED_STREAM)
    made = patches.copy()
    for patch in made[1::2]:
        low, high = patch.min(), patch.max()
        if high > low:
            patch[:] = (patch[rng.permutation(len(patch))] - low) / (high - low)
    return made


def folder_patches(
    path: Path | str,
    settings: UpscaleSettings,
    count: int,
    seed: int,
    *,
    vary: bool = False,
    error: type[AigcError] = InputError,
) -> tuple[Array, tuple[str, ...]]:
    """Cut patches from the pictures of a folder, in their own size: as they are fed to the model, not as it makes them.

    Args:
        path: of the folder; folders in it are looked through, too.
        settings: of the pipeline.
        count: patches. Every picture gives as many as the next, give or take one, or none where there are more.
        seed: of the choice of pictures and places.
        vary: see `varied`, for each picture by itself.
        error: the type to raise.

    Returns:
        [count, C, T, T] float32 in [0, 1], and what they were cut from.

    Raises:
        AigcError: of type `error`: no folder, or no pictures in it.
        ImageError: a picture that cannot be read exactly.
    """
    root = Path(path)
    expected = f"expected a folder of pictures ({', '.join(IMAGE_SUFFIXES)}) such as the model will be given"
    if not is_folder(root):
        raise error(f"{str(root)!r} is not a folder", hint=expected)
    files = list_pictures(root).files
    if not files:
        raise error(f"{str(root)!r} holds no pictures", hint=expected)
    rng = stream(seed, STREAM)
    chosen: Sequence[int] = rng.permutation(len(files))[:count].tolist()
    patches: list[Array] = []
    for place, number in enumerate(chosen):
        picture = (as_channels(read_picture(files[number]).pixels, settings.channels) + 1) / 2
        share = len(range(place, count, len(chosen)))
        cut = np.stack([_cut(picture, settings.tile, rng) for _ in range(share)])
        patches += list(varied(cut, seed + place) if vary else cut)
    mixed = np.stack([patches[i] for i in rng.permutation(count)])
    return mixed, (f"{count} patches of {settings.tile} x {settings.tile} from {len(chosen)} of {len(files)} pictures",)


def _cut(picture: Array, side: int, rng: np.random.Generator) -> Array:
    """A square at a random place; a picture that is too small is reflected at its right and lower edge."""
    _, h, w = picture.shape
    top, left = (int(rng.integers(max(n - side, 0) + 1)) for n in (h, w))
    rows, columns = (reflected(n, max(n, side)) for n in (h, w))
    return np.ascontiguousarray(picture[:, rows[top : top + side, None], columns[left : left + side]], np.float32)
