"""Bundles made here keep their proof on other processors: `aigc-run verify` on each, every family in few bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from aigc_export.line.exporter import export_model
from aigc_export.recipes.recipe import export_recipe
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.weights.checkpoint import save_checkpoint

from .machines import HERE, X86, Machine, arm_machine, x86_machine

FAMILIES = ("gan", "lm", "unet")
QUANTIZED = ("int8", "int4")
ALLOWED_DB = 1.0
"""How much farther from PyTorch than here another processor may be: floats between the products round otherwise."""
STAND_IN_DB = 3.0
"""The same where another engine reads the prompt, which rounds other numbers together."""

pytestmark = [pytest.mark.emulated, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """bundle(model, precision): exported once.

    `lm-signs` is a language model whose weights have one magnitude, `lm-two` has an engine of its own for prompts.
    """
    folder = tmp_path_factory.mktemp("bundles")

    def made(model: str, precision: str) -> Path:
        path = folder / f"{model}-{precision}"
        if not path.exists():
            checkpoint = write_signs(folder / "checkpoint") if model == "lm-signs" else None
            recipe = export_recipe(
                model.partition("-")[0],
                precision=precision,
                checkpoint=checkpoint,
                spec_options={"separate_prefill": True} if model == "lm-two" else {},
                quality_samples=0,
                threads=1,
            )
            export_model(recipe, path)
        return path

    return made


def write_signs(folder: Path) -> str:
    """Every matrix holds plus or minus one number: all codes are 127 or -127, so that most pairs overflow."""
    torch.manual_seed(0)
    config = LMConfig(vocab_size=256, context_length=64, d_model=64, n_layers=2, n_heads=4, d_ff=128)
    module = TransformerLM(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.where(torch.rand_like(parameter) < 0.8, 0.02, -0.02))
    record = {"family": "lm", "model": config.to_dict(), "tokenizer": {"kind": "bytes"}}
    save_checkpoint(folder, module, record)
    return str(folder)


def worst_db(report: dict[str, Any]) -> float:
    return float(min(check["errors"]["sqnr_db"] for check in report["tensors"]))


def check(machine: Machine, path: Path, record: Callable[[object], None], *, allowed_db: float = ALLOWED_DB) -> None:
    """The bundle is proven on the machine, and is as near to PyTorch as here."""
    here, there = x86_machine("this one").verify(path), machine.verify(path)
    generation = there["generation"]
    record(
        [path.name, machine.name, there["instruction_set"], worst_db(there), generation["metric"], generation["value"]]
    )
    assert there["instruction_set"] == machine.instruction_set
    assert there["passed"]
    if not path.name.endswith("fp32"):
        assert worst_db(there) > worst_db(here) - allowed_db


@pytest.mark.parametrize("cpu", ["this one", *X86])
@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("model", FAMILIES)
def test_x86_processors(
    model: str, precision: str, cpu: str, bundle: Callable[[str, str], Path], record_processor: Callable[[object], None]
) -> None:
    check(x86_machine(cpu), bundle(model, precision), record_processor)


@pytest.mark.parametrize("cpu", ["Haswell", "Nehalem"])
def test_weights_of_one_magnitude(
    cpu: str, bundle: Callable[[str, str], Path], record_processor: Callable[[object], None]
) -> None:
    check(x86_machine(cpu), bundle("lm-signs", "int8"), record_processor)


@pytest.mark.parametrize("cpu", ["this one", *X86, "cortex-a72", "cortex-a76"])
def test_an_engine_for_prompts(
    cpu: str, bundle: Callable[[str, str], Path], record_processor: Callable[[object], None]
) -> None:
    """Where products of bytes saturate the other engine stands in for it."""
    path = bundle("lm-two", "int8")
    assert "QGemm" in {
        node.op_type for node in onnx.load(str(path / "prefill.onnx"), load_external_data=False).graph.node
    }
    machine = arm_machine(cpu) if cpu.startswith("cortex") else x86_machine(cpu)
    check(machine, path, record_processor, allowed_db=STAND_IN_DB)


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
@pytest.mark.parametrize("precision", ["fp32", *QUANTIZED])
@pytest.mark.parametrize("model", FAMILIES)
def test_arm_processors(
    model: str, precision: str, cpu: str, bundle: Callable[[str, str], Path], record_processor: Callable[[object], None]
) -> None:
    check(arm_machine(cpu), bundle(model, precision), record_processor)


def test_a_device_says_what_is_not_proven_and_what_it_has_proven(bundle: Callable[[str, str], Path]) -> None:
    cpu = next(cpu for cpu, instructions in X86.items() if instructions != HERE)
    machine, path = x86_machine(cpu), bundle("gan", "int8")
    told = machine.run("-m", "aigc_runtime", "doctor", path)
    assert told.returncode == 0, told.stderr
    assert f"?     instruction set: {X86[cpu]}; proven on {HERE}, not on this one\n" in told.stdout
    told = machine.run("-m", "aigc_runtime", "verify", path, "--threads", "1")
    assert told.stdout.endswith(f"verified on {X86[cpu]}; the export proved it on {HERE}\n")
