"""How near to a cut edge of a picture a network's result is still that of the whole picture, measured on its weights.

What lies beyond a cut can change the result as far away as the network's layers reach. A deep network's weights let
through hardly anything of that (Luo et al. 2016, "Understanding the effective receptive field in deep convolutional
neural networks"), and by how little only they can tell.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["effective_reach", "textured_picture"]

ROWS = 64
"""Of the strips that are compared."""


def textured_picture(channels: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Draw a picture with the spectrum of photos and sharp edges, [1, C, H, W] in [0, 1].

    Amplitudes of photos fall with the frequency (Field 1987, "Relations between the statistics of natural images and
    the response properties of cortical cells"); half of its blocks are turned dark or bright, since such a sum
    alone has no edges.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random((channels, *frequency.shape)))
    waves = np.fft.irfft2(phases / frequency, s=(height, width))
    smooth = waves / np.abs(waves).max()
    blocks = rng.choice([-0.5, 0.0, 0.0, 0.5], size=(-(-height // 8), -(-width // 8))).repeat(8, 0).repeat(8, 1)
    picture = np.clip(0.5 + 0.5 * smooth + blocks[:height, :width], 0, 1)
    return torch.from_numpy(picture[None].astype(np.float32))


@torch.inference_mode()
def effective_reach(
    model: nn.Module,
    *,
    channels: int,
    farthest: int,
    multiple_of: int,
    tolerance: float,
    value_range: tuple[float, float],
) -> int:
    """Find the distance from a cut from which on the result is that of the whole picture.

    A strip of a picture is run whole and cut off `farthest` pixels from its left edge; the results are compared by
    columns.

    Args:
        model: [B, C, H, W] -> [B, C, S H, S W], in evaluation mode.
        channels: C.
        farthest: largest distance that is of use, in pixels of the picture, a multiple of `multiple_of`.
        multiple_of: what H and W, and the distance, are multiples of.
        tolerance: largest difference that counts as none, as a share of the range.
        value_range: black and white, as the model has them.

    Returns:
        The distance, a multiple of `multiple_of`; `farthest` where the results differ even there.
    """
    low, high = value_range
    rows = -(-ROWS // multiple_of) * multiple_of
    picture = low + (high - low) * textured_picture(channels, rows, 3 * farthest)
    parameter = next(model.parameters(), None)
    if parameter is not None:
        picture = picture.to(parameter.device, parameter.dtype)
    whole, cut = model(picture), model(picture[..., farthest:])
    scale = cut.shape[-1] // (2 * farthest)
    difference = (whole[..., scale * farthest :] - cut).abs().amax(dim=(0, 1, 2))
    # The right edge is the same edge to both.
    by_pixel = difference[: scale * farthest].reshape(farthest, scale).amax(dim=1).double()
    seen = torch.nonzero(~(by_pixel <= tolerance * (high - low)))
    distance = int(seen.max()) + 1 if len(seen) else 0
    return min(-(-distance // multiple_of) * multiple_of, farthest)
