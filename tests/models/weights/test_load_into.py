"""Tied names, types and values: what does not fit exactly is refused by the tensor's name, and nothing is loaded."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save_model
from torch import Tensor, nn

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.weights.load_into import load_into
from aigc_runtime.errors import CheckpointError

TIED, HEAD = "embed_tokens.weight", "lm_head.weight"


def model(*, tie: bool = True, seed: int = 0) -> TransformerLM:
    torch.manual_seed(seed)
    config = LMConfig(vocab_size=8, context_length=4, d_model=4, n_layers=1, n_heads=2, d_ff=4, tie_embeddings=tie)
    return TransformerLM(config)


def state(source: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in source.state_dict().items()}


def assert_refused(module: nn.Module, tensors: dict[str, Tensor], message: str) -> None:
    before = state(module)
    with pytest.raises(CheckpointError) as caught:
        load_into(module, tensors, source="file")
    assert message in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("dropped", [HEAD, TIED, None])
def test_what_the_configuration_ties_is_tied_under_either_name_or_both(dropped: str | None) -> None:
    tensors = state(model(seed=1))
    tensors.pop(dropped or "", None)
    other = model()
    assert load_into(other, tensors) == ()
    assert other.lm_head.weight is other.embed_tokens.weight
    assert all(torch.equal(t, state(model(seed=1))[name]) for name, t in other.state_dict().items())


def test_safetensors_own_form_of_tied_weights_is_read(tmp_path: object) -> None:
    source, file = model(seed=1), f"{tmp_path}/model.safetensors"
    save_model(source, file)
    with open(file, "rb") as opened:  # noqa: PTH123
        tensors = load(opened.read())
    assert len(tensors) == len(source.state_dict()) - 1
    other = model()
    load_into(other, tensors)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(other.eval()(ids).logits, source.eval()(ids).logits)


def test_two_tied_names_with_different_numbers_are_refused() -> None:
    tensors = state(model(seed=1))
    tensors[HEAD][3, 2] += 1
    assert_refused(model(), tensors, f"ties '{TIED}' and '{HEAD}', but the file holds two different tensors: 1 of 32")
    assert_refused(model(), {**tensors, HEAD: tensors[TIED].half()}, "float32 [8, 4] and float16 [8, 4]")
    assert_refused(model(), {**tensors, HEAD: tensors[TIED][:4]}, "float32 [8, 4] and float32 [4, 4]")


def test_tied_names_that_are_both_missing_are_told_together() -> None:
    tensors = state(model())
    del tensors[HEAD], tensors[TIED]
    assert_refused(model(), tensors, f"lacks tensor '{TIED}' of shape [8, 4], nor '{HEAD}', which is tied to it")


@pytest.mark.parametrize("dropped", [HEAD, TIED])
def test_what_is_not_declared_tied_is_not_tied(dropped: str) -> None:
    tensors = state(model(tie=False, seed=1))
    del tensors[dropped]
    assert_refused(model(tie=False), tensors, f"file lacks tensor '{dropped}'")
    both = state(model(tie=True, seed=1))  # equal numbers under both names, and still two weights
    untied = model(tie=False)
    load_into(untied, both)
    assert untied.lm_head.weight is not untied.embed_tokens.weight


def test_the_remedy_for_an_undeclared_tie_is_named() -> None:
    tensors = state(model(tie=True))
    del tensors[HEAD]
    assert_refused(model(tie=False), tensors, "config.json says so with tie_embeddings: true")


NORM = "norm.weight"


def changed(**tensors: Tensor) -> dict[str, Tensor]:
    return {**state(model()), **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(4, dtype=torch.int64), "'norm.weight' is of int64, the model's is of float32"),
        (torch.ones(4, dtype=torch.int8), "'norm.weight' is of int8, the model's is of float32"),
        (torch.ones(4, dtype=torch.bool), "'norm.weight' is of bool, the model's is of float32"),
        (torch.tensor([1, 0.1, 0.2, 0.5]).double() / 3, "is of float64, and 4 of its 4 values are no numbers of"),
        (torch.tensor([1, 1, 1e300, 1], dtype=torch.float64), "and 1 of its 4 values are no numbers of float32"),
        (torch.tensor([1, 1, 1e-60, 1], dtype=torch.float64), "and 1 of its 4 values are no numbers of float32"),
        (torch.tensor([1, 1, torch.nan, 1], dtype=torch.float64), "holds 1 values that are NaN or infinite"),
        (torch.ones(1), "'norm.weight' has shape [1], expected [4]"),
        (torch.ones(()), "'norm.weight' has shape [], expected [4]"),
        (torch.ones(1, 4), "'norm.weight' has shape [1, 4], expected [4]"),
        (torch.ones(0), "'norm.weight' has shape [0], expected [4]"),
    ],
)
def test_a_tensor_whose_numbers_would_change_is_refused(tensor: Tensor, message: str) -> None:
    assert_refused(model(), changed(norm__weight=tensor), message)


def test_numbers_that_fit_are_converted_and_it_is_said() -> None:
    exact = torch.tensor([1, 0.5, -0.0, 2.0**-149], dtype=torch.float64)
    other = model()
    told = load_into(other, changed(norm__weight=exact))
    assert told == ("1 tensors of float64 became float32, every number as it was",)
    assert other.state_dict()[NORM].double().tolist() == exact.tolist()
    assert torch.signbit(other.state_dict()[NORM]).tolist() == [False, False, True, False]


def test_a_count_may_be_of_another_integer_type_but_not_a_float() -> None:
    module = nn.BatchNorm1d(2)
    tensors = state(module)
    assert load_into(module, {**tensors, "num_batches_tracked": torch.tensor(7, dtype=torch.int32)})
    assert module.get_buffer("num_batches_tracked").item() == 7
    assert_refused(module, {**tensors, "num_batches_tracked": torch.tensor(7.0)}, "'num_batches_tracked' is of float32")
    del tensors["num_batches_tracked"]
    assert_refused(module, tensors, "lacks tensor 'num_batches_tracked'")


def test_names_of_another_case_and_tensors_the_model_computes() -> None:
    tensors = state(model())
    tensors["Norm.weight"] = tensors.pop(NORM)
    assert_refused(model(), tensors, "lacks tensor 'norm.weight' of shape [4]\nnearest in the file: 'Norm.weight'")
    assert_refused(model(), changed(frequencies=torch.ones(4)), "'frequencies', which the model computes itself")
