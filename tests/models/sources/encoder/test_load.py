"""A state dict of `nn.TransformerEncoder` computes what PyTorch's own module computes, or is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aigc_models.families.lm import TransformerLM
from aigc_models.sources import outline, resolve
from aigc_models.torch_session import open_torch
from aigc_runtime.errors import CheckpointError, ConfigError, UnknownNameError
from aigc_runtime.pipelines.text import TextPipeline

from .textbook import CONFIG, HEADS, LAYERS, POSITIONS, VOCABULARY, WIDTH, Textbook

PROMPT, TOKENS = [3, 14, 15, 9, 26, 5], 16
GELU: dict[str, Any] = {**CONFIG, "activation": "gelu", "norm_first": True, "scale_embedding": False}
FORMS: dict[str, tuple[Callable[[], Textbook], dict[str, Any], str]] = {
    "tutorial": (lambda: Textbook(("encoder", "pos_encoder", "transformer_encoder", "decoder")), CONFIG, "m.pt"),
    "modern": (
        lambda: Textbook(final_norm=True, scale=False, activation="gelu", norm_first=True), GELU, "m.safetensors"
    ),
    "tied": (lambda: Textbook(("embedding", "pos", "stack", "fc"), tied=True), CONFIG, "m.pth"),
    "plain head": (lambda: Textbook(("emb", "pe_", "enc", "head"), head_bias=False), CONFIG, "m.pt"),
    "no biases": (lambda: Textbook(bias=False, final_norm=True), CONFIG, "m.pt"),
    "no table": (
        lambda: Textbook(persistent=False),
        {**CONFIG, "position": "sinusoidal", "context_length": POSITIONS},
        "m.pt",
    ),
}  # fmt: skip


def write(folder: Path, state: Any, config: dict[str, Any] | None = CONFIG, name: str = "m.pt") -> str:
    folder.mkdir(exist_ok=True)
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return str(path)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_logits_and_greedy_tokens_are_those_of_the_module(form: str, tmp_path: Path) -> None:
    make, config, name = FORMS[form]
    module = make()
    path = write(tmp_path, module.state_dict(), config, name)
    ids = torch.randint(VOCABULARY, (3, POSITIONS), generator=torch.Generator().manual_seed(1))
    expected = module(ids)
    for cache in ("growing", "buffer") if form in ("tutorial", "modern") else ("growing",):
        program = resolve(path, options={"cache": cache})
        model = next(m for m in program.part.module.modules() if isinstance(m, TransformerLM))
        assert float((model(ids).logits - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
        pipeline = TextPipeline(open_torch(program), program.settings)
        (result,) = pipeline.generate([PROMPT], max_new_tokens=TOKENS)
        assert result.token_ids.tolist() == module.greedy(PROMPT, TOKENS)
    source, known = outline(path)
    assert (source, known.kind, known.architecture) == ("encoder", "text", "nn.TransformerEncoder")
    assert known.config is not None
    if form != "no biases":  # whose norms get biases of zero
        assert known.parameters == sum(p.numel() for p in module.parameters()) + known.config.d_model * POSITIONS * (
            known.config.position == "learned"
        )


@torch.no_grad()
def test_that_comparison_can_fail(tmp_path: Path) -> None:
    module = Textbook()
    ids = torch.randint(VOCABULARY, (1, 20), generator=torch.Generator().manual_seed(1))
    expected = module(ids)
    for field, value in {"activation": "gelu", "norm_first": True, "scale_embedding": False, "nhead": 2}.items():
        program = resolve(write(tmp_path, module.state_dict(), {**CONFIG, field: value}))
        model = next(m for m in program.part.module.modules() if isinstance(m, TransformerLM))
        assert float((model(ids).logits - expected).abs().max()) > 1e-3 * float(expected.abs().max()), field


@torch.no_grad()
def test_a_tied_file_may_lack_the_second_name(tmp_path: Path) -> None:
    module = Textbook(tied=True)
    state = {name: t.clone() for name, t in module.state_dict().items() if name != "output_layer.weight"}
    program = resolve(write(tmp_path, state, name="m.safetensors"))
    assert any("the output layer is the embedding" in note for note in program.notes)
    model = next(m for m in program.part.module.modules() if isinstance(m, TransformerLM))
    torch.testing.assert_close(
        model(torch.tensor([PROMPT])).logits, module(torch.tensor([PROMPT])), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_a_training_s_checkpoint_and_a_folder(tmp_path: Path) -> None:
    module = Textbook()
    state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    state["module.src_mask"] = torch.zeros(4, 4)
    write(tmp_path, {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"step": 1}})
    (tmp_path / "vocab.json").write_text("{}")
    program = resolve(str(tmp_path))
    notes = " ".join(program.notes)
    for part in ("'model_state_dict'", "epoch, optimizer_state_dict", "src_mask", "vocab.json", "layer_norm_eps"):
        assert part in notes
    model = next(m for m in program.part.module.modules() if isinstance(m, TransformerLM))
    ids = torch.tensor([PROMPT])
    torch.testing.assert_close(model(ids).logits, module(ids), rtol=1e-5, atol=1e-5)
    assert program.settings.tokenizer.kind == "none"
    assert program.settings.context_length == POSITIONS
    assert len(program.weights_sha256) == 64
    assert resolve(str(tmp_path), options={"context_length": 16}).settings.context_length == 16
    with pytest.raises(UnknownNameError, match="dynamic_size"):
        resolve(str(tmp_path), options={"dynamic_size": True})


def test_what_cannot_be_known_is_asked_for_with_the_line_to_write(tmp_path: Path) -> None:
    state = Textbook(persistent=False).state_dict()
    path = write(tmp_path, state, None)
    with pytest.raises(CheckpointError) as caught:
        resolve(path)
    told = str(caught.value)
    assert "2 layers of 24, 61 tokens" in told
    assert "do not tell nhead, activation, norm_first, scale_embedding, context_length, position" in told
    assert '{"nhead": ONE OF 1, 2, 3, 4, 6, 8, 12, 24, ' in told
    assert '"norm_first": false OR true' in told
    with pytest.raises(CheckpointError, match="do not tell nhead"):
        outline(path)
    path = write(tmp_path, state, {**CONFIG, "context_length": None, "position": None})
    with pytest.raises(CheckpointError, match="do not tell context_length, position"):
        outline(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nhead": 5}, "nhead is 5(?s:.*)a divisor of the width 24"),
        ({"nhead": True}, "nhead is True"),
        ({"activation": "silu"}, "activation is 'silu'(?s:.*)relu or gelu"),
        ({"activation": ["relu"]}, r"activation is \['relu'\](?s:.*)relu or gelu"),
        ({"norm_first": 1}, "norm_first is 1"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"n_head": 3}, "no field 'n_head'(?s:.*)did you mean 'nhead'"),
        ({"context_length": 7}, "context_length is 7(?s:.*)48"),
        ({"position": "rope"}, "position is 'rope'"),
        ({"embedding": "nothing"}, "embedding is 'nothing', which is no tensor"),
    ],
)
def test_values_that_it_cannot_have(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve(write(tmp_path, Textbook().state_dict(), {**CONFIG, **change}))


LAYER = "transformer_encoder.layers.1."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{LAYER}linear1.weight": torch.zeros(9, WIDTH)}, r"'transformer_encoder\.layers\.1\.linear1\.weight' has"),
        ({f"{LAYER}linear3.weight": torch.zeros(2, 2)}, "which a layer of nn.TransformerEncoder does not have"),
        ({f"{LAYER}norm1.bias": None}, "lacks tensor 'transformer_encoder.layers.1.norm1.bias'"),
        ({"extra.weight": torch.zeros(3)}, "'extra.weight' of shape .3., which no such language model has"),
        ({"output_layer.weight": None, "output_layer.bias": None}, "has no output layer"),
        ({"output_layer.weight": torch.zeros(60, WIDTH), "output_layer.bias": torch.zeros(60)}, "of 60 tokens"),
        ({"second.pe": torch.zeros(4, 1, WIDTH)}, "several tables of positions"),
        ({"other.layers.0.self_attn.in_proj_weight": torch.zeros(3, 1)}, "several stacks of layers"),
        ({"transformer_encoder.layers.9999999.self_attn.in_proj_weight": torch.zeros(1)}, "of more than 1,024 layers"),
        ({f"transformer_encoder.layers.{'9' * 5000}.self_attn.in_proj_weight": torch.zeros(1)}, "of more than 1,024"),
        ({f"{LAYER}norm1.bias": torch.full((WIDTH,), torch.nan)}, "NaN or infinite"),
        ({f"{LAYER}norm1.bias": torch.zeros(WIDTH, dtype=torch.int64)}, "is of int64"),
    ],
)  # fmt: skip
def test_other_tensors_are_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in {**Textbook().state_dict(), **change}.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        resolve(write(tmp_path, state))


def test_other_models_are_refused(tmp_path: Path) -> None:
    state = nn.LSTM(4, 4).state_dict()
    with pytest.raises(CheckpointError, match=r"is of no nn\.TransformerEncoder"):
        resolve(write(tmp_path, state))
    with pytest.raises(CheckpointError, match="which no source can load"):
        resolve(write(tmp_path / "s", state, None, "m.safetensors"))
    with pytest.raises(CheckpointError, match="expected a state dict"):
        resolve(write(tmp_path, [1, 2]))
    with pytest.raises(CheckpointError, match="holds a int as 'a', expected tensors by name"):
        resolve(write(tmp_path, {"a": 1, "b": torch.zeros(1)}))


def test_a_folder_of_several_or_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.pt", "b.pt"):
        write(tmp_path, Textbook().state_dict(), name=name)
    with pytest.raises(CheckpointError, match=r"holds a\.pt, b\.pt, expected one file of weights"):
        resolve(str(tmp_path))

    def refused(_: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(CheckpointError, match="Permission denied"):
        resolve(str(tmp_path))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    legacy = pickle.dumps({"a": Evil()})
    for name, content in {"zip.pt": Evil(), "whole.pt": Textbook()}.items():
        path = write(tmp_path, content, name=name)
        with pytest.raises(CheckpointError, match="which could run code when loaded") as caught:
            resolve(path)
        assert "nothing of it was run" in str(caught.value)
    for name, data in {"legacy.pt": legacy, "cut.pt": b"PK\3\4", "empty.pt": b"", "text.pt": b"hello"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=r"could run code|is damaged"):
            resolve(str(tmp_path / name))
    assert not (tmp_path / "ran").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(tmp_path / "zip.pt", weights_only=False)  # the file itself would have
    assert (tmp_path / "ran").exists()


def test_an_adapter_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--lora is a:2, b: adapters are not merged into"):
        resolve(write(tmp_path, Textbook().state_dict()), options={"lora": ("a:2", "b")})


def test_a_checkpoint_beside_it_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds its weights itself"):
        resolve(write(tmp_path, Textbook().state_dict()), options={"checkpoint": "x"})
    assert (HEADS, LAYERS) == (3, 2)
