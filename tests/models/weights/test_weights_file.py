"""Which file of a folder is meant is never guessed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from aigc_models.sources.shipped import load_shipped
from aigc_models.weights.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_checkpoint, save_checkpoint
from aigc_runtime.errors import CheckpointError, ConfigError
from aigc_runtime.io.user_file import read_file

ONE = {"x": torch.ones(2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run", ONE, {"family": "gan"})
    return tmp_path / "run"


def refusal(path: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    "beside",
    ["adapter_model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"],
)
def test_two_files_that_could_be_meant_are_refused_and_the_file_itself_is_taken(folder: Path, beside: str) -> None:
    (folder / beside).write_bytes(save(ONE))
    told = refusal(folder)
    assert f"holds model.safetensors and {beside}: which is meant?" in told
    assert str(folder / WEIGHTS_FILE) in told
    assert load_checkpoint(folder / WEIGHTS_FILE).tensors.keys() == {"x"}


def test_files_of_other_formats_and_an_unfinished_training_are_told(folder: Path) -> None:
    assert load_checkpoint(folder).notes == ()
    for name in ("pytorch_model.bin", "model.gguf", "training.safetensors", "README.md"):
        (folder / name).write_bytes(b"x")
    other, unfinished = load_checkpoint(folder).notes
    assert other == "read model.safetensors; not read: model.gguf, pytorch_model.bin"
    assert unfinished.startswith("this training was not finished")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no model.safetensors\na checkpoint is a folder with"),
        (["diffusion_pytorch_model.safetensors"], "has no model.safetensors, but diffusion_pytorch_model.safetensors"),
        (["pytorch_model.bin.index.json"], "its weights are in shards of another format, which are not read"),
        (["model-1-of-2.safetensors"], "its shards have no model.safetensors.index.json\ncopy it from"),
        (["x.safetensors.index.json", "x-1-of-2.safetensors"], "but x.safetensors.index.json\nname the index: "),
        (
            ["model.safetensors.index.json", "adapter.safetensors"],
            "index.json and adapter.safetensors: which is",
        ),
        (["a.Q4_0.GGUF", "pytorch_model.bin"], "has no model.safetensors, but GGUF files\nname the one that is meant"),
        (["pytorch_model.bin"], "but pytorch_model.bin, which are not read"),
        (["manifest.json", "model.onnx"], "is a bundle, not a checkpoint"),
    ],
)
def test_a_folder_without_weights_is_told_what_it_holds(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert message in refusal(tmp_path)


def test_a_shard_alone_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00003.safetensors").write_bytes(save(ONE))
    told = refusal(tmp_path / "model-00001-of-00003.safetensors")
    assert f"is one of 3 shards of a model\nname their folder, or their index: {tmp_path}" in told


def test_paths_that_are_not_there(tmp_path: Path, folder: Path) -> None:
    assert refusal("llama").startswith("no such path: 'llama'\ncheck the spelling")
    assert load_checkpoint(f"{folder}/").sha256 == load_checkpoint(folder).sha256
    (tmp_path / "link").symlink_to(folder)
    assert load_checkpoint(tmp_path / "link").sha256 == load_checkpoint(folder).sha256


def test_links_to_files_are_followed_as_model_stores_need(folder: Path) -> None:
    blob = folder.parent / "blob"
    (folder / WEIGHTS_FILE).rename(blob)
    (folder / WEIGHTS_FILE).symlink_to(blob)
    assert load_checkpoint(folder).tensors.keys() == {"x"}
    blob.unlink()
    assert "(a link to nothing)" in refusal(folder)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_pipes_devices_and_folders_are_refused_and_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{name}' is a named pipe, expected a plain file" in refusal(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert f"{name}' is a device, expected a plain file" in refusal(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"{name}' is a folder, expected a plain file" in refusal(folder)


def test_a_file_that_changes_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / WEIGHTS_FILE
    real = os.fstat
    seen: list[int] = []

    def fstat(handle: int) -> os.stat_result:
        result = real(handle)
        seen.append(handle)
        if len(seen) == 2:  # after the size was taken, before the bytes are
            with file.open("ab") as other:
                other.write(b"more")
        return result

    monkeypatch.setattr("aigc_runtime.io.user_file.os.fstat", fstat)
    with pytest.raises(CheckpointError, match=r"model\.safetensors' was changed while it was read"):
        read_file(file, limit=2**20, error=CheckpointError)


def test_the_weights_know_the_config_that_they_were_written_with(folder: Path) -> None:
    first = load_checkpoint(folder)
    (folder / CONFIG_FILE).write_text('{\n"family":\t"gan"}')  # the same, written otherwise
    same = load_checkpoint(folder)
    assert (same.config_sha256, same.notes) == (first.config_sha256, ())
    (folder / CONFIG_FILE).write_text('{"family": "gan", "more": 1}')
    other = load_checkpoint(folder)
    assert other.sha256 == first.sha256
    assert other.config_sha256 != first.config_sha256
    assert other.notes == ("config.json was changed after model.safetensors was written with another",)


def test_a_config_as_windows_tools_write_it(folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(b'\xef\xbb\xbf{\r\n"family": "gan"}')
    assert load_checkpoint(folder).config == {"family": "gan"}
    (folder / CONFIG_FILE).write_text('{"family": "gan"}', encoding="utf-16")
    assert "config.json is not valid: it is in UTF-16\nsave it as JSON in UTF-8" in refusal(folder)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "that of transformers' 'llama' (LlamaForC"),
        ({"architectures": ["GPT2LMHeadModel"]}, "that of transformers' GPT2LMHeadModel"),
        ({"_class_name": "UNet2DModel"}, "that of diffusers' 'UNet2DModel'"),
        ({}, "is of family None, expected 'lm'"),
        ({"family": "lm", "model": {}, "tokenizers": 1}, "has no field 'tokenizers'\ndid you mean 'tokenizer'?"),
        ({"family": "lm", "model": {}, "schedule": {}}, "config.json of family 'lm' has no field 'schedule'"),
    ],
)
def test_the_config_of_something_else(folder: Path, record: dict[str, Any], message: str) -> None:
    (folder / CONFIG_FILE).write_text(json.dumps(record))
    with pytest.raises(CheckpointError) as caught:
        load_shipped("lm", checkpoint=folder)
    assert message in str(caught.value)


SIZES = {"vocab_size": 256, "context_length": 8, "d_model": 4, "n_layers": 1, "n_heads": 2, "d_ff": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie_embeddings": "false"}, "LMConfig.tie_embeddings is a string, expected bool"),
        ({"tie_embeddings": 1}, "LMConfig.tie_embeddings is the number 1, expected bool"),
        ({"norm_eps": "1e-5"}, "LMConfig.norm_eps is a string, expected float"),
        ({"norm_eps": True}, "LMConfig.norm_eps is a boolean, expected float"),
        ({"d_model": 4.0}, "LMConfig.d_model is the number 4.0, expected int"),
        ({"d_model": None}, "LMConfig.d_model is null"),
        ({"norm": "batchnorm"}, "LMConfig.norm is 'batchnorm'"),
    ],
)
def test_values_of_another_type_are_refused_by_the_fields_name(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    (folder / CONFIG_FILE).write_text(json.dumps({"family": "lm", "model": {**SIZES, **change}}))
    with pytest.raises(ConfigError) as caught:
        load_shipped("lm", checkpoint=folder)
    assert message in str(caught.value)


def test_a_tokenizer_that_is_not_read_is_refused(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text(json.dumps({"family": "lm", "model": SIZES, "tokenizer": {"kind": "bpe"}}))
    with pytest.raises(CheckpointError, match=r"lacks tensor|tokenizer is \{'kind': 'bpe'\}, which is not read"):
        load_shipped("lm", checkpoint=folder)


def test_saved_and_loaded_is_the_same_through_every_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    save_checkpoint(tmp_path / "a", module, {"sizes": (1, 2)})
    found = load_checkpoint(tmp_path / "a")
    assert found.notes == ()
    save_checkpoint(tmp_path / "b", module, {"sizes": [1, 2]})
    assert found.config_sha256 == load_checkpoint(tmp_path / "b").config_sha256
