"""A module with torch.cond or while_loop goes through capture, passes, bisection and quantization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc_calibration.bodies import all_graphs, all_nodes
from aigc_calibration.config import QuantConfig
from aigc_calibration.onnx_file import to_proto
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import quantize
from aigc_calibration.sites import inner_sites
from aigc_export.errors import CaptureError
from aigc_export.graphs.capture import Captured, capture
from aigc_export.graphs.passes import CLEAN_UP, run_passes
from aigc_export.parity.bisect import find_first_divergence
from aigc_runtime.core.compare import Tolerance, compare_arrays
from aigc_runtime.core.tensors import Array

from ...calibration.conftest import Batches
from ..conftest import tiny_of


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 64)


class Chooses(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.first(latents)
        x = torch.cond(class_labels.sum() > 0, lambda v: torch.tanh(self.second(v)), lambda v: self.third(v), (x,))
        return (x.reshape(-1, 1, 8, 8),)


class Repeats(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        from torch._higher_order_ops.while_loop import while_loop

        def step(i: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return i + 1, torch.tanh(self.second(v))

        x = self.first(latents) + class_labels[:, None]
        _, x = while_loop(lambda i, v: i < 3, step, (torch.tensor(0), x))  # type: ignore[no-untyped-call]
        return (x.reshape(-1, 1, 8, 8),)


class DrawsInABranch(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.first(latents)
        x = torch.cond(class_labels.sum() > 0, lambda v: v + torch.randn_like(v), lambda v: self.third(v), (x,))
        return (x.reshape(-1, 1, 8, 8),)


def captured(module: nn.Module) -> Captured:
    return capture(replace(tiny_of("gan").program.part, module=module.eval()))


def feeds_of(label: int, rows: int = 8) -> dict[str, Array]:
    rng = np.random.default_rng(rows)
    return {"latents": rng.standard_normal((rows, 6)).astype(np.float32), "class_labels": np.full(rows, label)}


@pytest.mark.parametrize(("make", "kind", "bodies"), [(Chooses, "If", 2), (Repeats, "Loop", 1)])
def test_bodies_are_captured_rewritten_bisected_and_left_float(
    make: Callable[[], nn.Module], kind: str, bodies: int
) -> None:
    module = make()
    found = captured(module)
    assert not [key for node in all_nodes(found.model) for key in node.metadata_props if key.endswith("stack_trace")]
    shapes = [v.shape for graph in all_graphs(found.model) for node in graph for v in node.outputs]
    dims = {str(dim) for shape in shapes if shape is not None for dim in shape if not isinstance(dim, int)}
    assert dims == {"batch"}
    feeds = [feeds_of(0), feeds_of(1, 5)]
    graph, _ = run_passes(found.model, CLEAN_UP, feeds=feeds)
    assert [node.op_type for node in graph.graph].count(kind) == 1
    for one in feeds:
        divergence = find_first_divergence(
            to_proto(graph), found.program, one, output_names=["image"], tolerance=Tolerance(min_sqnr_db=60)
        )
        assert not divergence.found
        assert divergence.compared >= 3
    made = quantize(graph, Batches(tuple(feeds)), QuantConfig(), precision="int8", threads=1)
    inner = [op for op in made.plan.ops if op.within]
    assert len(inner) == bodies == len(inner_sites(prepare(graph)))
    assert all(op.precision == "float" and f"a body of the {kind} 'node_" in op.why for op in inner)
    run = open_onnx(made.graph, threads=1)
    for one in feeds:
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(value) for value in one.values()))[0].numpy()
        assert compare_arrays(expected, run(one)["image"]).sqnr_db > 25


def test_random_numbers_in_a_branch_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"(?s)draws random numbers.*randn_like"):
        captured(DrawsInABranch())
