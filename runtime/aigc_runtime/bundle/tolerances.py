"""The limits that a bundle was published under, each relative to the scale of what PyTorch computed."""

from __future__ import annotations

from dataclasses import dataclass

from aigc_runtime.core.compare import DECIBELS, EXACT_DB, Tolerance, require_limit
from aigc_runtime.errors import ConfigError

__all__ = ["Tolerances"]


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """The limits that the bundle was published under.

    Attributes:
        tensor: of every output tensor.
        min_token_agreement: of generated tokens, for text.
        min_psnr_db: of generated images.
        max_quality_drop: how much worse the model's own metric may be, relative to PyTorch's; for text, how much
            greater the perplexity.
        max_kl: of the mean Kullback-Leibler divergence from PyTorch's next tokens, in nats, for text.
        min_top1_agreement: of the positions with the same likeliest token, for text.
        set_by_user: names of the limits that whoever exported the model chose; the others are the kind of pipeline's.
    """

    tensor: Tolerance
    min_token_agreement: float | None
    min_psnr_db: float | None
    max_quality_drop: float | None
    max_kl: float | None = None
    min_top1_agreement: float | None = None
    set_by_user: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_limit("min_token_agreement", self.min_token_agreement, "above 0 and at most 1", lambda x: 0 < x <= 1)
        require_limit("min_psnr_db", self.min_psnr_db, DECIBELS, lambda x: 0 < x <= EXACT_DB)
        require_limit("max_quality_drop", self.max_quality_drop, "0 to 10 (1000 %)", lambda x: 0 <= x <= 10)
        require_limit("max_kl", self.max_kl, "0 to 100", lambda x: 0 <= x <= 100)
        require_limit("min_top1_agreement", self.min_top1_agreement, "above 0 and at most 1", lambda x: 0 < x <= 1)
        for name in self.set_by_user:
            if self.limits().get(name) is None:
                raise ConfigError(f"set_by_user names {name!r}", hint="it holds names of limits that are set")

    def limits(self) -> dict[str, float | None]:
        """Every limit by its name, those of tensors among them."""
        return {
            **vars(self.tensor),
            "min_token_agreement": self.min_token_agreement,
            "min_psnr_db": self.min_psnr_db,
            "max_quality_drop": self.max_quality_drop,
            "max_kl": self.max_kl,
            "min_top1_agreement": self.min_top1_agreement,
        }

    def __str__(self) -> str:
        """The limits that are set, as one line."""
        return ", ".join(
            f"{name} {value:g}{' (set by the user)' if name in self.set_by_user else ''}"
            for name, value in self.limits().items()
            if value is not None
        )
