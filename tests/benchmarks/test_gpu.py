"""benchmarks/gpu.py where there is no GPU: it says so; its PyTorch side and its table work on any device."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from aigc_export.parity.reference import make_cases
from aigc_models.carried_form import fixed_capacity
from aigc_models.example_sizes import example_sizes
from aigc_models.program import example_feeds
from aigc_models.sources.shipped import load_shipped
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.device.probe import Device, Gpu, probe_device

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
GPU = Gpu(name="some GPU", compute_capability="8.6", memory_bytes=12 * 10**9)
DEVICE = Device(runtime="0.1.0", platform="linux-x86_64", python="3.11.9", driver_cuda="13.0", gpus=(GPU,), packages={})


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(bool(probe_device().gpus), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == ("error: no CUDA device that a driver knows: run this on a machine with an NVIDIA GPU\n")
    assert done.stdout == ""


def test_a_pytorch_without_cuda_is_nothing_to_compare_with(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "does not reach the GPU" in script.why_not(DEVICE)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert script.why_not(DEVICE) is None


@pytest.mark.parametrize(("name", "options"), [("lm", {"cache": "growing"}), ("lm", {"cache": "buffer"}), ("gan", {})])
def test_pytorch_on_a_device_is_what_it_is_on_the_host(script: ModuleType, name: str, options: dict[str, str]) -> None:
    spec = fixed_capacity(load_shipped(name, options=options))
    session = script.TorchDeviceSession(spec.part, "cpu", half=False)
    for case in make_cases(TorchSession(spec.part), spec, seed=0):
        state = session.new_state(len(next(iter(case.steps[0].inputs.values()))))
        for step in case.steps:
            for key, value in session.run(step.inputs, state).items():
                np.testing.assert_array_equal(value, step.outputs[key])
    assert session.engine_seconds > 0


@pytest.mark.parametrize("name", ["lm", "gan"])
def test_pytorch_in_half_precision_stays_close(script: ModuleType, name: str) -> None:
    spec = load_shipped(name)
    case = make_cases(TorchSession(spec.part), spec, seed=0)[0]
    session = script.TorchDeviceSession(spec.part, "cpu", half=True)
    state = session.new_state(1)
    for step in case.steps:
        for key, value in session.run(step.inputs, state).items():
            assert value.dtype == np.float32
            assert 40 < compare_arrays(step.outputs[key], value).sqnr_db < 100


def test_a_bundle_that_was_kept_is_taken(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, reason = script.open_candidate("gan", "ort-cpu", "fp32", DEVICE, tmp_path)
    assert reason == ""
    monkeypatch.setattr("aigc_export.line.exporter.export_model", None)  # is not called again
    again, _ = script.open_candidate("gan", "ort-cpu", "fp32", DEVICE, tmp_path)
    assert again.interface == session.interface


def test_the_table(script: ModuleType) -> None:
    rows = [
        script.Row(model="lm", engine="ort-cuda", precision="fp16", torch_ms=4.0, engine_ms=1.0, speedup=4.0),
        script.Row(model="lm", engine="tensorrt-rtx", precision="fp32", reason="no engine | here,\nsorry"),
    ]
    lines = script.markdown(rows, DEVICE, {"torch": "2.13.0"}).splitlines()
    assert lines[0] == (
        "some GPU (compute capability 8.6), driver for CUDA 13.0, linux-x86_64, Python 3.11.9, torch 2.13.0."
    )
    assert lines[-2:] == [
        "| lm | ort-cuda | fp16 | 4.000 | 1.000 | 4.00x |",
        "| lm | tensorrt-rtx | fp32 | - | - | no engine / here, sorry |",
    ]
    assert {line.count("|") for line in lines[3:]} == {7}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lm", {"cache": "growing"}),
        ("lm", {"cache": "buffer"}),
        ("unet", {}),
        ("unet", {"dynamic_size": True}),
        ("gan", {}),
    ],
)
def test_models_make_their_tensors_where_their_inputs_are(name: str, options: dict[str, object]) -> None:
    """On PyTorch's device without memory: a tensor made on the CPU instead fails there, as it would on a GPU."""
    spec = load_shipped(name, options=options)
    feeds = example_feeds(spec.part, example_sizes(spec.part), seed=0)
    module = spec.part.module.eval().to("meta")
    with torch.inference_mode():
        results = module(*(torch.from_numpy(feeds[t.name]).to("meta") for t in spec.part.interface.graph_inputs))
    assert {result.device.type for result in results} == {"meta"}
