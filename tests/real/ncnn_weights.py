"""Weights of Real-ESRGAN out of ncnn's files, as state dicts under BasicSR's names: a reader for tests alone.

The format: a text that lists the layers, and the bytes of their weights in that order. Nothing is executed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAGIC = "7767517"
HALF = 0x01306B47
"""In front of weights of 16 bits; 0 stands in front of those of 32."""


def layers(param: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Type and options of every layer."""
    lines = param.strip().splitlines()
    assert lines[0].strip() == MAGIC, "no text of ncnn's"
    for line in lines[2:]:
        kind, _, n_in, n_out, *rest = line.split()
        yield kind, dict(word.split("=", 1) for word in rest[int(n_in) + int(n_out) :])


def weights(param: str, data: bytes) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Type, weight and bias of every layer that has some."""
    stream = io.BytesIO(data)

    def plain(count: int) -> np.ndarray:
        return np.frombuffer(stream.read(4 * count), np.float32).copy()

    def tagged(count: int) -> np.ndarray:
        tag = int.from_bytes(stream.read(4), "little")
        assert tag in (0, HALF), f"unknown type of weights {tag:#x}"
        if tag == 0:
            return plain(count)
        half = np.frombuffer(stream.read(2 * count), np.float16).astype(np.float32)
        stream.read(-2 * count % 4)
        return half

    for kind, options in layers(param):
        if kind == "Convolution":
            out, side, size = (int(options[key]) for key in "016")
            weight = torch.from_numpy(tagged(size)).reshape(out, -1, side, side)
            yield kind, weight, torch.from_numpy(plain(out)) if options.get("5") == "1" else None
        elif kind == "PReLU":
            yield kind, torch.from_numpy(plain(int(options["0"]))), None
    assert not stream.read(), "bytes are left: the text describes another file"


def state_dict(param: Path, data: Path) -> dict[str, Tensor]:
    """The weights under BasicSR's names: of SRVGGNetCompact where there are PReLUs, else of RRDBNet."""
    found = list(weights(param.read_text(encoding="utf-8"), data.read_bytes()))
    if any(kind == "PReLU" for kind, _, _ in found):
        names = [f"body.{i}" for i in range(len(found))]
    else:
        blocks = (len(found) - 6) // 15
        names = ["conv_first"]
        names += [f"body.{i}.rdb{j}.conv{k}" for i in range(blocks) for j in (1, 2, 3) for k in (1, 2, 3, 4, 5)]
        names += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    state: dict[str, Tensor] = {}
    for name, (_, weight, bias) in zip(names, found, strict=True):
        state[f"{name}.weight"] = weight
        if bias is not None:
            state[f"{name}.bias"] = bias
    return state
