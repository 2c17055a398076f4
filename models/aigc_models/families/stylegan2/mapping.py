"""The mapping network of StyleGAN2: latents and a class -> w.

Shapes: B batch, Z latent size, S size of w, E embedding size, K classes.

Reference:
    Karras et al. 2019, "A Style-Based Generator Architecture for GANs" (arXiv:1812.04948): figure 1b, section 4.1
    (truncation), appendix B (w_avg), appendix C (rates).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.layers import EqualizedLinear, leaky, normalized
from aigc_runtime.errors import ConfigError

__all__ = ["FoldedMapping", "MappingNetwork"]

W_AVG_BETA = 0.995
"""Share of the old mean of w that an update keeps."""


class MappingNetwork(nn.Module):
    """Fully connected layers f(z) = w.

    Args:
        config: of the generator.
    """

    w_avg: Tensor

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        hidden, joined = config.hidden_size or config.w_size, config.z_size
        if config.num_classes is not None:
            embed = config.embed_size or config.w_size
            self.embed = EqualizedLinear(config.num_classes, embed)
            joined += embed
        sizes = [joined, *[hidden] * (config.mapping_layers - 1), config.w_size]
        for i in range(config.mapping_layers):
            self.add_module(f"fc{i}", EqualizedLinear(sizes[i], sizes[i + 1], rate=config.mapping_rate))
        self.register_buffer("w_avg", torch.zeros(config.w_size))

    def forward(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Map latents.

        Args:
            latents: [B, Z], standard normal.
            class_labels: [B] int64, for a generator with classes.

        Returns:
            [B, S].

        Raises:
            ConfigError: classes for a generator without them, or none for one that has them.
        """
        x = normalized(latents)
        if (class_labels is None) != (self.config.num_classes is None):
            raise ConfigError(
                f"class_labels is {'not given' if class_labels is None else 'given'}, "
                f"num_classes is {self.config.num_classes}",
                hint="give class labels to a generator with classes, and to no other",
            )
        if class_labels is not None:
            x = torch.cat([x, F.embedding(class_labels, self.class_table())], dim=1)
        for i in range(self.config.mapping_layers):
            x = leaky(self.get_submodule(f"fc{i}")(x))
        return x

    def class_table(self) -> Tensor:
        """Compute the normalized embedding of every class, [K, E]: the layer's outputs for one-hot vectors."""
        weight, bias = self.embed.scaled()
        return normalized(weight.t() + bias)

    @torch.no_grad()
    def track(self, w: Tensor) -> None:
        """Move the mean of w, which truncation goes towards, by what a batch [B, S] gave."""
        self.w_avg.copy_(w.mean(dim=0).lerp(self.w_avg, W_AVG_BETA))

    def folded(self) -> FoldedMapping:
        """Make the network as it is exported."""
        return FoldedMapping(self)


class FoldedMapping(nn.Module):
    """A mapping network whose scaled weights are constants: the same function, without products of constants.

    Args:
        network: that was trained.
    """

    def __init__(self, network: MappingNetwork) -> None:
        super().__init__()
        self.layers = network.config.mapping_layers
        for i in range(self.layers):
            layer = network.get_submodule(f"fc{i}")
            assert isinstance(layer, EqualizedLinear)
            self.add_module(f"fc{i}", layer.folded())
        self.embed: nn.Embedding | None = None
        if network.config.num_classes is not None:
            table = network.class_table().detach()
            self.embed = nn.Embedding(*table.shape)
            self.embed.load_state_dict({"weight": table})

    def forward(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """As in `MappingNetwork`."""
        x = normalized(latents)
        if self.embed is not None:
            x = torch.cat([x, self.embed(class_labels)], dim=1)
        for i in range(self.layers):
            x = leaky(self.get_submodule(f"fc{i}")(x))
        return x
