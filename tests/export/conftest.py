"""Tiny untrained models of the three families, each captured once per session."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxscript._framework_apis import torch_2_11 as onnxscript_apis

from aigc_calibration.onnx_file import to_proto
from aigc_export.graphs.capture import Captured, capture
from aigc_export.graphs.passes import PassReport, run_passes
from aigc_export.line.exporter import ExportResult, export_model
from aigc_export.prepare import prepare as front
from aigc_export.recipes.recipe import ExportRecipe, export_recipe
from aigc_export.targets.tensorrt.library import Library, load_library
from aigc_export.tools import verifier
from aigc_models.example_sizes import example_sizes
from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.unet import UNet
from aigc_models.families.unet_config import UNetConfig
from aigc_models.program import Part, Program, example_feeds
from aigc_models.programs import gan_program, lm_program, unet_program
from aigc_models.torch_session import TorchSession
from aigc_models.weights.checkpoint import save_checkpoint
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.jsonable import to_json


def tiny_lm(**changes: Any) -> TransformerLM:
    sizes = {"vocab_size": 256, "context_length": 96, "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    config: dict[str, Any] = {**sizes, "d_ff": 48, **changes}
    return TransformerLM(LMConfig(**config))


def tiny_unet() -> UNet:
    return UNet(
        UNetConfig(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            num_class_embeds=11,
            null_class=10,
            norm_num_groups=4,
        )
    )


def tiny_cross_unet() -> UNet:
    return UNet(
        UNetConfig(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            num_attention_heads=2,
            cross_attention_dim=12,
            norm_num_groups=4,
        )
    )


def tiny_gan(**changes: Any) -> Generator:
    config = {"image_size": 8, "latent_size": 6, "num_classes": 10, "class_embedding_size": 3, "base_channels": 4}
    generator = Generator(GeneratorConfig(**{**config, **changes}))
    generator.train()
    for _ in range(3):  # BatchNorm statistics other than the initial ones
        generator(torch.randn(8, 6), torch.randint(10, (8,)))
    return generator


SCHEDULE = ScheduleConfig(num_train_timesteps=100)
SPECS: dict[str, Callable[[], Program]] = {
    "lm-growing": lambda: lm_program(tiny_lm(), cache="growing"),
    "lm-buffer": lambda: lm_program(tiny_lm(), cache="buffer"),
    "unet": lambda: unet_program(tiny_unet(), SCHEDULE),
    "unet-cross": lambda: unet_program(tiny_cross_unet(), SCHEDULE, dynamic_size=True),
    "gan": lambda: gan_program(tiny_gan()),
}
FAMILIES = ("lm-growing", "unet", "gan")


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """The tensor of an initializer."""
    assert value.const_value is not None
    return value.const_value


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A model, its graph, and what PyTorch computes; tests copy before they change anything."""

    name: str
    program: Program
    captured: Captured

    def feeds(self, seed: int = 0, **sizes: int) -> dict[str, Array]:
        """Arrays for every input of the graph."""
        return example_feeds(self.program.part, {**example_sizes(self.program.part), **sizes}, seed=seed)

    def torch_outputs(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """What the module itself returns."""
        with torch.no_grad():
            results = self.program.part.module(
                *(torch.from_numpy(feeds[t.name]) for t in self.program.part.interface.graph_inputs)
            )
        return {name: r.numpy() for name, r in zip(self.program.part.interface.graph_outputs, results, strict=True)}

    def session(self) -> TorchSession:
        """PyTorch's session."""
        return TorchSession(self.program.part)


def with_part(program: Program, **changes: Any) -> Program:
    """The program with its only part changed."""
    return replace(program, parts={program.part.name: replace(program.part, **changes)})


def make_program(name: str, seed: int = 0) -> Program:
    """A fresh tiny model with weights far enough from their initial values that every path is seen."""
    torch.manual_seed(seed)
    program = SPECS[name]()
    with torch.no_grad():
        for parameter in program.part.module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return with_part(program, module=program.part.module.eval())


def quiet_capture(program: Program) -> Captured:
    """`capture`, which silences the exporter itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return capture(program.part, model_config=program.model_config)


@cache
def tiny_of(name: str) -> Tiny:
    program = make_program(name)
    return Tiny(name=name, program=program, captured=quiet_capture(program))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _onnx_functions_read_once() -> Iterator[None]:
    """PyTorch's exporter parses the sources of its 500 ONNX functions again in every export, which takes 0.4 s."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(onnxscript_apis, "get_torchlib_ops", cache(onnxscript_apis.get_torchlib_ops))
        yield


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Tiny]:
    """Name of `SPECS` -> the captured model."""
    return tiny_of


