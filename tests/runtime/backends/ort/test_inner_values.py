"""What a run of large inner values takes: the same memory at the second run as at the first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")

SIDE, VALUES = 2048, 6
"""Six inner values of 16 MiB, all of which are there at once."""

RUN = """
import sys
from pathlib import Path
import numpy as np
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, StateSpec, TensorSpec

def resident():
    return [int(line.split()[1]) // 1024 for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")][0]

one = lambda name: TensorSpec(name=name, dtype="float32", shape=("rows", SIDE))
interface = Interface(inputs=(one("x"),), outputs=(one("y"),), dims=(DimSpec(name="rows"),))
session = OrtSession(Path(sys.argv[1]).read_bytes(), interface, threads=1)
x, seen = np.ones((SIDE, SIDE), dtype=np.float32), []
for _ in range(3):
    session.run({"x": x})
    seen.append(resident())
print(*seen)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of a process")
def test_a_second_run_takes_no_more_memory_than_the_first(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    names = [f"t{i}" for i in range(VALUES)]
    nodes = [helper.make_node("Mul", ["x", f"c{i}"], [f"m{i}"]) for i in range(VALUES)]
    nodes += [helper.make_node("Transpose", [f"m{i}"], [names[i]], perm=[1, 0]) for i in range(VALUES)]
    nodes.append(helper.make_node("Sum", names, ["y"]))
    constants = [helper.make_tensor(f"c{i}", TensorProto.FLOAT, [1], [i + 1.0]) for i in range(VALUES)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", SIDE]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    file = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file.write_bytes(model.SerializeToString())
    code = f"SIDE = {SIDE}\n{RUN}"
    told = subprocess.run([sys.executable, "-c", code, str(file)], check=True, capture_output=True, text=True).stdout
    first, _, last = map(int, told.split())
    assert last - first < SIDE * SIDE * 4 * VALUES / 2**20 / 4, told
