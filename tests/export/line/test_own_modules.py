"""Modules that nobody adapted go from PyTorch to a bundle, in fp32 and in int8, by a few lines of Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import aigc_export
from aigc_export import DimSpec, Program, StateSpec
from aigc_runtime import open_pipeline, verify_bundle
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.opening import open_program

from .own_modules import DCGAN, Encoder, LSTMStep, RRDBNet, ScaleShiftUNet


def made(module: nn.Module) -> nn.Module:
    """With weights and running statistics unlike their initial values."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 1.0, 0.3 / parameter[0].numel() ** 0.25)
    return module.eval()


def upscaler() -> Program:
    sides = {"image": {2: "height", 3: "width"}}
    return aigc_export.program(made(RRDBNet()), {"image": torch.rand(1, 3, 16, 12)}, dims=sides)


def unet() -> Program:
    even = {axis: DimSpec(name=name, min=4, multiple_of=2) for axis, name in ((2, "height"), (3, "width"))}
    example = {"x": torch.randn(2, 1, 8, 12), "t": torch.tensor([10, 700])}
    dims: dict[str, dict[int, str | DimSpec]] = {"x": {0: "batch", **even}, "t": {0: "batch"}}
    return aigc_export.program(made(ScaleShiftUNet()), example, dims=dims, bounds={"t": (0, 1000)})


def dcgan() -> Program:
    return aigc_export.program(made(DCGAN()), torch.randn(4, 16, 1, 1), dims={"z": {0: "batch"}})


def encoder() -> Program:
    ids = torch.randint(1, 50, (2, 9))
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    dims = {name: {0: "batch", 1: "tokens"} for name in ("batch_ids", "batch_mask")}
    example = {"batch": {"ids": ids, "mask": mask}}
    return aigc_export.program(made(Encoder()), example, dims=dims, bounds={"batch_ids": (0, 50)})


def lstm() -> Program:
    example = {"x": torch.randn(3, 4), "h": torch.randn(3, 8), "c": torch.randn(3, 8)}
    state = [
        StateSpec(input=name, output=f"output_{i}", dtype="float32", shape=("batch", 8), kind="recurrent")
        for i, name in ((1, "h"), (2, "c"))
    ]
    return aigc_export.program(made(LSTMStep()), example, dims={"x": {0: "batch"}}, state=state)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "upscaler": upscaler,
    "unet": unet,
    "dcgan": dcgan,
    "encoder": encoder,
    "lstm": lstm,
}


CASES = [
    pytest.param(name, precision, marks=[] if (name, precision) == ("lstm", "fp32") else pytest.mark.slow)
    for name in PROGRAMS
    for precision in ("fp32", "int8")
]


@pytest.mark.usefixtures("capture_once")
@pytest.mark.parametrize(("name", "precision"), CASES)
def test_modules_that_nobody_adapted(name: str, precision: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]()
    result = aigc_export.export(
        program, precision=precision, output=tmp_path / "out", quality_samples=8, threads=1, seed=3
    )
    assert result.report.passed
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.manifest.pipeline.kind == "tensors"
    assert bundle.manifest.precision == precision
    with open_program(bundle) as opened:
        assert verify_bundle(bundle, opened).passed
    found = aigc_export.verify(bundle, model=program, quality_samples=4)
    assert found.report.passed, found.report.failures
    if precision == "int8":
        assert result.coverage is not None
        assert result.coverage.executed


@pytest.mark.usefixtures("capture_once")
def test_a_bundle_computes_what_the_module_does_at_any_size(tmp_path: Path) -> None:
    module = made(RRDBNet())
    aigc_export.export(upscaler(), output=tmp_path / "out", quality_samples=0, threads=1)
    image = np.random.default_rng(1).random((1, 3, 7, 20), dtype=np.float32)
    with open_pipeline(tmp_path / "out") as pipeline:
        large = pipeline.generate({"image": image})["output"]
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
    assert large.shape == (1, 3, 28, 80)
    np.testing.assert_allclose(large, expected, atol=1e-4 * float(np.abs(expected).max()))


def parts(seed: int = 0) -> dict[str, Any]:
    """Three modules: the context of an image, a step of a loop over it, and an image of the result."""
    torch.manual_seed(seed)

    class Encodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1)

        def forward(self, picture: torch.Tensor) -> dict[str, torch.Tensor]:
            context = self.conv(picture)
            return {"context": context, "start": context * 0}

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 4, 3, padding=1)

        def forward(self, start: torch.Tensor, context: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"latent": torch.tanh(self.conv(torch.cat([start, context], 1)))}

    class Decodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 1, 1)

        def forward(self, latent: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"image": self.conv(latent)}

    return {"encoder": Encodes().eval(), "loop": Steps().eval(), "decoder": Decodes().eval()}


def three_parts() -> Program:
    from aigc_runtime.pipelines.tensors import Stage, TensorsSettings

    modules, picture, hidden = parts(), torch.randn(2, 1, 8, 8), torch.randn(2, 4, 8, 8)
    rows = {0: "batch"}
    made_parts = [
        aigc_export.part(modules["encoder"], {"picture": picture}, dims={"picture": rows}, name="encoder"),
        aigc_export.part(
            modules["loop"],
            {"start": hidden, "context": hidden},
            dims={"start": rows, "context": rows},
            name="loop",
        ),
        aigc_export.part(modules["decoder"], {"latent": hidden}, dims={"latent": rows}, name="decoder"),
    ]
    stages = (
        Stage(role="encoder"),
        Stage(role="loop", repeat=5, feedback={"latent": "start"}),
        Stage(role="decoder"),
    )
    return aigc_export.program(made_parts, name="refiner", settings=TensorsSettings(stages=stages))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_program_of_three_engines(precision: str, tmp_path: Path) -> None:
    program = three_parts()
    samples: dict[str, Any] = {} if precision == "fp32" else {"calibration_samples": 8}
    told: list[tuple[str, str]] = []
    samples["stage"] = lambda name, what: told.append((name, what))
    result = aigc_export.export(
        program, precision=precision, output=tmp_path / "out", quality_samples=4, threads=1, **samples
    )
    assert all(what.startswith("loop: ") for name, what in told if name in {"calibrate", "quantize", "left float"})
    bundle = result.bundle
    assert list(bundle.manifest.engines) == ["encoder", "loop", "decoder"]
    # The engine has no integer kernels for convolutions of one channel: these parts stay float, and that is said.
    assert set(result.coverages) == (set() if precision == "fp32" else {"loop"})
    stays = [warning for warning in result.warnings if "stays float: nothing in the graph" in warning]
    assert len(stays) == (2 if precision == "int8" else 0)
    with open_program(bundle) as opened:
        assert verify_bundle(bundle, opened).passed
    assert aigc_export.verify(bundle, model=program, quality_samples=2).report.passed
    picture = np.random.default_rng(0).standard_normal((3, 1, 8, 8), dtype=np.float32)
    with open_pipeline(tmp_path / "out") as pipeline:
        image = pipeline.generate({"picture": picture})["image"]
    modules = parts()
    with torch.no_grad():
        found = modules["encoder"](torch.from_numpy(picture))
        value = found["start"]
        for _ in range(5):
            value = modules["loop"](value, found["context"])["latent"]
        expected = modules["decoder"](value)["image"].numpy()
    noise = np.square(image - expected).mean() / np.square(expected).mean()
    assert noise < (1e-10 if precision == "fp32" else 1e-2)
