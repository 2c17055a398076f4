"""A small convolutional classifier whose features measure generated images.

Shapes: B batch, C channels, H height, W width, D features, K classes.

It is the yardstick of the digit models: class accuracy of generated samples, and the Fréchet distance in the space
of its penultimate layer, as Heusel et al. 2017 do with Inception.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.layers import config_from_dict, config_to_dict, require_positive
from aigc_runtime.errors import ConfigError

__all__ = ["Classifier", "ClassifierConfig", "classification_loss"]


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A classifier's configuration.

    Attributes:
        image_size: side of the square image, a multiple of 4.
        image_channels: channels of the image.
        num_classes: K.
        channels: channels of the two convolutions.
        features: D, size of the penultimate layer.
    """

    image_size: int = 16
    image_channels: int = 1
    num_classes: int = 10
    channels: tuple[int, int] = (24, 48)
    features: int = 48

    def __post_init__(self) -> None:
        require_positive(
            "ClassifierConfig",
            image_size=self.image_size,
            image_channels=self.image_channels,
            num_classes=self.num_classes,
            features=self.features,
        )
        if len(self.channels) != 2:
            raise ConfigError(f"ClassifierConfig.channels is {self.channels}", hint="needs two numbers of channels")
        require_positive("ClassifierConfig", **{f"channels[{i}]": n for i, n in enumerate(self.channels)})
        if self.image_size % 4:
            raise ConfigError(f"ClassifierConfig.image_size is {self.image_size}", hint="must be a multiple of 4")

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClassifierConfig:
        """Read plain JSON; raises ConfigError on an unknown or missing field."""
        return config_from_dict(cls, values)


class Classifier(nn.Module):
    """Image -> class logits.

    Args:
        config: its configuration.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2 = config.channels
        self.conv1 = nn.Conv2d(config.image_channels, c1, 3, padding=1)
        self.conv2 = nn.Conv2d(c1, c2, 3, padding=1)
        self.hidden = nn.Linear(c2 * (config.image_size // 4) ** 2, config.features)
        self.output = nn.Linear(config.features, config.num_classes)

    def features(self, image: Tensor) -> Tensor:
        """[B, C, H, W] in [-1, 1] -> [B, D], the space of the Fréchet distance."""
        x = F.max_pool2d(F.relu(self.conv1(image)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] in [-1, 1] -> [B, K] logits."""
        logits: Tensor = self.output(self.features(image))
        return logits


def classification_loss(logits: Tensor, class_labels: Tensor) -> Tensor:
    """Cross-entropy of [B, K] logits against [B] labels, in nats."""
    return F.cross_entropy(logits, class_labels)
