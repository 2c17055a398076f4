"""A user's own module becomes a part: names, shapes, what varies, and every refusal in a plain sentence."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.program import example_feeds
from aigc_models.sources.module import make_part
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import ConfigError, UnknownNameError

SIDES = {"image": {2: "height", 3: "width"}}


class Upscale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        large: Tensor = self.last(F.interpolate(F.relu(self.first(image)), scale_factor=2, mode="nearest"))
        return large


def image(side: int = 12) -> Tensor:
    return torch.rand(1, 3, side, side)


def test_names_and_sizes_of_an_upscaler() -> None:
    model = Upscale().eval()
    part = make_part(model, {"image": image()}, dims=SIDES)
    (fed,), (given,) = part.interface.inputs, part.interface.outputs
    assert (fed.name, fed.dtype, fed.shape) == ("image", "float32", (1, 3, "height", "width"))
    assert (given.name, given.dtype, given.shape) == ("output", "float32", (1, 3, "2*height", "2*width"))
    x = image(16)[:, :, :, :7].contiguous()
    with torch.no_grad():
        expected = model(x).numpy()
    found = TorchSession(part).run({"image": x.numpy()})["output"]
    np.testing.assert_array_equal(found, expected)


def test_nothing_varies_unless_it_is_declared() -> None:
    part = make_part(Upscale().eval(), image())
    assert part.interface.dims == ()
    assert part.interface.outputs[0].shape == (1, 3, 24, 24)
    assert part.examples["image"].shape == (1, 3, 12, 12)


def test_an_example_of_one_row_is_enough() -> None:
    """PyTorch takes a size of 1 to be fixed: a batch of one, the example that comes first to mind, was refused."""
    part = make_part(Upscale().eval(), {"image": torch.rand(1, 3, 1, 5)}, dims={"image": {0: "batch", 2: "height"}})
    assert part.interface.inputs[0].shape == ("batch", 3, "height", 5)
    assert part.interface.outputs[0].shape[0] == "batch"
    assert part.examples["image"].shape == (1, 3, 1, 5)


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"half": self.conv(x), "flat": x.flatten(1), "both": torch.cat([x, x[:, :, :3]], 2)}


def test_expressions_of_sizes_are_true() -> None:
    part = make_part(Strided().eval(), torch.randn(2, 1, 9, 10), dims={"x": {0: "batch", 2: "rows", 3: "columns"}})
    shapes = {t.name: t.shape for t in part.interface.outputs}
    session = TorchSession(part)
    for sizes in ({"batch": 1, "rows": 7, "columns": 6}, {"batch": 3, "rows": 8, "columns": 11}):
        results = session.run(example_feeds(part, sizes, seed=0))
        for name, shape in shapes.items():
            expected = tuple(eval(s, {}, dict(sizes)) if isinstance(s, str) else s for s in shape)
            assert results[name].shape == expected, name


def test_numbers_of_examples_are_those_of_the_example() -> None:
    ids = torch.tensor([[3, 9, 9, 4]])

    class Embed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            found: Tensor = self.table(ids) * mask[..., None]
            return found

    part = make_part(
        Embed().eval(),
        {"ids": ids, "mask": torch.tensor([[True, True, True, False]])},
        dims={"ids": {1: "tokens"}, "mask": {1: "tokens"}},
    )
    feeds = example_feeds(part, {"tokens": 500}, seed=0)
    assert set(feeds["ids"].ravel().tolist()) == {3, 4, 9}
    assert feeds["mask"].dtype == np.bool_
    assert 0.6 < feeds["mask"].mean() < 0.9
    assert part.interface.outputs[0].shape == (1, "tokens", 4)


@dataclass
class Result:
    value: Tensor
    extra: Tensor | None = None


Pair = namedtuple("Pair", "first second")


class Nested(nn.Module):
    def forward(self, x: dict[str, Any], scale: float = 1.0, *, shift: Tensor | None = None) -> Any:
        total = x["a"] + x["inner"]["b"] * scale
        return Result(total if shift is None else total + shift), Pair(x["a"].sum(1, keepdim=True), [total * 2])


def test_nested_values_are_flattened_by_name() -> None:
    example = {"x": {"a": torch.ones(2, 3), "inner": {"b": torch.full((2, 3), 2.0)}}, "scale": 3.0}
    part = make_part(Nested().eval(), example)
    assert [t.name for t in part.interface.inputs] == ["x_a", "x_inner_b"]
    assert [t.name for t in part.interface.outputs] == ["output_0_value", "output_1_first", "output_1_second_0"]
    assert part.notes == ("input 'scale' is fixed: 3.0",)
    found = TorchSession(part).run({"x_a": np.ones((2, 3), np.float32), "x_inner_b": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(found["output_0_value"], np.full((2, 3), 4.0, np.float32))
    with_shift = make_part(Nested().eval(), {**example, "shift": torch.ones(1)})
    assert [t.name for t in with_shift.interface.inputs] == ["x_a", "x_inner_b", "shift"]


def test_every_kind_of_parameter() -> None:
    class Called(nn.Module):
        def forward(self, a: Tensor, /, b: Tensor, *rest: Tensor) -> Tensor:
            return a + 2 * b + 3 * rest[0]

    ones = torch.ones(2)
    part = make_part(Called().eval(), (ones, ones, ones))
    assert [t.name for t in part.interface.inputs] == ["a", "b", "rest_0"]
    feeds = {"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32), "rest_0": np.ones(2, np.float32)}
    assert TorchSession(part).run(feeds)["output"].tolist() == [5.0, 5.0]


def test_hooks_are_part_of_what_is_computed() -> None:
    model = Upscale().eval()
    model.first.register_forward_hook(lambda _module, _inputs, output: output * 2)
    part = make_part(model, image())
    x = image()
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_array_equal(TorchSession(part).run({"image": x.numpy()})["output"], expected)


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Fixes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if int(x.shape[1]) == 8 else x


class Counts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class NeedsFours(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + F.interpolate(F.avg_pool1d(x, 4), scale_factor=4)


class Large(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[1] > 32 else x


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("lost")


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"x2": x, "kind": "text"}


class Same(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x * 2}


class Deep(nn.Module):
    def forward(self, x: Any) -> Tensor:
        total: Tensor = x["a"]["b_c"] + x["a_b"]["c"]
        return total


X = torch.randn(2, 8)
VARIES = {"x": {1: "length"}}


@pytest.mark.parametrize(
    ("module", "example", "dims", "sentence"),
    [
        (Chooses(), X, VARIES, r"forward decides by the numbers in a tensor at .*test_module.py:\d+ in forward: "),
        (Fixes(), X, VARIES, "Fixes: forward fixes what was declared to vary: dimension 'length' at 8"),
        (Counts(), X, VARIES, "a size of an output depends on the numbers in a tensor"),
        (Raises(), X, {}, "Raises cannot run on the example inputs: KeyError: 'lost'\nx: float32 "),
        (Mixed(), X, {}, "Mixed gives 'output_kind', which is a str and no tensor"),
        (Same(), X, {}, "an input and an output are both called 'x'"),
        (Deep(), ({"a": {"b_c": X}, "a_b": {"c": X}},), {}, "two inputs are called 'x_a_b_c'"),
        (Upscale(), X[:, 0], {}, "Upscale cannot run on the example inputs: RuntimeError"),
        (Upscale(), {"picture": X}, {}, "unknown parameter of Upscale.forward 'picture'"),
        (Upscale(), (X, X), {}, "example_inputs do not fit Upscale.forward"),
        (Upscale(), {}, {}, "example_inputs do not fit Upscale.forward"),
        (Upscale(), "text", {}, "example_inputs is a str"),
        (Same(), X.double(), {}, "example input 'x' is float64\nengines compute in float32"),
        (Same(), X.bfloat16(), {}, "example input 'x' is bfloat16"),
        (Same(), torch.tensor(1.0), {}, "example input 'x' has no dimensions"),
        (Same(), torch.zeros(0, 2), {}, r"example input 'x' has shape \[0, 2\]"),
        (Same(), X * torch.nan, {}, "example input 'x' holds NaN"),
        (Same(), 3.0, {}, "example_inputs is a float"),
        (Same(), (3.0,), {}, "Same cannot run|example_inputs has no tensor"),
        (Large(), X, {"y": {0: "batch"}}, "unknown input in dims 'y'"),
        (Large(), X, {"x": {2: "batch"}}, r"dims names axis 2 of 'x', whose example has shape \[2, 8\]"),
        (Large(), X, {"x": {1: "no name"}}, "a? ?dimension is called 'no name'"),
        (Large(), X, {"x": {0: "n", 1: "n"}}, "dimension 'n' is 2 and 8 in the example"),
        (Large(), X, {"x": {1: DimSpec(name="n", multiple_of=3)}}, "dimension 'n' is 8 in the example, which"),
        (Large(), torch.randn(2, 40), {"x": {1: DimSpec(name="n", min=8)}}, "takes it from 33 alone"),
    ],
)
def test_what_cannot_be_a_part(module: nn.Module, example: Any, dims: Any, sentence: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=sentence):
        make_part(module.eval(), example, dims=dims)


def test_the_multiple_that_works_is_named() -> None:
    sentence = r"'n' is declared to vary, and the module fails where it is 9: .*\n.*multiple_of=4\), which works"
    with pytest.raises(ConfigError, match=sentence):
        make_part(NeedsFours().eval(), torch.randn(1, 2, 8), dims={"x": {2: "n"}})
    part = make_part(NeedsFours().eval(), torch.randn(1, 2, 8), dims={"x": {2: DimSpec(name="n", multiple_of=4)}})
    assert part.interface.outputs[0].shape == (1, 2, "n")


def test_a_range_that_forward_decides_by_is_narrowed_and_told() -> None:
    part = make_part(Large().eval(), torch.randn(2, 40), dims={"x": {1: "n"}})
    assert [(d.name, d.min) for d in part.interface.dims] == [("n", 33)]
    assert part.notes == ("dimension 'n' goes from 33: the module takes no others",)


def test_modules_that_are_not_ready() -> None:
    with pytest.raises(ConfigError, match=r"the module is in training mode\ncall \.eval"):
        make_part(Upscale(), image())
    inner = Upscale().eval()
    inner.last.train()
    with pytest.raises(ConfigError, match="last is in training mode"):
        make_part(inner, image())
    with torch.device("meta"):
        empty = Upscale()
    with pytest.raises(ConfigError, match=r"tensor 'first.weight' of the module is on the meta device"):
        make_part(empty.eval(), image())
    with pytest.raises(ConfigError, match=r"tensor 'first.weight' of the module is float16\ncall \.float"):
        make_part(Upscale().half().eval(), image())
    with pytest.raises(ConfigError, match="the module is a str"):
        make_part("model", image())  # type: ignore[arg-type]


def test_bounds_of_integers() -> None:
    class Doubles(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return ids * 2

    part = make_part(Doubles().eval(), torch.tensor([1, 5]), bounds={"ids": (0, 6)})
    assert (part.interface.inputs[0].low, part.interface.inputs[0].high) == (0, 6)
    for bounds, sentence in (
        ({"ids": (0, 5)}, r"holds 1 to 5, bounds are \[0, 5\)"),
        ({"id": (0, 5)}, "unknown input in bounds 'id'"),
    ):
        with pytest.raises((ConfigError, UnknownNameError), match=sentence):
            make_part(Doubles().eval(), torch.tensor([1, 5]), bounds=bounds)
    with pytest.raises(ConfigError, match="bounds of 'x', which is float32"):
        make_part(Large().eval(), X, bounds={"x": (0, 1)})
