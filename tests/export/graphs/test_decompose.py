"""Operators are decomposed one after the other into what PyTorch's decomposition of the whole program gives."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.onnx._internal.exporter import _decomp, _registration
from torch.onnx._internal.fx.passes import type_promotion

from aigc_calibration.onnx_function import open_onnx
from aigc_export.graphs.capture import capture
from aigc_export.graphs.decompose import decompose, decomposed_in_place
from aigc_models.example_sizes import run_sizes
from aigc_models.program import Part, example_feeds
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of PyTorch's own


class Function(nn.Module):
    """A function of one tensor [batch, 4, side, side] as a module with a normalization of its own."""

    def __init__(self, function: Callable[[Tensor, nn.Module], Any], inner: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, inner

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, 4, S, S] -> anything."""
        result = self.function(x, self.inner)
        return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def odd_types(x: Tensor) -> Tensor:
    """Whole numbers, truth and doubles meet floats."""
    return x * 2 + (x > 0) * x.sum(dim=(2, 3), keepdim=True).to(torch.int64) / 3 + x.double() * 0.5


INSIDE: dict[str, tuple[Callable[[Tensor, Any], Any], nn.Module]] = {
    "views": (lambda x, inner: inner(x.flatten(2).transpose(1, 2)).reshape(x.shape[0], -1), nn.Unflatten(2, (2, 2))),
    "a view that has to be copied": (lambda x, _: x.transpose(1, 3).reshape(x.shape[0], -1, 2), nn.Identity()),
    "pieces": (lambda x, _: x.chunk(2, dim=1)[1] - x.chunk(3, dim=1)[0], nn.Identity()),
    "pieces as results": (lambda x, _: x.chunk(2, dim=1), nn.Identity()),
    "a value without a gradient": (lambda x, _: (x + 1.0).detach() * 2.0, nn.Identity()),
    "dropout": (lambda x, inner: inner(x) + 1.0, nn.Dropout(0.5)),
    "normalization": (lambda x, inner: inner(x), nn.BatchNorm2d(4)),
    "upsampled and transposed": (
        lambda x, inner: inner(nn.functional.interpolate(x, scale_factor=2.0)),
        nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1),
    ),
    "types": (lambda x, _: odd_types(x), nn.Identity()),
    "a type that it has": (lambda x, _: x.to(torch.float32) + 1, nn.Identity()),
    "attention": (lambda x, inner: inner(*3 * [x.flatten(2).mT], need_weights=False)[0], nn.MultiheadAttention(4, 2)),
    "an empty piece of a sum": (lambda x, _: torch.cat([x[:, :0], x], dim=1).logsumexp(dim=1), nn.Identity()),
}
"""What a module does -> it, with a module of its own."""

SIZES = ({"batch": 3, "side": 4}, {"batch": 2, "side": 6})


def table() -> dict[Any, Any]:
    """Decompositions that PyTorch's exporter asks for."""
    known = _decomp.get_onnx_implemented_overloads(_registration.ONNXRegistry.from_torchlib())
    return dict(_decomp.create_onnx_friendly_decomposition_table(set(known)))


@pytest.fixture(scope="module")
def decompositions() -> dict[Any, Any]:
    return table()


def images(batch: int, side: int) -> Tensor:
    return torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(side))


def exported(module: nn.Module) -> ExportedProgram:
    batch, side = torch.export.Dim("batch", max=64), torch.export.Dim("side", max=64)
    with torch.no_grad():
        return torch.export.export(module, (images(3, 4),), dynamic_shapes=({0: batch, 2: side, 3: side},))