@pytest.fixture(scope="session", params=list(SPECS))
def each(request: pytest.FixtureRequest) -> Tiny:
    """Every tiny model in turn."""
    return tiny_of(request.param)


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Tiny:
    """One tiny model of every family in turn."""
    return tiny_of(request.param)


_CAPTURED: dict[str, Captured] = {}
_REWRITTEN: dict[tuple[str, object], tuple[ir.Model, list[PassReport]]] = {}


def copied(model: ir.Model) -> ir.Model:
    """A graph that may be changed."""
    return ir.from_proto(to_proto(model))


@contextmanager
def captured_once() -> Iterator[None]:
    """A graph of the same module, weights and sizes is captured and rewritten once in a process."""
    given: dict[int, tuple[str, ir.Model]] = {}

    def captured(part: Part, *, opset: int = 20, model_config: Mapping[str, Any] | None = None) -> Captured:
        digest = hashlib.sha256(repr((part.interface.inputs, part.interface.state, opset, part.module)).encode())
        for tensor in part.module.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        key = f"{digest.hexdigest()} {model_config}"
        if key not in _CAPTURED:
            _CAPTURED[key] = capture(part, opset=opset, model_config=model_config)
            # A configuration is a label on the graph: who gives none takes any.
            _CAPTURED.setdefault(f"{digest.hexdigest()} None", _CAPTURED[key])
        model = copied(_CAPTURED[key].model)
        given[id(model)] = key, model
        return replace(_CAPTURED[key], model=model)

    def rewritten(model: ir.Model, passes: Any, *, feeds: Any) -> tuple[ir.Model, list[PassReport]]:
        kept = given[id(model)][0], tuple(passes)
        if kept not in _REWRITTEN:
            _REWRITTEN[kept] = run_passes(copied(model), passes, feeds=feeds)
        graph, reports = _REWRITTEN[kept]
        return copied(graph), reports

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(front, "capture", captured)
        patched.setattr(verifier, "capture", captured)
        patched.setattr(front, "run_passes", rewritten)
        yield


@pytest.fixture
def capture_once() -> Iterator[None]:
    """Every graph is captured and rewritten once for all tests of what comes behind that."""
    with captured_once():
        yield


@pytest.fixture(scope="session")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'aigc-export[rtx]'")
    return load_library("tensorrt-rtx")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


TINY: dict[str, Callable[[], Any]] = {"lm": lambda: tiny_lm(), "unet": tiny_unet, "gan": tiny_gan}


def write_checkpoint(folder: Path, name: str, seed: int = 0, make: Callable[[], Any] | None = None) -> Path:
    """A tiny untrained model of the family, as the user's own checkpoint."""
    torch.manual_seed(seed)
    module = (make or TINY[name])()
    record = {"family": name, "model": module.config.to_dict()}
    if name == "unet":
        record["schedule"] = to_json(SCHEDULE)
        record["class_names"] = [f"kind-{i}" for i in range(10)]
    if name == "gan":
        record["class_names"] = [f"kind-{i}" for i in range(module.config.num_classes)]
    if name == "lm":
        record["tokenizer"] = {"kind": "bytes"}
    save_checkpoint(folder, module, record)
    return folder


def recipe_of(name: str, checkpoint: Path, **changes: Any) -> ExportRecipe:
    return export_recipe(name, checkpoint=str(checkpoint), quality_samples=0, threads=1, **changes)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in TINY:
        write_checkpoint(folder / name, name)
    return folder


@pytest.fixture(scope="session")
def results(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportResult]:
    """The line run once per family."""
    folder = tmp_path_factory.mktemp("exported")
    with captured_once():
        return {name: export_model(recipe_of(name, checkpoints / name), folder / name) for name in TINY}


@pytest.fixture
def copies(results: dict[str, ExportResult], tmp_path: Path) -> Path:
    """Bundles that may be changed."""
    for name, result in results.items():
        shutil.copytree(result.bundle.path, tmp_path / name)
    return tmp_path
