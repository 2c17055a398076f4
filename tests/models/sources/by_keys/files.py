"""State dicts of small networks under every set of names that files have, written out by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from aigc_models.families.rrdbnet import RRDBNet, RRDBNetConfig
from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig

SMALL = RRDBNetConfig(num_feat=6, num_block=2, num_grow_ch=3)
COMPACT = SRVGGNetConfig(num_feat=5, num_conv=2, upscale=3)
OLD = {
    "conv_first": "model.0",
    "conv_body": "model.1.sub.2",
    "conv_up1": "model.3",
    "conv_up2": "model.6",
    "conv_hr": "model.8",
    "conv_last": "model.10",
}
"""With 2 blocks and 2 doublings."""
ESRGAN = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}


def rrdbnet_state(config: RRDBNetConfig = SMALL, *, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in RRDBNet(config).state_dict().items()}


def srvgg_state(config: SRVGGNetConfig = COMPACT) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in SRVGGNet(config).state_dict().items()}


def as_old(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ESRGAN's first names: `body.1.rdb2.conv3.weight` is `model.1.sub.1.RDB2.conv3.0.weight`."""
    renamed = {}
    for name, tensor in state.items():
        module, _, part = name.rpartition(".")
        if module.startswith("body."):
            _, block, dense, conv = module.split(".")
            renamed[f"model.1.sub.{block}.{dense.upper()}.{conv}.0.{part}"] = tensor
        else:
            renamed[f"{OLD[module]}.{part}"] = tensor
    return renamed


def as_esrgan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ESRGAN's later names: `body.1.rdb2.conv3.weight` is `RRDB_trunk.1.RDB2.conv3.weight`."""
    renamed = {}
    for name, tensor in state.items():
        module, _, part = name.rpartition(".")
        if module.startswith("body."):
            _, block, dense, conv = module.split(".")
            renamed[f"RRDB_trunk.{block}.{dense.upper()}.{conv}.{part}"] = tensor
        else:
            renamed[f"{ESRGAN.get(module, module)}.{part}"] = tensor
    return renamed
