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


def import_ms(first: str, then: str, cache: Path, *, times: int = 7) -> list[tuple[float, float]]:
    """Several times: to import modules, and others after them, in one process, so that both meet the same machine.

    They are compiled already, as they are wherever the package is installed. An environment may forbid Python to write
    what it compiles (PYTHONDONTWRITEBYTECODE, as container images do): then every run would compile our sources again,
    and not numpy's.
    """
    code = f"from time import process_time as t; a = t(); import {first}; b = t(); import {then}; c = t()"
    code += "; print((b - a) * 1e3, (c - b) * 1e3)"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": str(cache)}
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, env=env) for _ in range(times + 1)]
    return [(float(one), float(two)) for one, two in (run.stdout.split() for run in runs[1:])]


def within_budget(times: list[tuple[float, float]]) -> bool:
    return min(ours for _, ours in times) < BUDGET_MS or min(ours / numpy for numpy, ours in times) < BUDGET_RATIO


def test_importing_the_runtime_stays_within_its_budget(tmp_path: Path) -> None:
    """What every verb loads; a bundle loads its own kind of pipeline on top, and no other."""
    everything = "aigc_runtime, aigc_runtime.pipelines, aigc_runtime.proof.verify, aigc_runtime.cli.main"
    times = import_ms("numpy", everything, tmp_path)
    assert within_budget(times), times


@pytest.mark.slow
def test_an_import_beyond_the_budget_is_noticed(tmp_path: Path) -> None:
    assert not within_budget(import_ms("numpy", "scipy.stats", tmp_path, times=1))


def test_verifying_loads_no_kind_that_the_bundle_is_not_of() -> None:
    code = "import aigc_runtime.proof.verify, sys; from aigc_runtime.pipelines import get_kind; get_kind('gan')"
    program = f"{code}; print(*sorted(m for m in sys.modules if m.endswith('_kind') and 'aigc_runtime' in m))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["aigc_runtime.pipelines.gan_kind"]


def test_public_names_are_those_announced() -> None:
    import aigc_runtime

    for name in aigc_runtime.__all__:
        assert getattr(aigc_runtime, name) is not None
    assert set(aigc_runtime.__all__) == set(aigc_runtime._HOMES)
    assert set(dir(aigc_runtime)) >= set(aigc_runtime.__all__)
    with pytest.raises(AttributeError, match="no attribute 'open_pipelines'"):
        _ = aigc_runtime.open_pipelines
