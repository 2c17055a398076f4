"""A second opinion on loading: the file's own tensors, by a reader of ten lines, against the module's after loading.

Both sides of parity run what one loader gives them; a tensor that it swapped, dropped or rounded would pass.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from aigc_models.families.unet import UNet, UNetConfig
from aigc_models.sources.shipped import MODELS, load_shipped
from aigc_models.weights.checkpoint import save_checkpoint, shipped_checkpoint
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.jsonable import to_json

DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}


def read_safetensors(path: Path) -> dict[str, Array]:
    """The format in its own words: the header's length, the header, and the bytes that it points to."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(data[8 + length :][slice(*entry["data_offsets"])], DTYPES[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
    }


FOLDED = "stylegan2"
"""Its engines are of other modules; tests/models/families/stylegan2 has what they compute."""


def loaded_state(name: str, checkpoint: Path | None = None) -> dict[str, Array]:
    module = load_shipped(name, checkpoint=checkpoint).part.module
    return {key.removeprefix("model."): value.numpy() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].family != FOLDED])
def test_every_tensor_of_the_file_is_in_the_module_number_for_number(name: str) -> None:
    stored, found = read_safetensors(shipped_checkpoint(name) / "model.safetensors"), loaded_state(name)
    assert stored.keys() == found.keys()
    for key, array in stored.items():
        assert found[key].dtype == (np.float32 if array.dtype == np.float16 else array.dtype), key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def test_tensors_of_one_shape_are_not_exchanged(tmp_path: Path) -> None:
    config = UNetConfig(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    torch.manual_seed(0)
    model = UNet(config)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(3 * number)  # each differs from each
    record = {"family": "unet", "model": config.to_dict(), "schedule": to_json(ScheduleConfig())}
    save_checkpoint(tmp_path / "mine", model, record)
    stored = read_safetensors(tmp_path / "mine" / "model.safetensors")
    found = loaded_state("unet", tmp_path / "mine")
    assert stored.keys() == found.keys()
    for key, array in stored.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)
    sums = [float(array.astype(np.float64).mean()) for array in stored.values()]
    assert len(set(sums)) == len(sums)
