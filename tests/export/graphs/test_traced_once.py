"""A module of equal blocks is captured from one of them, and the graph is the one that all of them give."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from aigc_calibration.onnx_function import open_onnx
from aigc_export.graphs import equal_blocks
from aigc_export.graphs.capture import Captured, capture
from aigc_export.graphs.equal_blocks import find_equal_blocks
from aigc_export.graphs.traced_once import computes_the_same, traced_once
from aigc_models.example_sizes import run_sizes
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.program import Part, example_feeds
from aigc_models.programs import lm_program
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, TensorSpec

SCOPES = "pkg.torch.onnx.name_scopes"


class Block(nn.Module):
    """x + gain * tanh(W x + shift), with a shift of its own that is no parameter."""

    shift: Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.gain = gain
        self.register_buffer("shift", torch.randn(4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, 4] -> [B, 4]."""
        added = self.gain * torch.tanh(self.linear(x) + self.shift)
        return x + (added if mask is None else added * mask)


class Stack(nn.Module):
    """Blocks of two gains in turn; every third is given a mask, of a type that is converted."""

    def __init__(self, blocks: int = 12, gains: tuple[float, ...] = (0.5, 2.0)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(gains[i % len(gains)]) for i in range(blocks))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """[B, 4] -> [B, 4]."""
        for i, block in enumerate(self.blocks):
            x = block(x, x > 0) if i % 3 == 2 else block(x)
        return (x,)


def part_of(module: nn.Module) -> Part:
    shape = ("batch", 4)
    interface = Interface(
        inputs=(TensorSpec(name="x", dtype="float32", shape=shape),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=shape),),
        dims=(DimSpec(name="batch", max=64),),
    )
    return Part(module=module.eval(), interface=interface)


def lm_part(**fields: Any) -> Part:
    torch.manual_seed(0)
    config = LMConfig(
        vocab_size=256, context_length=64, d_model=16, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=24, **fields
    )
    return lm_program(TransformerLM(config)).part


def traced(part: Part, monkeypatch: pytest.MonkeyPatch) -> tuple[Captured, Captured]:
    """Captured from one block of each kind, and from all."""
    once = capture(part)
    with monkeypatch.context() as patched:
        patched.setattr(equal_blocks, "MIN_BLOCKS", 1000)
        return once, capture(part)


def _scoped(model: ir.Model) -> list[tuple[str, str]]:
    """Operators in order, and the modules that they belong to."""
    return [(n.op_type, n.metadata_props.get(SCOPES, "").rpartition(",")[0]) for n in model.graph]


def assert_same(part: Part, once: Captured, whole: Captured) -> None:
    assert _scoped(once.model) == _scoped(whole.model)
    weights = [
        {k: v.const_value.numpy() for k, v in c.model.graph.initializers.items() if v.const_value is not None}
        for c in (once, whole)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(value, weights[1][name]) for name, value in weights[0].items())
    names = [str(v.name) for node in once.model.graph for v in node.outputs]
    assert len(names) == len(set(names))
    for sizes in run_sizes(part):
        feeds = example_feeds(part, sizes, seed=1)
        results = [open_onnx(one.model, optimize=False)(feeds) for one in (once, whole)]
        assert all(np.array_equal(value, results[1][name]) for name, value in results[0].items())


@pytest.mark.slow
def test_every_layer_of_a_language_model_is_the_first_with_other_weights() -> None:
    part = lm_part(window=8, window_layers=(0, 2))
    model = capture(part).model
    nodes = [(op, scope) for op, scope in _scoped(model) if op != "Constant"]  # which the exporter shares
    layers = [[op for op, scope in nodes if f"layers.{i}'" in scope] for i in range(4)]
    assert layers[0]
    assert all(layer == layers[0] for layer in layers)
    for sizes in run_sizes(part):
        feeds = example_feeds(part, sizes, seed=1)
        actual = open_onnx(model, optimize=False)(feeds)
        for name, value in TorchSession(part).call(feeds).items():
            np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_language_model_is_the_same_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    part = lm_part(window=8, window_layers=(0, 2), unrotated_layers=(3,))
    once, whole = traced(part, monkeypatch)
    assert_same(part, once, whole)
    results = [spec.arg.name for spec in once.program.graph_signature.output_specs]
    assert results == [node.name for node in once.program.graph_module.graph.output_node().args[0]]


