"""Tensors come under our names, cut and turned as the table of a family says; what does not fit is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.sources.transformers.small_models import InMemory

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.rename import RenamedWeights, Rule, plus_one, transposed
from aigc_runtime.errors import CheckpointError

CONFIG = LMConfig(vocab_size=5, context_length=8, d_model=4, n_layers=11, n_heads=2, d_ff=6)
RULES = (
    Rule(theirs="h.*.skip", ours=()),
    Rule(theirs="h.*.both.weight", ours=("layers.*.a.weight", "layers.*.b.weight"), change=lambda t, _: t.chunk(2)),
    Rule(theirs="h.*.turned", ours=("layers.*.turned",), change=transposed),
    Rule(theirs="gain", ours=("norm.weight",), change=plus_one),
)


def renamed(**tensors: torch.Tensor) -> RenamedWeights:
    stored = InMemory({name.replace("__", "."): tensor for name, tensor in tensors.items()})
    return RenamedWeights(stored, RULES, prefix="model.", config=CONFIG)


def test_tensors_are_cut_turned_and_left_out() -> None:
    both, turned = torch.arange(8.0).view(4, 2), torch.arange(6.0).view(2, 3)
    weights = renamed(
        model__h__10__both__weight=both, model__h__0__turned=turned, h__3__skip=both, model__gain=turned, lm_head=both
    )
    found = dict(weights.stream())
    assert list(found) == ["layers.10.a.weight", "layers.10.b.weight", "layers.0.turned", "norm.weight", "lm_head"]
    torch.testing.assert_close(found["layers.10.b.weight"], both[2:])
    torch.testing.assert_close(found["layers.0.turned"], turned.t())
    torch.testing.assert_close(found["norm.weight"], turned + 1)
    described = weights.described()
    assert {n: t.shape for n, t in described.items()} == {n: t.shape for n, t in found.items()}
    assert all(tensor.is_meta for tensor in described.values())


def test_a_gain_in_16_bits_is_added_to_in_32() -> None:
    (gain,) = plus_one(torch.tensor([1 / 256], dtype=torch.bfloat16), CONFIG)
    assert gain.item() == 1 + 1 / 256  # no number of bfloat16


def test_a_tensor_that_needs_no_change_is_read_into_its_place() -> None:
    asked: list[str] = []

    class Asking(InMemory):
        def stream(self, into: Any = lambda _: None) -> Any:
            for name in self:
                asked.append(f"{name}: {into(name)}")
            yield from self.items()

    stored = Asking({"model.x": torch.zeros(2), "gain": torch.zeros(2)})
    dict(RenamedWeights(stored, RULES, prefix="model.", config=CONFIG).stream(lambda name: name))  # type: ignore[arg-type,return-value]
    assert asked == ["model.x: x", "gain: None"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_tensor_that_cannot_be_cut_is_named(rank: int) -> None:
    weights = renamed(model__h__1__both__weight=torch.zeros([1] * rank))
    with pytest.raises(CheckpointError, match=r"'model.h.1.both.weight' of shape .* cannot be cut into layers.1.a.wei"):
        weights.described()


def test_two_tensors_for_one_place_are_refused() -> None:
    with pytest.raises(CheckpointError, match="has 'x' and another tensor that is 'x' here, too"):
        renamed(model__x=torch.zeros(1), x=torch.zeros(1)).described()
