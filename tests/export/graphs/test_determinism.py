"""A model that does not compute the same twice is refused by its operator and the user's line, right after capture."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_export.errors import CaptureError
from aigc_export.graphs.capture import capture
from aigc_export.graphs.determinism import check_deterministic, check_repeats, random_operators
from aigc_export.graphs.passes import run_passes
from aigc_models.program import Part
from aigc_models.sources.user_code import user_line
from aigc_runtime.core.tensors import Array, TensorSpec

from ..conftest import tiny_of

HERE = Path(__file__).read_text().splitlines()


def part_of(module: nn.Module) -> Part:
    """A module of [N, 6] latents and [N] labels."""
    return replace(tiny_of("gan").program.part, module=module)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 64)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(64)

    def body(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        projected: Tensor = self.linear(latents)
        return projected + class_labels[:, None]


class StyleNoise(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.body(latents, class_labels)
        noise = torch.randn(x.shape[0], 64)  # the line of randn
        return ((x + noise).reshape(-1, 1, 8, 8),)


class RandLike(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.body(latents, class_labels)
        x = x + torch.rand_like(x)  # the line of rand_like
        return (x.reshape(-1, 1, 8, 8),)


class Bernoulli(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.body(latents, class_labels)
        x = x * torch.bernoulli(torch.sigmoid(x))  # the line of bernoulli
        return (x.reshape(-1, 1, 8, 8),)


class Multinomial(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.body(latents, class_labels)
        x = x + torch.multinomial(torch.softmax(x, -1), 1)  # the line of multinomial
        return (x.reshape(-1, 1, 8, 8),)


class Permuted(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.body(latents, class_labels)
        x = x[:, torch.randperm(64)]  # the line of randperm
        return (x.reshape(-1, 1, 8, 8),)


class AlwaysDropped(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.body(latents, class_labels)
        x = F.dropout(x, 0.5, training=True)  # the line of dropout
        return (x.reshape(-1, 1, 8, 8),)


class Dropped(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.body(latents, class_labels)
        x = self.drop(x)  # the line of dropout in a module
        return (x.reshape(-1, 1, 8, 8),)


class Normed(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.body(latents, class_labels)
        x = self.norm(x)  # the line of batch_norm
        return (x.reshape(-1, 1, 8, 8),)


def line_of(comment: str) -> int:
    return next(i for i, line in enumerate(HERE, start=1) if line.endswith(f"# the line of {comment}"))


def program_of(module: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(module, (torch.randn(4, 6), torch.arange(4)), strict=False)


def of_program(module: nn.Module) -> None:
    check_deterministic(program_of(module))


def of_capture(module: nn.Module) -> None:
    capture(part_of(module))


@pytest.mark.parametrize(
    ("check", "module", "operator", "comment"),
    [
        (of_capture, StyleNoise, "aten.randn", "randn"),
        (of_program, StyleNoise, "aten.randn", "randn"),
        (of_program, RandLike, "aten.rand_like", "rand_like"),
        (of_program, Bernoulli, "aten.bernoulli", "bernoulli"),
        (of_program, Multinomial, "aten.multinomial", "multinomial"),
        (of_capture, Permuted, "aten.randperm", "randperm"),  # which ONNX has not
    ],
)
def test_random_numbers_are_refused_by_operator_and_line(
    check: Callable[[nn.Module], None], module: type[Base], operator: str, comment: str
) -> None:
    where = f"{operator} at {__file__}:{line_of(comment)} in forward: "
    with pytest.raises(CaptureError, match=re.escape(where)) as caught:
        check(module().eval())
    assert caught.value.message.startswith("the model draws random numbers while it runs: ")
    assert "take the noise as an argument of forward, or register it once as a buffer" in caught.value.hint


@pytest.mark.parametrize(
    ("check", "module", "comment"),
    [
        (of_capture, AlwaysDropped, "dropout"),
        (of_program, AlwaysDropped, "dropout"),
        (of_program, Dropped, "dropout in a module"),
        (of_program, Normed, "batch_norm"),
        pytest.param(of_capture, Normed, "batch_norm", marks=pytest.mark.slow),
    ],
)
def test_what_behaves_as_in_training_is_refused_with_eval_as_the_way_out(
    check: Callable[[nn.Module], None], module: type[Base], comment: str
) -> None:
    where = f"{comment.split(maxsplit=1)[0]}[a-z_]* at {re.escape(__file__)}:{line_of(comment)} in forward: "
    with pytest.raises(CaptureError, match=where) as caught:
        check(module().train())
    assert "call .eval() on the module" in caught.value.hint


@pytest.mark.parametrize("module", [Dropped, Normed])
def test_the_same_modules_in_evaluation_mode_compute_the_same_twice(module: type[Base]) -> None:
    assert not list(random_operators(program_of(module().eval())))


class Attention(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        x = latents[:, None]
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.dropout) + class_labels[:, None, None]


class InstanceNorm(nn.Module):
    def forward(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        return F.instance_norm(latents[:, None]) + class_labels[:, None, None]


@pytest.mark.parametrize(
    ("make", "found"),
    [(lambda: Attention(0.0), 0), (lambda: Attention(0.5), 1), (InstanceNorm, 0)],
)
def test_operators_that_may_be_random_are_judged_by_their_arguments(make: Callable[[], nn.Module], found: int) -> None:
    operators = list(random_operators(program_of(make())))
    assert len(operators) == found
    assert all(__file__ in operator.where for operator in operators)


class NoiseAsInput(Base):
    """What the message asks for: the noise is an argument, and the caller's."""

    def forward(self, latents: Tensor, class_labels: Tensor, noise: Tensor) -> tuple[Tensor]:
        return ((self.body(latents, class_labels) + noise).reshape(-1, 1, 8, 8),)


