"""A package of somebody else's that brings a source and a target, without a changed line in aigc-export.

    pip install examples/own_package
    aigc-export export path/to/mlp --target own-cpu -o out/mlp

The source loads folders whose config.json says `"model_type": "own-mlp"`. The target is ONNX Runtime on a CPU with one
more rewrite of the graph. A target with an engine of its own, and the back-end that opens it: `tests/toy_target/`.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import aigc_export
from aigc_export.targets.ort_cpu import ORT_CPU
from aigc_models.sources import Found


class Mlp(nn.Module):
    """Linear layers of the sizes in config.json."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class MlpSource:
    """Folders of config.json and model.safetensors."""

    def matches(self, found: Found) -> bool:
        """Whether a folder is one of ours."""
        return found.config is not None and found.config.get("model_type") == "own-mlp"

    def load(self, found: Found, options: Mapping[str, Any]) -> aigc_export.Program:
        """Load it; `options` are those of the command line, of which this model has none."""
        assert found.config is not None
        assert found.path is not None
        sizes = list(found.config["sizes"])
        module = Mlp(sizes).eval()
        module.load_state_dict(load_file(Path(found.path) / "model.safetensors"))
        program = aigc_export.program(module, {"x": torch.rand(2, sizes[0])}, dims={"x": {0: "batch"}}, name="mlp")
        return replace(program, source=found.model)


def name_nodes(model: ir.Model) -> ir.Model:
    """Give every node the name of its operator: `Gemm` -> `own_Gemm_0`.

    A pass is a function from model to model. It is checked after it ran: the graph must compute what it did before.
    """
    for i, node in enumerate(model.graph):
        node.name = f"own_{node.op_type}_{i}"
    return model


SOURCE = MlpSource()
TARGET = replace(
    ORT_CPU,
    name="own-cpu",
    summary="ONNX Runtime on a CPU, with nodes named by us",
    passes=(*ORT_CPU.passes, ("own-names", name_nodes)),
)
