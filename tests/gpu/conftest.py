"""What a GPU's tests need; where something is missing they are skipped, and say what."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aigc_export.line.exporter import export_model
from aigc_export.recipes.recipe import export_recipe
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_models.sources.shipped import load_shipped
from aigc_models.torch_session import TorchSession
from aigc_runtime.backends.trt.cuda import load_cuda
from aigc_runtime.backends.trt.rebuild import LEAST_CAPABILITY, RTX_CAPABILITIES
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.session import Session
from aigc_runtime.device.capability import capability_number
from aigc_runtime.device.probe import Gpu, probe_device
from aigc_runtime.opening import open_session


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The first GPU, as the driver names it."""
    device = probe_device()
    if not device.gpus:
        pytest.skip("no CUDA device: the driver knows none")
    return device.gpus[0]


def require_package(module: str, install: str) -> None:
    """Skip where a package is not installed. One that is installed and does not load is a failure."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of a package above it
        found = None
    if found is None:
        pytest.skip(f"{module} is not installed: {install}")


def free_bytes() -> int:
    """Of device memory, as the driver counts it."""
    require_package("cuda.bindings.runtime", "pip install cuda-bindings")
    load_cuda().use()
    from cuda.bindings import runtime

    status, free, _ = runtime.cudaMemGetInfo()
    assert int(status) == 0
    return int(free)


@pytest.fixture(scope="session", params=["tensorrt-rtx", "tensorrt"])
def target(request: pytest.FixtureRequest, gpu: Gpu) -> str:
    """A target that can be built for this GPU and run on it."""
    require_package("cuda.bindings.runtime", "pip install cuda-bindings")
    if request.param == "tensorrt-rtx":
        require_package("tensorrt_rtx", "pip install 'aigc-export[rtx]'")
        if gpu.compute_capability not in RTX_CAPABILITIES:
            pytest.skip(f"TensorRT-RTX does not serve compute capability {gpu.compute_capability} ({gpu.name})")
    else:
        require_package("tensorrt", "install the TensorRT of this system")
    return str(request.param)


def lacks(gpu: Gpu, target: str, precision: str) -> str | None:
    """Why a precision is not built for a GPU, or None."""
    least = LEAST_CAPABILITY.get(precision, "1.0")
    if capability_number(gpu.compute_capability) < capability_number(least):
        return f"{precision} needs compute capability {least}, {gpu.name} has {gpu.compute_capability}"
    if target == "tensorrt-rtx" and gpu.compute_capability == "7.5" and precision != "fp16":
        return f"TensorRT-RTX multiplies matrices in fp16 alone on compute capability 7.5 ({gpu.name})"
    return None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle that was built for this GPU, and the model that it was made from."""

    bundle: Bundle
    reference: TorchSession

    def open(self) -> Session:
        """A new session."""
        return open_session(self.bundle)


Export = Callable[..., Exported]


@pytest.fixture(scope="session")
def export(target: str, gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """export(model, precision, **spec_options), each of them built once."""
    made: dict[Any, Exported] = {}

    def build(model: str, precision: str = "fp32", **options: Any) -> Exported:
        if (why := lacks(gpu, target, precision)) is not None:
            pytest.skip(why)
        key = (model, precision, *sorted(options.items()))
        if key not in made:
            capabilities = (gpu.compute_capability,) if target == "tensorrt-rtx" else ()
            recipe = export_recipe(
                model,
                target=target,
                precision=precision,
                quality_samples=0,
                build=BuildSettings(compute_capabilities=capabilities),
                spec_options=options,
            )
            folder = tmp_path_factory.mktemp("bundle") / "-".join(map(str, key[:2]))
            bundle = export_model(recipe, folder).bundle
            made[key] = Exported(bundle=bundle, reference=TorchSession(load_shipped(model, options=options).part))
        return made[key]

    return build


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads kernels that another one compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "aigc-runtime"
