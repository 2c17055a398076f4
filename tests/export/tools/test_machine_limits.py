"""What a step reads and multiplies, by hand; and rates that a machine has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from aigc_export.tools import machine_limits
from aigc_export.tools.machine_limits import MachineLimits, StepWork, measure_limits, multiplied_by, weights_read


def written(folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [2]),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), file)
    return file


def test_a_table_of_which_rows_are_looked_up_is_not_read_unless_a_product_reads_it(tmp_path: Path) -> None:
    table, weight = np.ones((100, 8), np.float32), np.ones((8, 4), np.float16)
    look = helper.make_node("Gather", ["table", "ids"], ["rows"])
    cast = helper.make_node("Cast", ["weight"], ["w"], to=TensorProto.FLOAT)
    product = helper.make_node("MatMul", ["rows", "w"], ["y"])
    assert weights_read(written(tmp_path, [look, cast, product], {"table": table, "weight": weight})) == 8 * 4 * 2
    tied = helper.make_node("Gemm", ["rows", "table"], ["y"], transB=1)
    assert weights_read(written(tmp_path, [look, tied], {"table": table})) == 100 * 8 * 4
    # Ids that are a constant are read.
    fixed = helper.make_node("Gather", ["table", "fixed"], ["y"])
    assert weights_read(written(tmp_path, [fixed], {"table": table, "fixed": np.zeros(3, np.int64)})) == 24


def test_graphs_inside_nodes_count_and_data_beside_the_file_is_not_needed(tmp_path: Path) -> None:
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    inside = helper.make_graph([helper.make_node("Mul", ["big", "big"], ["z"])], "a", [], out)
    node = helper.make_node("If", ["on"], ["y"], then_branch=inside, else_branch=inside)
    file = written(tmp_path, [node], {"big": np.ones(1000, np.float32)})
    assert weights_read(file) == 4000
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    (tmp_path / "model.onnx.data").unlink()
    assert weights_read(file) == 4000


def test_what_pytorch_multiplies() -> None:
    linear, conv = torch.nn.Linear(16, 32), torch.nn.Conv2d(3, 8, 3, padding=1)
    with torch.inference_mode():
        assert multiplied_by(lambda: linear(torch.ones(5, 16))) == 2 * 5 * 16 * 32
        assert multiplied_by(lambda: conv(torch.ones(1, 3, 10, 10))) == 2 * 100 * 8 * 27


def test_the_machine_has_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_limits, "READ_BYTES", 2**22)
    monkeypatch.setattr(machine_limits, "SIDE", 128)
    before = torch.get_num_threads()
    found = measure_limits(1)
    assert torch.get_num_threads() == before
    assert 1e7 < found.read_bytes_per_s < 1e13
    assert 1e7 < found.fp32_flops_per_s < 1e14


def test_shares() -> None:
    limits = MachineLimits(read_bytes_per_s=1e10, fp32_flops_per_s=1e11)
    work = StepWork(seconds=0.01, weight_bytes=50_000_000, flops=10**8)
    assert work.read_share(limits) == pytest.approx(0.5)
    assert work.flops_share(limits) == pytest.approx(0.1)
    assert StepWork(seconds=0.01, weight_bytes=None, flops=1).read_share(limits) is None
