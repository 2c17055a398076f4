"""Weights streamed into a module are those that `load_into` gives it, with the same refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.shipped import load_shipped
from aigc_models.weights.load_into import load_into
from aigc_models.weights.stored_weights import StoredWeights
from aigc_models.weights.stream_into import build_undrawn, stream_into
from aigc_runtime.errors import CheckpointError

from .sharded import INDEX, write_shards

TIED, HEAD, NORM = "embed_tokens.weight", "lm_head.weight", "norm.weight"


def config(*, tie: bool = True) -> LMConfig:
    return LMConfig(vocab_size=8, context_length=4, d_model=4, n_layers=1, n_heads=2, d_ff=4, tie_embeddings=tie)


def model(*, tie: bool = True, seed: int = 0) -> TransformerLM:
    torch.manual_seed(seed)
    return TransformerLM(config(tie=tie))


def state(**changed: Tensor | None) -> dict[str, Tensor]:
    tensors: dict[str, Any] = {name: tensor.clone() for name, tensor in model(seed=1).state_dict().items()}
    tensors |= {name.replace("__", "."): tensor for name, tensor in changed.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def stored(folder: Path, tensors: dict[str, Tensor]) -> StoredWeights:
    (folder / "x").write_bytes(save(tensors))
    return StoredWeights(folder / "x")


@pytest.mark.parametrize("dropped", [HEAD, TIED, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_streamed_and_loaded_are_the_same(dropped: str | None, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in state().items() if name != dropped}
    one, two = model(), build_undrawn(model)
    assert stream_into(two, stored(tmp_path, tensors)) == load_into(one, tensors)
    assert two.get_parameter(HEAD) is two.get_parameter(TIED)
    for name, tensor in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], tensor), name
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(one.eval()(ids).logits, two.eval()(ids).logits)


def test_shards_of_16_bits_are_a_program(tmp_path: Path) -> None:
    own = replace(config(), vocab_size=256)
    tensors = {name: tensor.bfloat16() for name, tensor in TransformerLM(own).state_dict().items() if name != HEAD}
    names = sorted(tensors)
    shards = [{name: tensors[name] for name in names[i::3]} for i in range(3)]
    folder = write_shards(tmp_path / "run", shards, {"family": "lm", "model": own.to_dict()})
    program = load_shipped("lm", checkpoint=folder)
    assert program.notes == (f"{len(tensors) + 1} tensors of bfloat16 became float32, every number as it was",)
    assert program.checkpoint is not None
    assert program.checkpoint.path == folder / INDEX
    for name, tensor in tensors.items():
        assert torch.equal(program.part.module.state_dict()[f"model.{name}"], tensor.float()), name


REFUSED: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "two tied that differ": ({"lm_head__weight": torch.ones(8, 4)}, f"ties '{TIED}' and '{HEAD}', but the file holds"),
    "two tied of two types": ({"lm_head__weight": state()[TIED].half()}, "float32 [8, 4] and float16 [8, 4]"),
    "neither of two tied": ({"lm_head__weight": None, "embed_tokens__weight": None}, f"nor '{HEAD}', which is tied"),
    "one is missing": ({"norm__weight": None}, "file lacks tensor 'norm.weight' of shape [4]"),
    "one too many": ({"more": torch.ones(1)}, "has a tensor 'more' that the model does not have"),
    "another shape": ({"norm__weight": torch.ones(5)}, "'norm.weight' has shape [5], expected [4]"),
    "integers": ({"norm__weight": torch.ones(4, dtype=torch.int32)}, "'norm.weight' is of int32, the model's"),
    "not a number": ({"norm__weight": torch.tensor([1, 1, torch.nan, 1])}, "holds 1 values that are NaN or infinite"),
    "infinite in 16 bits": ({"norm__weight": torch.full((4,), torch.inf).half()}, "holds 4 values that are NaN or"),
    "doubles that would change": ({"norm__weight": torch.ones(4).double() / 3}, "is of float64, and 4 of its 4 values"),
    "what the model computes": ({"frequencies": torch.ones(4)}, "'frequencies', which the model computes itself"),
}


@pytest.mark.parametrize("fault", list(REFUSED))
def test_what_does_not_fit_is_refused_as_in_memory(fault: str, tmp_path: Path) -> None:
    changed, message = REFUSED[fault]
    tensors = state(**changed)
    with pytest.raises(CheckpointError) as caught:
        stream_into(model(), stored(tmp_path, tensors), source="file")
    assert message in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        load_into(model(), tensors, source="file")
    assert message in str(caught.value)


def test_names_and_shapes_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    one = model()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    with pytest.raises(CheckpointError, match="has shape"):
        stream_into(one, stored(tmp_path, state(norm__weight=torch.ones(5))))
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())


def test_a_module_is_built_without_drawing_and_its_tables_are_whole() -> None:
    torch.manual_seed(3)
    lm = build_undrawn(lambda: TransformerLM(config()))
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(3)))
    assert isinstance(lm, TransformerLM)
    assert torch.equal(lm.frequencies, model().frequencies)
    assert torch.equal(lm.get_parameter(NORM), torch.ones(4))