class FixedNoise(Base):
    """Or fixed once, as a part of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("noise", torch.randn(1, 64))
        self.noise: Tensor

    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        return ((self.body(latents, class_labels) + self.noise).reshape(-1, 1, 8, 8),)


def test_noise_as_an_input_and_fixed_noise_are_taken() -> None:
    assert capture(part_of(FixedNoise().eval())).model.graph
    part = part_of(NoiseAsInput().eval())
    noise = TensorSpec(name="noise", dtype="float32", shape=("batch", 64))
    captured = capture(replace(part, interface=replace(part.interface, inputs=(*part.interface.inputs, noise))))
    assert [v.name for v in captured.model.graph.inputs] == ["latents", "class_labels", "noise"]


class DrawsInPython(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        return ((self.body(latents, class_labels) + random.random()).reshape(-1, 1, 8, 8),)


class DrawsInNumpy(Base):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        x = self.body(latents, class_labels)
        return ((x + float(np.random.rand())).reshape(-1, 1, 8, 8),)  # noqa: NPY002 - as users do


class Counts(Base):
    calls = 0

    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        self.calls += 1
        return ((self.body(latents, class_labels) + self.calls).reshape(-1, 1, 8, 8),)


@pytest.mark.parametrize("module", [DrawsInPython, DrawsInNumpy, Counts])
def test_what_changes_from_call_to_call_outside_of_pytorch_is_refused(module: type[Base]) -> None:
    """A number that Python draws is a constant of the captured program: no operator tells of it."""
    torch.manual_seed(0)
    model = module().eval()
    assert not list(random_operators(program_of(model)))
    with pytest.raises(CaptureError, match=r"output 'image' changes from call to call \(by .* of its RMS\), and no op"):
        capture(part_of(model))


class Creeps(Base):
    """Its first two calls are all but alike, as drawn numbers may be by chance."""

    added = (0.0, 1e-6, 1.0)

    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        now, *self.added = self.added  # type: ignore[assignment]
        return ((self.body(latents, class_labels) + now).reshape(-1, 1, 8, 8),)


def test_two_calls_that_are_alike_by_chance_say_nothing() -> None:
    torch.manual_seed(0)
    feeds: dict[str, Array] = {"latents": np.ones((1, 6), np.float32), "class_labels": np.zeros(1, np.int64)}
    with pytest.raises(CaptureError, match="changes from call to call"):
        check_repeats(part_of(Creeps().eval()), feeds)


class Branching(nn.Module):
    def forward(self, latents: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        if latents.sum() > 0:  # the line of a branch
            return (latents.reshape(-1, 1, 2, 3),)
        return ((latents * class_labels[:, None]).reshape(-1, 1, 2, 3),)


def test_a_branch_that_depends_on_data_is_named_by_its_line() -> None:
    where = f"by the numbers in a tensor at {__file__}:{line_of('a branch')} in forward: if latents.sum() > 0:"
    with pytest.raises(CaptureError, match=re.escape(where)):
        capture(part_of(Branching()))


def test_a_graph_whose_two_runs_differ_is_refused_before_any_pass() -> None:
    x = ir.Value(name="x", shape=ir.Shape((4, 5)), type=ir.TensorType(ir.DataType.FLOAT))
    noise = ir.node("RandomNormalLike", [x])
    add = ir.node("Add", [x, noise.outputs[0]])
    add.outputs[0].name, add.outputs[0].shape, add.outputs[0].type = "y", x.shape, x.type
    model = ir.Model(
        ir.Graph([x], [add.outputs[0]], nodes=[noise, add], opset_imports={"": 20}, name="g"), ir_version=10
    )
    with pytest.raises(CaptureError, match="two runs of the captured graph on the same inputs differ in 'y'"):
        run_passes(model, [], feeds=[{"x": np.ones((4, 5), np.float32)}])


def test_a_trace_without_frames_has_no_line() -> None:
    assert user_line("") == ""
    assert user_line(f'File "{torch.__file__}", line 3, in f\n  g()') == f"at {torch.__file__}:3 in f: g()"
