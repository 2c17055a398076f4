"""Importing the runtime is cheap, pulls in no engine, and its public names are what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLCHAIN = {"torch", "onnx", "onnxscript", "click", "rich", "safetensors", "scipy", "sklearn"}
ENGINES = {"onnxruntime", "tensorrt", "tensorrt_lean", "tensorrt_rtx", "cuda"}
HEAVY = TOOLCHAIN | ENGINES | {"cryptography", "tokenizers", "jinja2"}
BUDGET_MS = 150.0
BUDGET_RATIO = 1.75
"""What importing the runtime may take, in imports of numpy, where that is more: a machine is slower in some hours."""


def loaded_modules(code: str) -> set[str]:
    program = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "module", ["aigc_runtime", "aigc_runtime.pipelines", "aigc_runtime.cli.main", "aigc_runtime.proof.verify"]
)
def test_the_runtime_imports_no_engine_and_no_toolchain(module: str) -> None:
    assert not loaded_modules(f"import {module}") & HEAVY


def test_the_import_check_can_fail() -> None:
    assert "onnxruntime" in loaded_modules("import aigc_runtime, onnxruntime")


def test_the_toolchains_help_imports_no_torch() -> None:
    code = "import io, sys; from aigc_export.cli import run; sys.stdout = io.StringIO(); run(['-h'])"
    code += "; sys.stdout = sys.__stdout__"
    assert not loaded_modules(code) & {"torch", "onnx", "onnxruntime", "sklearn", "scipy", "cryptography"}


def import_ms(module: str, cache: Path) -> float:
    """Time to import a module that is compiled already, as it is wherever the package is installed.

    An environment may forbid Python to write what it compiles (PYTHONDONTWRITEBYTECODE, as container images do): then
    every run would compile our sources again, and not numpy's.
    """
    code = f"import time; t = time.process_time(); import {module}; print((time.process_time() - t) * 1e3)"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": str(cache)}
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, env=env) for _ in range(6)]
    return min(float(run.stdout) for run in runs[1:])


def test_importing_the_runtime_stays_within_its_budget(tmp_path: Path) -> None:
    everything = "numpy, aigc_runtime, aigc_runtime.pipelines, aigc_runtime.proof.verify, aigc_runtime.cli.main"
    numpy_ms = import_ms("numpy", tmp_path)
    assert import_ms(everything, tmp_path) - numpy_ms < max(BUDGET_MS, BUDGET_RATIO * numpy_ms)


def test_public_names_are_those_announced() -> None:
    import aigc_runtime

    for name in aigc_runtime.__all__:
        assert getattr(aigc_runtime, name) is not None
    assert set(aigc_runtime.__all__) == set(aigc_runtime._HOMES)
    assert set(dir(aigc_runtime)) >= set(aigc_runtime.__all__)
    with pytest.raises(AttributeError, match="no attribute 'open_pipelines'"):
        _ = aigc_runtime.open_pipelines
