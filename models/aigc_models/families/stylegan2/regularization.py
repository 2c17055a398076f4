"""What keeps StyleGAN2's two sides smooth while they are trained: R1 and the regularizer of path lengths.

Shapes: B batch, N styles of an image, S size of w, C image channels, R side.

References:
    Mescheder et al. 2018, "Which training methods for GANs do actually converge?" (arXiv:1801.04406), eq. 9.
    Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN" (arXiv:1912.04958), section 3.2, eq. 4
    and appendix B.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aigc_runtime.errors import ConfigError

__all__ = ["path_length_penalty", "path_lengths", "r1_penalty"]


def r1_penalty(logits: Tensor, images: Tensor, gamma: float) -> Tensor:
    """Compute R1 = gamma / 2 E[|grad_x D(x)|^2] on real images (Mescheder, eq. 9), a scalar to minimize.

    Args:
        logits: [B], the discriminator's on `images`.
        images: [B, C, R, R] real images, which require a gradient.
        gamma: its weight.

    Raises:
        ConfigError: the images require no gradient.
    """
    gradient = _gradient(logits.sum(), images, "images")
    return gamma / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, styles: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
    """Measure how far images move as styles do, |J^T y| with y ~ N(0, I) (eq. 4), [B].

    y is divided by the square root of the pixels, so that lengths do not depend on the resolution, and the squares of
    an image's styles are averaged, as the authors' training does it.

    Args:
        images: [B, C, R, R], the synthesis of `styles`.
        styles: [B, N, S], which require a gradient.
        rng: source of y, on the CPU.

    Raises:
        ConfigError: the styles require no gradient.
    """
    y = torch.randn(images.shape, generator=rng).to(images) / (images.shape[2] * images.shape[3]) ** 0.5
    gradient = _gradient((images * y).sum(), styles, "styles")
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, mean: Tensor, *, weight: float, decay: float = 0.01) -> tuple[Tensor, Tensor]:
    """Compute the regularizer weight E[(|J^T y| - a)^2] (eq. 4).

    Args:
        lengths: [B], of `path_lengths`.
        mean: a so far, a scalar; zero at first.
        weight: of the regularizer.
        decay: how fast a follows the lengths.

    Returns:
        (a scalar to minimize, a from now on, without a gradient).
    """
    now = mean.lerp(lengths.detach().mean(), decay)
    return weight * (lengths - now).square().mean(), now


def _gradient(value: Tensor, of: Tensor, name: str) -> Tensor:
    if not of.requires_grad:
        raise ConfigError(f"the {name} require no gradient", hint=f"call {name}.requires_grad_() before they are used")
    (gradient,) = torch.autograd.grad(value, of, create_graph=True)
    return gradient
