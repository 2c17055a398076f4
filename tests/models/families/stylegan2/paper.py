"""StyleGAN2 read from the paper once more, in float64, and a state dict under the public names, written out by hand.

Here the weight of every image is made (eq. 1 and 3) and all images go through one grouped convolution (appendix B);
doubling is zeros between the pixels, the filter by scipy, and then the convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import signal
from torch import Tensor

State = dict[str, Tensor]


def public_state(
    *,
    channels: tuple[int, ...] = (6, 5, 4),
    z: int = 7,
    w: int = 9,
    classes: int = 0,
    layers: int = 3,
    colors: int = 3,
    noise: bool = True,
    seed: int = 0,
) -> State:
    """Random weights; every tensor that the public implementation saves."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    fir = torch.outer(taps, taps) / 64
    state = {"mapping.w_avg": draw(w)}
    if classes:
        state |= {"mapping.embed.weight": draw(w, classes), "mapping.embed.bias": draw(w)}
    for i in range(layers):
        size = (z + w if classes else z) if i == 0 else w
        state |= {f"mapping.fc{i}.weight": 100 * draw(w, size), f"mapping.fc{i}.bias": 30 * draw(w)}
    for level, out in enumerate(channels):
        side = 4 * 2**level
        block = f"synthesis.b{side}"
        state[f"{block}.resample_filter"] = fir
        if level == 0:
            state[f"{block}.const"] = draw(out, 4, 4)
        convs = {"conv1": out} if level == 0 else {"conv0": channels[level - 1], "conv1": out}
        for conv, into in convs.items():
            name = f"{block}.{conv}"
            state |= {f"{name}.affine.weight": draw(into, w), f"{name}.affine.bias": 1 + draw(into)}
            state |= {f"{name}.weight": draw(out, into, 3, 3), f"{name}.bias": draw(out)}
            state[f"{name}.resample_filter"] = fir
            if noise:
                state |= {f"{name}.noise_const": draw(side, side), f"{name}.noise_strength": draw()}
        name = f"{block}.torgb"
        state |= {f"{name}.affine.weight": draw(out, w), f"{name}.affine.bias": 1 + draw(out)}
        state |= {f"{name}.weight": draw(colors, out, 1, 1), f"{name}.bias": draw(colors)}
    return state


def filtered(x: Tensor, fir: Tensor, before: int, behind: int) -> Tensor:
    """Zeros between the pixels and around them, convolved with four times the filter."""
    found = []
    for image in x.numpy():
        rows = []
        for channel in image:
            sparse = np.zeros([2 * n for n in channel.shape])
            sparse[::2, ::2] = channel
            rows.append(signal.convolve2d(np.pad(sparse, (before, behind)), 4 * fir.numpy(), mode="valid"))
        found.append(rows)
    return torch.from_numpy(np.array(found))


def linear(state: State, name: str, x: Tensor, rate: float = 1.0) -> Tensor:
    weight = state[f"{name}.weight"]
    y: Tensor = x @ (weight * rate / weight.shape[1] ** 0.5).T + state[f"{name}.bias"] * rate
    return y


def activated(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * 2**0.5


def mapped(public: State, z: Tensor, labels: list[int] | None = None) -> Tensor:
    state = {name: tensor.double() for name, tensor in public.items()}
    x = z.double()
    x = x / (x**2).mean(1, keepdim=True).sqrt()
    if labels is not None:
        hot = F.one_hot(torch.tensor(labels), state["mapping.embed.weight"].shape[1]).double()
        y = linear(state, "mapping.embed", hot)
        x = torch.cat([x, y / (y**2).mean(1, keepdim=True).sqrt()], 1)
    for i in range(sum(name.endswith(".bias") and name.startswith("mapping.fc") for name in state)):
        x = activated(linear(state, f"mapping.fc{i}", x, 0.01))
    return x


def convolution(state: State, name: str, x: Tensor, styles: Tensor, *, doubled: bool, demodulated: bool) -> Tensor:
    weight = state[f"{name}.weight"]
    batch, (out, into, size, _) = len(x), weight.shape
    w = weight[None] * styles[:, None, :, None, None]
    if demodulated:
        w = w / (w**2).sum((2, 3, 4), keepdim=True).add(1e-8).sqrt()
    padding = size // 2
    if doubled:
        x, w, padding = filtered(x, state[f"{name}.resample_filter"], 3, 2), w.flip(3, 4), 0
    grouped = F.conv2d(
        x.reshape(1, batch * into, *x.shape[2:]), w.reshape(-1, into, size, size), None, 1, padding, 1, batch
    )
    return grouped.reshape(batch, out, *grouped.shape[2:])


def synthesized(public: State, ws: Tensor, noise: Any = "constant") -> Tensor:
    """`noise` is "constant", "none", or a list of tensors."""
    state: State = {name: tensor.double() for name, tensor in public.items()}
    ws, place, image = ws.double(), 0, None
    x = state["synthesis.b4.const"].repeat(len(ws), 1, 1, 1)
    side = 4
    while f"synthesis.b{side}.torgb.bias" in state:
        block = f"synthesis.b{side}"
        for conv in ("conv1",) if side == 4 else ("conv0", "conv1"):
            name = f"{block}.{conv}"
            styles = linear(state, f"{name}.affine", ws[:, place])
            x = convolution(state, name, x, styles, doubled=conv == "conv0", demodulated=True)
            if noise == "constant" and f"{name}.noise_const" in state:
                x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
            elif isinstance(noise, list):
                x = x + noise[place].double() * state[f"{name}.noise_strength"]
            x = activated(x + state[f"{name}.bias"][None, :, None, None])
            place += 1
        name = f"{block}.torgb"
        styles = linear(state, f"{name}.affine", ws[:, place]) / x.shape[1] ** 0.5
        colors = convolution(state, name, x, styles, doubled=False, demodulated=False)
        colors = colors + state[f"{name}.bias"][None, :, None, None]
        image = colors if image is None else filtered(image, state[f"{block}.resample_filter"], 2, 1) + colors
        side *= 2
    assert image is not None
    return image
