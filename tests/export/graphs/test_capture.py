"""Captured graphs compute what PyTorch computes, at every size, and say what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from aigc_calibration.onnx_file import save_graph, to_proto, weight_bytes
from aigc_export.errors import CaptureError
from aigc_export.graphs.capture import capture
from aigc_models.example_sizes import example_sizes
from aigc_models.program import Program
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CheckpointError

from ..conftest import Tiny, make_program, tiny_of


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_interface_names_and_dimensions(each: Tiny) -> None:
    proto = to_proto(each.captured.model)
    onnx.checker.check_model(proto, full_check=True)
    found = {i.name: tuple(d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim) for i in proto.graph.input}
    assert found == {t.name: t.shape for t in each.program.part.interface.graph_inputs}
    assert [o.name for o in proto.graph.output] == list(each.program.part.interface.graph_outputs)
    assert {o.version for o in proto.opset_import if o.domain == ""} == {20}


def test_other_sizes_than_the_examples_match_pytorch(each: Tiny) -> None:
    proto = to_proto(each.captured.model)
    examples, units = example_sizes(each.program.part), each.program.part.interface.dims_by_name
    smallest = {name: max(d.min, d.multiple_of) for name, d in units.items()}
    larger = {name: size + 2 * units[name].multiple_of for name, size in examples.items()}
    for sizes in (examples, smallest, larger):
        feeds = each.feeds(**{name: min(n, units[name].max or n) for name, n in sizes.items()})
        actual, expected = run(proto, feeds), each.torch_outputs(feeds)
        for name, value in expected.items():
            np.testing.assert_allclose(actual[name], value, rtol=2e-4, atol=2e-5, err_msg=f"{name} at {sizes}")


def test_the_configuration_travels_and_no_local_path_does(each: Tiny) -> None:
    proto = to_proto(each.captured.model)
    properties = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(properties["aigc.model_config"]) == json.loads(json.dumps(each.program.model_config))
    assert proto.producer_name == "aigc-export"
    raw = proto.SerializeToString()
    for path in (str(Path(__file__).parents[3]), str(Path(torch.__file__).parent), str(Path.home())):
        assert path.encode() not in raw
    assert any(p.key == "pkg.torch.onnx.name_scopes" for node in proto.graph.node for p in node.metadata_props)


def test_a_weight_that_is_not_finite_is_named() -> None:
    program = make_program("gan")
    name, parameter = next(iter(program.part.module.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match=f"tensor '{name}' of the model holds NaN or infinity"):
        capture(program.part)


class Branching(torch.nn.Module):
    def forward(self, latents: torch.Tensor, class_labels: torch.Tensor) -> tuple[torch.Tensor]:
        if latents.sum() > 0:
            return (latents.reshape(-1, 1, 2, 3),)
        return ((latents * class_labels[:, None]).reshape(-1, 1, 2, 3),)


def test_a_module_that_cannot_be_exported_says_why() -> None:
    with pytest.raises(
        CaptureError,
        match=r"Branching cannot be exported: forward decides by the numbers in a tensor at "
        r".*test_capture\.py:75 in forward: if latents\.sum\(\) > 0",
    ):
        capture(replace(tiny_of("gan").program.part, module=Branching()))


def test_capture_leaves_the_module_as_it_was() -> None:
    program: Program = make_program("unet")
    before = {k: v.clone() for k, v in program.part.module.state_dict().items()}
    capture(program.part)
    assert all(torch.equal(v, before[k]) for k, v in program.part.module.state_dict().items())


def test_large_weights_go_beside_the_graph(tmp_path: Path) -> None:
    tiny = tiny_of("unet")
    model = tiny.captured.model
    alone = save_graph(model, tmp_path / "a.onnx")
    assert [p.name for p in alone] == ["a.onnx"]
    both = save_graph(model, tmp_path / "b.onnx", threshold=weight_bytes(model))
    assert [p.name for p in both] == ["b.onnx", "b.onnx.data"]
    moved = both[1].stat().st_size
    assert moved > weight_bytes(model) / 2  # what is small stays with the graph
    assert both[0].stat().st_size < alone[0].stat().st_size - 0.9 * moved
    feeds = tiny.feeds()
    outputs = [
        onnxruntime.InferenceSession(str(p[0]), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for p in (alone, both)
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize("name", ["lm-growing", "lm-buffer"])
def test_the_head_multiplies_only_the_places_that_are_asked_for(name: str) -> None:
    """Else a prompt takes memory for its length times the vocabulary, whatever is read of it."""
    tiny = tiny_of(name)
    proto = onnx.shape_inference.infer_shapes(to_proto(tiny.captured.model), data_prop=True)
    vocab_size, width = tiny.program.settings.vocab_size, tiny.program.model_config["d_model"]
    known = {v.name: v.type.tensor_type.shape.dim for v in (*proto.graph.value_info, *proto.graph.output)}
    shapes = {name: [d.dim_param or d.dim_value for d in dims] for name, dims in known.items()}
    (head,) = [node for node in proto.graph.node if node.op_type == "MatMul" and "logits" in node.output]
    assert shapes[head.input[0]] == ["batch", "kept", width]
    assert [name for name, shape in shapes.items() if shape[-1:] == [vocab_size] and "batch" in shape] == ["logits"]
    feeds = tiny.feeds(batch=2, sequence=9, kept=1, past=0, capacity=12)
    assert run(proto, feeds)["logits"].shape == (2, 1, vocab_size)
