"""The work of a graph is counted from shapes alone, whose values are freed as the graph runs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import helper

from aigc_calibration.coverage import site_macs

from .conftest import make_graph

MIB = 2**20
LARGE = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from onnx import helper
from calibration.conftest import make_graph
from aigc_calibration.coverage import site_macs

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

weights = {{f"w{{i}}": np.eye(64, dtype=np.float32) for i in range(48)}}
nodes = [helper.make_node("MatMul", [f"v{{i}}", f"w{{i}}"], [f"v{{i + 1}}"], f"m{{i}}") for i in range(48)]
model = make_graph(nodes, weights, {{"v0": ["rows", 64]}}, {{"v48": ["rows", 64]}})
site_macs(model, {{"v0": np.zeros((8, 64), np.float32)}})
before = peak()
assert set(site_macs(model, {{"v0": np.zeros((32768, 64), np.float32)}}).values()) == {{32768 * 64 * 64}}
print(peak() - before)
"""


def test_multiplications_of_a_product_are_counted() -> None:
    """[2, 3] x [3, 5] takes 30 of them, and [2, 5] x [5, 2] takes 20."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Transpose", ["h"], ["t"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["h", "t"], ["y"], "second"),
    ]
    model = make_graph(nodes, {"w": np.ones((3, 5), np.float32)}, {"x": [2, 3]}, {"y": [2, 2]})
    assert site_macs(model, {"x": np.ones((2, 3), np.float32)}) == {"first": 30, "second": 20}
    assert [str(value.name) for value in model.graph.outputs] == ["y"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_more_than_a_few_values_are_held() -> None:
    """48 values of 8 MiB each would take 384 MiB."""
    from pathlib import Path

    code = LARGE.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert int(done.stdout) < 100 * MIB
