"""A second reading of the papers, as functions of a state dict: no module, no class, convolutions by `unfold`.

ESRGAN (arXiv:1809.00219), figure 4 and section 3.1; Real-ESRGAN (arXiv:2107.10833), section 3.2. Names are BasicSR's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def conv(state: State, name: str, x: Tensor) -> Tensor:
    """A convolution of 3 x 3 with zeros around, as one product of matrices."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    b, _, h, w = x.shape
    columns = torch.nn.functional.unfold(x, 3, padding=1)
    return (weight.reshape(len(weight), -1) @ columns + bias[:, None]).reshape(b, -1, h, w)


def leaky(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def larger(x: Tensor, times: int) -> Tensor:
    return x.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


def dense(state: State, name: str, x: Tensor) -> Tensor:
    everything = x
    for i in range(1, 5):
        everything = torch.cat([everything, leaky(conv(state, f"{name}.conv{i}", everything), 0.2)], dim=1)
    return x + 0.2 * conv(state, f"{name}.conv5", everything)


def rrdbnet(state: State, x: Tensor, *, blocks: int, upsamples: int = 2, unshuffle: int = 1) -> Tensor:
    b, c, h, w = x.shape
    u = unshuffle
    x = x.reshape(b, c, h // u, u, w // u, u).permute(0, 1, 3, 5, 2, 4).reshape(b, c * u * u, h // u, w // u)
    first = conv(state, "conv_first", x)
    y = first
    for i in range(blocks):
        z = y
        for j in (1, 2, 3):
            z = dense(state, f"body.{i}.rdb{j}", z)
        y = y + 0.2 * z
    y = first + conv(state, "conv_body", y)
    for i in range(upsamples):
        y = leaky(conv(state, f"conv_up{i + 1}", larger(y, 2)), 0.2)
    return conv(state, "conv_last", leaky(conv(state, "conv_hr", y), 0.2))


def srvgg(state: State, x: Tensor, *, convs: int, scale: int, slope: float | None = None) -> Tensor:
    """`slope` is that of LeakyReLU; 0 makes ReLU; None takes the PReLUs of the state."""
    y = conv(state, "body.0", x)
    for i in range(1, convs + 2):
        a = state[f"body.{2 * i - 1}.weight"][None, :, None, None] if slope is None else torch.tensor(slope)
        y = conv(state, f"body.{2 * i}", torch.where(y > 0, y, a * y))
    b, _, h, w = y.shape
    shuffled = y.reshape(b, -1, scale, scale, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, -1, h * scale, w * scale)
    return shuffled + larger(x, scale)