def test_blocks_of_several_kinds_are_the_same_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    part = part_of(Stack())
    once, whole = traced(part, monkeypatch)
    assert_same(part, once, whole)
    assert computes_the_same(once.program, part, example_feeds(part, run_sizes(part)[1], seed=1))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of PyTorch's own
def test_one_block_of_each_kind_is_traced() -> None:
    class Counting(Block):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            counted.update([self.gain])
            return super().forward(x, mask)

    counted: Counter[float] = Counter()
    module = nn.Sequential(*(Counting(0.5) for _ in range(6)), nn.Identity()).eval()
    with traced_once(module) as repeats:
        assert repeats
        program = torch.export.export(module, (torch.randn(2, 4),)).run_decompositions()
    assert counted[0.5] == 1
    assert not [node for node in program.graph.nodes if "mark" in str(node.target)]
    x = torch.randn(2, 4)
    assert torch.equal(program.module()(x), module(x))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda blocks: setattr(blocks[0], "held", torch.ones(1)),
        lambda blocks: blocks[0].register_forward_hook(lambda *_: None),
        lambda blocks: setattr(blocks[0].linear, "weight", blocks[1].linear.weight),
        lambda blocks: setattr(blocks[0], "index", 1),
        lambda blocks: setattr(blocks[0], "linear", nn.Linear(4, 4, bias=False)),
    ],
    ids=["a tensor among the attributes", "a hook", "a shared weight", "another attribute", "another shape"],
)
def test_blocks_that_may_differ_are_not_equal(spoil: Any) -> None:
    module = Stack(blocks=5, gains=(1.0,))
    assert len(find_equal_blocks(module)) == 5
    spoil(module.blocks)
    found = find_equal_blocks(module)
    assert "blocks.0" not in found
    assert len(found) in {0, 4}


def test_too_few_blocks_change_nothing() -> None:
    module = Stack(blocks=3, gains=(1.0,))
    with traced_once(module) as repeats:
        assert not repeats
        assert all("forward" not in vars(block) for block in module.blocks)


SECRET = [1.0, 2.0, 3.0, 4.0, 5.0]


class Secretive(nn.Module):
    """Blocks that look the same, and compute by what they keep elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in SECRET)
        for block, factor in zip(self.blocks, SECRET, strict=True):
            FACTORS[id(block)] = factor

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """[B, 4] -> [B, 4]."""
        for block in self.blocks:
            x = block(x)
        return (x,)


FACTORS: dict[int, float] = {}


def test_blocks_that_differ_in_secret_are_all_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: plain(self, x) * FACTORS.get(id(self), 1.0))
    part = part_of(Secretive())
    captured = capture(part)
    feeds = example_feeds(part, run_sizes(part)[0], seed=2)
    with torch.inference_mode():
        (wanted,) = part.module(torch.from_numpy(feeds["x"]))
    np.testing.assert_allclose(open_onnx(captured.model)(feeds)["y"], wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert not computes_the_same(captured.program, part_of(Secretive()), feeds)  # of other weights


def test_all_is_put_back_where_tracing_fails() -> None:
    module, decompose = Stack(blocks=4, gains=(1.0,)), ExportedProgram.run_decompositions

    def fail() -> None:
        with traced_once(module):
            assert all("forward" in vars(block) for block in module.blocks)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert all("forward" not in vars(block) for block in module.blocks)
    assert ExportedProgram.run_decompositions is decompose
    assert not module._forward_pre_hooks


@pytest.mark.slow
def test_threads_wait_for_each_other() -> None:
    parts, before, printed = [part_of(Stack()) for _ in range(3)], ExportedProgram.run_decompositions, sys.stdout
    with ThreadPoolExecutor(len(parts)) as pool:
        found = list(pool.map(capture, parts))
    assert len({tuple(_scoped(one.model)) for one in found}) == 1
    assert ExportedProgram.run_decompositions is before
    assert sys.stdout is printed
