"""What a folder of transformers says before its weights are read is what loading it gives; bad folders are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.models.sources.transformers.small_models import SMALL, VOCABULARY, small_model

from aigc_models.sources import outline
from aigc_models.sources.transformers.families import UnknownArchitectureError
from aigc_runtime.errors import CheckpointError, UnknownNameError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "SmallLlama"
    small_model("llama").save_pretrained(path)
    return path


@pytest.mark.parametrize("family", SMALL)
def test_parameters_are_those_that_transformers_counts(family: str, tmp_path: Path) -> None:
    model = small_model(family)
    model.half().save_pretrained(tmp_path)
    source, found = outline(str(tmp_path))
    assert (source, found.kind, found.family) == ("transformers", "text", family)
    assert found.architecture == type(model).__name__
    assert found.parameters == model.num_parameters()
    assert found.stored.keys() == {"float16"}
    assert found.config is not None
    assert found.config.vocab_size == VOCABULARY
    assert found.text is not None
    assert found.text.tokenizer.kind == "none"


def test_shards_and_types_are_read_from_their_headers(tmp_path: Path) -> None:
    model = small_model("qwen2").bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="40kB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    _, found = outline(str(tmp_path))
    assert found.parameters == model.num_parameters()
    assert found.stored == {"bfloat16": sum(2 * t.numel() for t in model.state_dict().values())}


def test_an_outline_takes_no_pytorch(folder: Path) -> None:
    code = (
        "import sys; from aigc_models.sources import outline; outline(sys.argv[1]); outline('lm'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert "aigc_models.sources.transformers.outline" in done.stdout.split()
    assert "torch" not in done.stdout.split()


def changed(folder: Path, to: Path, **fields: object) -> str:
    config = json.loads((folder / "config.json").read_text()) | fields
    (to / "config.json").write_text(json.dumps(config))
    (to / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return str(to)


def test_an_unknown_architecture_names_the_nearest(folder: Path, tmp_path: Path) -> None:
    path = changed(folder, tmp_path, model_type="llama4", architectures=["Llama4ForCausalLM"])
    with pytest.raises(UnknownArchitectureError, match="'llama4'") as caught:
        outline(path)
    assert caught.value.nearest == "llama"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 7}, r"lacks tensor 'layers\.\d\.input_layernorm\.weight' of shape \[48\]"),
        ({"num_hidden_layers": 1}, r"has a tensor 'model\.layers\.1\.[^']*' that the model does not have"),
        ({"intermediate_size": 96}, r"tensor 'model\.layers\.0\.mlp\.\w+\.weight' has shape .*, expected .*96"),
        ({"attention_bias": True}, r"lacks tensor 'layers\.0\.self_attn\.q_proj\.bias'"),
        ({"rope_theta": "x"}, "rope_theta is 'x'"),
        ({"hiden_size": 12}, "'hiden_size' is 12"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already by gptq"),
    ],
)
def test_weights_of_another_config_are_refused(
    folder: Path, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        outline(changed(folder, tmp_path, **fields))


def test_a_tied_model_may_hold_either_name_or_both_and_no_third(folder: Path, tmp_path: Path) -> None:
    changed(folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    untied = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    config = json.loads((folder / "config.json").read_text())
    sizes: dict[bool, int] = {}
    for tied in (True, False):
        (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
        save_file(untied, tmp_path / "model.safetensors")
        sizes[tied] = outline(str(tmp_path))[1].parameters or 0
    assert sizes[False] == sizes[True] + 48 * VOCABULARY
    del untied["lm_head.weight"]
    save_file(untied, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)lacks tensor 'lm_head\.weight'.*tying them"):
        outline(str(tmp_path))
    save_file(
        {**untied, "embed_tokens.weight": untied["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match="which are one weight of the model"):
        outline(str(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "header", "missing"])
def test_damaged_headers_are_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    path = changed(folder, tmp_path)
    weights = tmp_path / "model.safetensors"
    data = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(data[:-5] if damage == "cut" else data[:8] + b"{" + b"x" * (len(data) - 9))
    with pytest.raises(CheckpointError, match=r"cut short|the header of .* is not valid|has no model\.safetensors"):
        outline(path)


def test_nothing_there_names_what_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"(?s)'llm'.*lm"):
        outline("llm")
    with pytest.raises(CheckpointError, match=r"(?s)no config\.json.*file\.py:function"):
        outline(str(tmp_path))