def tensor_operators(program: ExportedProgram) -> Counter[str]:
    """How often each operator occurs that gives a tensor."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function" and node.users]
    return Counter(str(node.target) for node in nodes if isinstance(node.meta["val"], (Tensor, list, tuple)))


@pytest.mark.parametrize("name", list(INSIDE))
def test_it_gives_the_operators_and_numbers_of_the_whole(name: str, decompositions: dict[Any, Any]) -> None:
    torch.manual_seed(0)
    module = Function(*INSIDE[name]).eval()
    program, whole = exported(module), exported(module).run_decompositions(decompositions)
    assert decompose(program, decompositions)
    assert tensor_operators(program) == tensor_operators(whole)
    for sizes in SIZES:
        results, wanted = program.module()(images(**sizes)), whole.module()(images(**sizes))
        assert len(results) == len(wanted)
        assert all(torch.equal(a, b) for a, b in zip(results, wanted, strict=True))
    names = [node.name for node in program.graph.output_node().all_input_nodes]
    assert [spec.arg.name for spec in program.graph_signature.output_specs] == names


def test_what_is_kept_is_not_traced_again(decompositions: dict[Any, Any]) -> None:
    program = exported(Function(lambda x, inner: inner(x).relu().flatten(1), nn.Conv2d(4, 4, 1)))
    before = {node.name: node for node in program.graph.nodes}
    assert decompose(program, decompositions)
    gone = {str(node.target) for name, node in before.items() if node not in set(program.graph.nodes)}
    assert gone == {"aten.flatten.using_ints"}


def test_where_a_node_comes_from_is_kept(decompositions: dict[Any, Any]) -> None:
    program = exported(Function(lambda x, inner: inner(x) + 1.0, nn.Dropout(0.5)).eval())
    assert decompose(program, decompositions)
    (clone,) = [node for node in program.graph.nodes if str(node.target) == "aten.clone.default"]
    assert [path for path, _ in clone.meta["nn_module_stack"].values()][-1] == "inner"


def changed(x: Tensor, _: Any) -> Tensor:
    y = x + 1.0
    y[:, 0] *= 2.0
    return y


def chosen(x: Tensor, _: Any) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x + 1.0, lambda x: x * 2.0, (x,))  # type: ignore[no-any-return]


WHOLE: dict[str, tuple[Callable[[Tensor, Any], Any], nn.Module]] = {
    "a tensor changed in place": (changed, nn.Identity()),
    "a program of its own": (chosen, nn.Identity()),
}


@pytest.mark.parametrize("name", list(WHOLE))
def test_what_has_to_be_traced_whole_is_left_to_pytorch(
    name: str, decompositions: dict[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    module = Function(*WHOLE[name])
    with caplog.at_level(logging.DEBUG, "aigc_export.graphs.decompose"):
        assert not decompose(exported(module), decompositions)
    assert "are not decomposed by themselves: _WholeError" in caplog.text
    part = part_of(module)
    model = capture(part).model
    for sizes in run_sizes(part):
        feeds = example_feeds(part, sizes, seed=1)
        (wanted,) = module(torch.from_numpy(feeds["x"]))
        np.testing.assert_allclose(open_onnx(model)(feeds)["y"], wanted.numpy(), rtol=1e-6)


def test_a_result_that_is_an_argument_is_left_to_pytorch(decompositions: dict[Any, Any]) -> None:
    program = exported(Function(lambda x, _: (x + 1.0, x.to(torch.float32)), nn.Identity()))
    assert not decompose(program, decompositions)
    assert torch.equal(program.run_decompositions(decompositions).module()(images(3, 4))[1], images(3, 4))


def test_a_normalization_that_learns_is_left_to_pytorch(decompositions: dict[Any, Any]) -> None:
    program = exported(Function(lambda x, inner: inner(x), nn.BatchNorm2d(4)).train())
    assert not decompose(program, decompositions)
    assert program.run_decompositions(decompositions).graph_signature.buffers_to_mutate


def part_of(module: nn.Module) -> Part:
    """Pictures of 6x6 in any number, as everything that the module makes of them."""
    with torch.no_grad():
        (result,) = module(images(1, 6))
    interface = Interface(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4, 6, 6)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", *result.shape[1:])),),
        dims=(DimSpec(name="batch", max=64),),
    )
    return Part(module=module.eval(), interface=interface)


def test_types_are_converted_as_pytorch_does() -> None:
    module = Function(lambda x, _: odd_types(x), nn.Identity())
    part = part_of(module)
    model = capture(part).model
    for sizes in run_sizes(part):
        feeds = example_feeds(part, sizes, seed=1)
        (wanted,) = module(torch.from_numpy(feeds["x"]))
        np.testing.assert_allclose(open_onnx(model)(feeds)["y"], wanted.numpy(), rtol=1e-5)


def test_all_is_put_back() -> None:
    before = ExportedProgram.run_decompositions, type_promotion._TypePromotionInterpreter.run_node

    def fail() -> None:
        with decomposed_in_place():
            assert ExportedProgram.run_decompositions is not before[0]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert before == (ExportedProgram.run_decompositions, type_promotion._TypePromotionInterpreter.run_node)


def test_a_pytorch_that_converts_types_in_another_way_takes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ExportedProgram.run_decompositions
    monkeypatch.delattr(type_promotion, "get_type_promotion_rule")
    with decomposed_in_place():
        assert ExportedProgram.run_decompositions is before


def test_what_was_decomposed_before_it_failed_is_still_the_program(decompositions: dict[Any, Any]) -> None:
    """The first operator is replaced by others, then one stops it: PyTorch goes on from there."""
    module = Function(lambda x, inner: (inner(x).relu(), x.to(torch.float32)), nn.Unflatten(1, (2, 2)))
    program = exported(module)
    assert not decompose(program, decompositions)
    found = program.run_decompositions(decompositions).module()(images(3, 4))
    x = images(3, 4)
    assert torch.equal(found[0], x.reshape(x.shape[0], 2, 2, *x.shape[2:]).relu())
    assert torch.equal(found[1], images(3, 4))
