"""Pictures and masks that a request begins with, checked, and as the engines take them.

Shapes: H and W sides of a picture, f pixels along a side of a latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.pipelines.arguments import check_number

__all__ = ["GivenPicture", "check_given", "check_strength"]

MASKED_FROM = 128
"""Of 255: what is brighter is painted anew, as in diffusers."""
WHOLE, PART = 1.0, 0.8
"""The strength where nobody says it: with a mask, and without."""


@dataclass(frozen=True, kw_only=True)
class GivenPicture:
    """A picture that a request begins with.

    Attributes:
        picture: [1, 3, H, W] float32, -1 to 1.
        mask: [1, 1, H, W] float32, 1 where it is painted anew and 0 where it stays; None without a mask.
        strength: the share of the steps that are taken, above 0 and at most 1.
    """

    picture: Array
    mask: Array | None
    strength: float

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.picture.shape[2], self.picture.shape[3]

    @property
    def left(self) -> Array:
        """The picture without what is painted anew: gray there."""
        assert self.mask is not None
        return self.picture * (self.mask < 0.5)

    def latent_mask(self, scale: int) -> Array:
        """The mask at the places of latents: [1, 1, H / f, W / f]."""
        assert self.mask is not None
        return np.ascontiguousarray(self.mask[:, :, ::scale, ::scale])


def check_given(image: Array | None, mask: Array | None, strength: float | None) -> GivenPicture | None:
    """What a request says of a picture.

    Args:
        image: [H, W, 3] uint8.
        mask: [H, W] uint8 or bool, white where the picture is painted anew.
        strength: above 0, at most 1; None takes 0.8, and 1 with a mask.

    Raises:
        InputError: no picture of three colors, a mask of another size, or either without what belongs to it.
    """
    if image is None:
        for name, value in (("mask", mask), ("strength", strength)):
            if value is not None:
                raise InputError(f"{name} without an image", hint=f"give the image, or leave {name} out")
        return None
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"the image is {_told(image)}", hint="must be uint8 [H, W, 3]: save it as 8 bits of RGB without alpha"
        )
    if not image.size:
        raise InputError(f"the image has no pixels: its shape is {list(image.shape)}", hint="need [H, W, 3]")
    picture = (2 * (image.astype(np.float32) / 255) - 1).transpose(2, 0, 1)[None]
    return GivenPicture(
        picture=np.ascontiguousarray(picture),
        mask=None if mask is None else _mask(mask, image.shape[:2]),
        strength=check_strength(WHOLE if mask is not None else PART) if strength is None else check_strength(strength),
    )


def check_strength(strength: object) -> float:
    """A share of the steps.

    Raises:
        InputError: none at all, or more than all.
    """
    number = check_number("strength", strength, 0.0, 1.0)
    if number == 0:
        raise InputError(
            "strength is 0", hint="must be above 0 and at most 1: 0 would give the picture as it is, 1 takes all steps"
        )
    return number


def _mask(mask: Array, size: tuple[int, ...]) -> Array:
    if not isinstance(mask, np.ndarray) or mask.dtype not in (np.uint8, np.bool_) or mask.ndim not in (2, 3):
        raise InputError(f"the mask is {_told(mask)}", hint="must be uint8 or bool [H, W]: save it as 8 bits of gray")
    gray = mask
    if mask.ndim == 3:
        if mask.shape[2] not in (1, 3) or (mask != mask[:, :, :1]).any():
            has = "colors" if mask.shape[2] == 3 else "transparency"
            raise InputError(f"the mask is {_told(mask)} and has {has}", hint="save it as 8 bits of gray")
        gray = mask[:, :, 0]
    if gray.shape != size:
        raise InputError(
            f"the mask has {gray.shape[1]} x {gray.shape[0]} pixels, the image {size[1]} x {size[0]}",
            hint="make the mask as large as the image",
        )
    white = gray if gray.dtype == np.bool_ else gray >= MASKED_FROM
    if not white.any():
        raise InputError("the mask has nothing white", hint="paint white what is to be made anew")
    return white.astype(np.float32)[None, None]


def _told(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
