"""Weights of diffusers' components: which file is read, names of old versions, and weights that are another model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aigc_models.families.unet import UNet
from aigc_models.sources import resolve
from aigc_models.sources.diffusers.weights import find_component, our_name
from aigc_runtime.errors import CheckpointError

from .small import make_unet

FILE = "diffusion_pytorch_model.safetensors"
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_unet().save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    model = resolve(str(folder)).parts["model"].module.model
    assert isinstance(model, UNet)
    return dict(model.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_names_from_before_the_attention_was_renamed(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    old = {}
    for name, tensor in tensors.items():
        for new, was in OLD.items():
            if ".attentions." in name:
                name = name.replace(f".{new}.", f".{was}.")
        old[name] = tensor
    assert old.keys() != tensors.keys()
    assert {our_name(name) for name in old} == tensors.keys()
    save_file(old, folder / FILE)
    assert same(weights_of(folder), tensors)


def test_the_old_and_the_new_name_of_one_weight(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    name = next(name for name in tensors if ".to_q.weight" in name)
    save_file({**tensors, name.replace("to_q", "query"): tensors[name].clone()}, folder / FILE)
    with pytest.raises(CheckpointError, match=r"and another tensor that is .*to_q\.weight', too"):
        resolve(str(folder))


@pytest.mark.parametrize("options", [{"safe_serialization": False}, {"variant": "fp16"}, {"max_shard_size": "40KB"}])
def test_every_form_of_file(options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    expected = weights_of(folder)
    make_unet().save_pretrained(tmp_path / "other", **options)
    assert same(weights_of(tmp_path / "other"), expected)
    assert not (tmp_path / "other" / FILE).exists()


def test_half_precision_becomes_single(folder: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(folder / FILE).items()}
    (folder / FILE).unlink()
    save_file(tensors, folder / "diffusion_pytorch_model.fp16.safetensors")
    program = resolve(str(folder))
    assert same(weights_of(folder), {name: tensor.float() for name, tensor in tensors.items()})
    assert any("float16 became float32" in note for note in program.notes)


def test_full_precision_is_read_where_both_are_there(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"")
    found = find_component(folder)
    assert found.weights == folder / FILE
    assert found.notes == (f"read {FILE}; not read: diffusion_pytorch_model.bin",)


def test_no_weights(folder: Path) -> None:
    (folder / FILE).rename(folder / "diffusion_pytorch_model.msgpack")
    with pytest.raises(CheckpointError, match=r"has no weights, but diffusion_pytorch_model\.msgpack\none of these is"):
        resolve(str(folder))
    (folder / "diffusion_pytorch_model.msgpack").unlink()
    with pytest.raises(CheckpointError, match="has no weights\none of these is read"):
        resolve(str(folder))


def test_a_tensor_too_many_and_one_too_few(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    save_file({**tensors, "conv_in.gain": torch.ones(3)}, folder / FILE)
    with pytest.raises(CheckpointError, match=r"conv_in\.gain"):
        resolve(str(folder))
    save_file({name: t for name, t in tensors.items() if name != "conv_out.bias"}, folder / FILE)
    with pytest.raises(CheckpointError, match=r"conv_out\.bias"):
        resolve(str(folder))


def test_weights_of_another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "block_out_channels": [8, 24]}))
    with pytest.raises(CheckpointError, match=r"has shape \[16.*expected \[24"):
        resolve(str(folder))


def test_a_pickle_with_code_is_refused(folder: Path) -> None:
    (folder / FILE).unlink()
    torch.save({"a": Path("b")}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError):
        resolve(str(folder))
