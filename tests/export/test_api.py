"""The public names of the package: lazy, and each is what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import aigc_export
from aigc_runtime.errors import ConfigError


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_public_names_are_those_announced() -> None:
    for name in aigc_export.__all__:
        assert getattr(aigc_export, name) is not None
    assert set(aigc_export.__all__) == set(aigc_export._HOMES)
    assert set(dir(aigc_export)) >= set(aigc_export.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'exports'"):
        getattr(aigc_export, "exports")  # noqa: B009


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, aigc_export; assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_program_of_one_module_and_of_parts() -> None:
    x = torch.ones(2, 3)
    one = aigc_export.program(Doubles().eval(), x)
    assert (one.name, one.kind, list(one.parts), dict(one.engines)) == (
        "doubles",
        "tensors",
        ["model"],
        {"model": "model"},
    )
    parts = [aigc_export.part(Doubles().eval(), x, name=name) for name in ("first", "second")]
    two = aigc_export.program(parts, name="pair", model_config={"width": 3})
    assert (two.name, list(two.parts), dict(two.model_config)) == ("pair", ["first", "second"], {"width": 3})
    assert dict(two.engines) == {"first": "first", "second": "second"}
    assert [stage.role for stage in two.settings.stages] == ["first", "second"]
    free = aigc_export.program(Doubles().eval(), x, dims={"x": {0: "batch", 1: "width"}})
    assert free.settings.typical_sizes == {"batch": 2, "width": 3}


def test_programs_that_cannot_be() -> None:
    x = torch.ones(2, 3)
    part = aigc_export.part(Doubles().eval(), x)
    with pytest.raises(ConfigError, match="a module without example inputs"):
        aigc_export.program(Doubles().eval())
    with pytest.raises(ConfigError, match="example_inputs beside parts, which have their own"):
        aigc_export.program([part], {"x": x})
    with pytest.raises(ConfigError, match="two parts are called 'model'"):
        aigc_export.program([part, part])
    with pytest.raises(ConfigError, match="a program of kind 'text' without settings"):
        aigc_export.program([part], kind="text")
    with pytest.raises(ConfigError, match="the module is a str"):
        aigc_export.program("lm", x)  # type: ignore[arg-type]


def test_a_shipped_model_is_loaded_by_its_name() -> None:
    assert aigc_export.load("gan").kind == "gan"
    assert aigc_export.load("lm", cache="buffer").part.interface.state[0].kind == "buffer"
