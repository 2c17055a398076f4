"""A folder that transformers wrote becomes a program: its model, its options, its notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.models.sources.transformers.small_models import VOCABULARY, small_model

from aigc_models.families.lm import TransformerLM
from aigc_models.sources import resolve
from aigc_models.sources.transformers.families import UnknownArchitectureError, is_transformers_config
from aigc_runtime.errors import CheckpointError, ConfigError, UnknownNameError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "SmallLlama"
    small_model("llama").save_pretrained(path)
    return path


@torch.no_grad()
def test_a_folder_is_loaded_with_its_name_and_weights(folder: Path) -> None:
    program = resolve(str(folder))
    assert (program.name, program.kind, program.source) == ("SmallLlama", "text", str(folder))
    assert program.settings.tokenizer.kind == "none"
    model = next(m for m in program.part.module.modules() if isinstance(m, TransformerLM))
    ids = torch.randint(VOCABULARY, (1, 12))
    torch.testing.assert_close(model(ids).logits, small_model("llama")(ids).logits, rtol=1e-5, atol=1e-5)


def test_options_of_a_language_model(folder: Path) -> None:
    program = resolve(str(folder), options={"cache": "buffer", "context_length": 32})
    assert program.settings.context_length == 32
    assert program.options == {"cache": "buffer", "context_length": 32}
    assert all(spec.kind == "buffer" for spec in program.part.interface.state)
    assert program.part.interface.max_steps == 32
    with pytest.raises(UnknownNameError, match="dynamic_size"):
        resolve(str(folder), options={"dynamic_size": True})
    with pytest.raises(ConfigError, match=r"--context-length is 97, the model has 96 positions"):
        resolve(str(folder), options={"context_length": 97})
    with pytest.raises(ConfigError, match="holds its weights itself"):
        resolve(str(folder), options={"checkpoint": "elsewhere"})


def test_an_unknown_architecture_lists_the_known_and_the_way_in(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "llama4", "architectures": ["Llama4ForCausalLM"], "auto_map": {"AutoConfig": "x.Y"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownArchitectureError) as caught:
        resolve(str(tmp_path))
    assert caught.value.nearest == "llama"
    told = str(caught.value)
    assert "'llama4'" in told
    assert "qwen2" in told
    assert "auto_map" in told
    assert "file.py:function" in told


def test_a_field_that_is_not_known_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hiden_size": 12}))
    with pytest.raises(CheckpointError, match=r"(?s)'hiden_size' is 12.*nearest known: 'hidden_size'"):
        resolve(str(tmp_path))


def test_whose_a_config_is() -> None:
    assert is_transformers_config({"model_type": "llama"})
    assert not is_transformers_config({"model_type": "llama", "_class_name": "UNet2DModel"})
    assert not is_transformers_config({"family": "lm", "model_type": "llama"})
    assert not is_transformers_config(None)
