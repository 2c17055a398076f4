"""What a peak signal-to-noise ratio of samples is relative to."""

from __future__ import annotations

from aigc_runtime.manifest import DiffusionSettings, GanSettings
from aigc_runtime.tensors import Array

__all__ = ["sample_range"]


def sample_range(settings: DiffusionSettings | GanSettings, reference: Array) -> float:
    """Largest minus smallest possible value of a model's samples.

    Args:
        settings: of the model; what its schedule bounds, lies from -bound to bound, and a GAN's pictures from -1 to 1.
        reference: samples of it. Where nothing bounds them, as with latents, what they hold themselves is the range.
    """
    bound = settings.schedule.sample_bound if isinstance(settings, DiffusionSettings) else 1.0
    if bound is not None:
        return 2 * bound
    return float(reference.max()) - float(reference.min())
