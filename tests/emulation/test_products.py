"""Every product of 8-bit numbers, at the codes' extremes too: the same integers on every processor, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.tensors import Array

from . import arm64
from .machines import HERE, X86, Machine, arm_machine, quiet, x86_machine
from .products import Product, products

SATURATING = {"avx512", "avx2"}
"""Instruction sets whose kernels, as ONNX Runtime takes them by itself, are wrong."""


@pytest.fixture(scope="module")
def cases() -> dict[str, Product]:
    return {product.name: product for product in products()}


@pytest.fixture(scope="module")
def folder(cases: dict[str, Product], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs and their inputs, for `run_products.py`."""
    made = tmp_path_factory.mktemp("products")
    for name, product in cases.items():
        (made / f"{name}.onnx").write_bytes(product.model.SerializeToString())
        np.savez(made / f"{name}.npz", allow_pickle=False, **product.feeds)
    return made


def computed(machine: Machine, folder: Path, tmp_path: Path, *options: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """What a machine computes, and what it says of itself."""
    target = tmp_path / "results.npz"
    done = machine.run(Path(__file__).with_name("run_products.py"), folder, target, *options)
    assert done.returncode == 0, quiet(done.stderr)
    return dict(np.load(target)), json.loads(done.stdout.splitlines()[-1])


def wrong(results: dict[str, Array], cases: dict[str, Product]) -> set[str]:
    """Operators with a product that is off."""
    assert results.keys() == cases.keys()
    return {
        name.split("_")[0]
        for name, product in cases.items()
        if (np.abs(results[name].astype(np.float64) - product.expected) > product.error).any()
    }


INTEGER = {"MatMulInteger", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "QLinearConv"}


def test_this_processor(cases: dict[str, Product], folder: Path, tmp_path: Path) -> None:
    """This is what stands for processors that nothing here emulates: VNNI, where this machine has it."""
    results, told = computed(x86_machine("this one"), folder, tmp_path)
    assert wrong(results, cases) == set()
    assert told == {"instruction_set": HERE, "saturate": HERE in SATURATING}
    assert {name.split("_")[0] for name in cases} == {*INTEGER, "MatMulNBits4", "MatMulNBits8"}


@pytest.mark.emulated
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cpu", list(X86))
def test_x86_processors(cpu: str, cases: dict[str, Product], folder: Path, tmp_path: Path) -> None:
    results, told = computed(x86_machine(cpu), folder, tmp_path)
    assert wrong(results, cases) == set()
    assert told == {"instruction_set": X86[cpu], "saturate": X86[cpu] in SATURATING}


@pytest.mark.emulated
@pytest.mark.timeout(1800)
def test_onnx_runtimes_own_choice_is_wrong_on_haswell(cases: dict[str, Product], folder: Path, tmp_path: Path) -> None:
    """All of them but products with weights in blocks: the check can fail, and the option is needed."""
    results, _ = computed(x86_machine("Haswell"), folder, tmp_path, "--default")
    assert wrong(results, cases) == INTEGER


@pytest.mark.emulated
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cpu", list(arm64.CPUS))
def test_arm_processors(cpu: str, cases: dict[str, Product], folder: Path, tmp_path: Path) -> None:
    results, told = computed(arm_machine(cpu), folder, tmp_path)
    assert wrong(results, cases) == set()
    assert told == {"instruction_set": arm64.CPUS[cpu], "saturate": False}
