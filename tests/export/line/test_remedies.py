"""What an export that misses parity says could help: it does help, and it is named only where it can."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aigc_calibration.config import WeightMethod
from aigc_export.line.exporter import ParityFailedError, export_model
from aigc_export.line.remedies import CostlyModules, remedies
from aigc_export.recipes.recipe import export_recipe
from aigc_export.recipes.tolerances import parse_limits
from aigc_export.workloads import get_workload
from aigc_models.evaluation.paired import Scores
from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.proof.paired import check_paired
from aigc_runtime.proof.verify import GenerationCheck, ParityReport, TensorCheck

from ..conftest import captured_once, recipe_of, write_checkpoint

pytestmark = pytest.mark.usefixtures("capture_once")
SPOILED = "blocks.0.1"
LOW: dict[str, Any] = {"precision": "int4"}
"""In which nothing goes back to float by itself."""


def spoiled_gan() -> Generator:
    """One weight of one convolution is far from all others, beside which 4 bits do not hold them."""
    module = Generator(
        GeneratorConfig(image_size=16, latent_size=16, num_classes=3, base_channels=8, upsampling="upsample_conv")
    )
    with torch.no_grad():
        module.get_parameter(f"{SPOILED}.weight").view(-1)[0] = 40
    return module


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ParityFailedError]:
    folder = tmp_path_factory.mktemp("spoiled")
    checkpoint = write_checkpoint(folder / "checkpoint", "gan", make=spoiled_gan)
    with captured_once(), pytest.raises(ParityFailedError) as caught:
        export_model(recipe_of("gan", checkpoint, **LOW), folder / "out")
    assert not (folder / "out").exists()
    return checkpoint, caught.value


def options(line: str, name: str) -> list[str]:
    return re.findall(rf"{name} (\S+?)(?=[ :]|$)", line)


@pytest.mark.slow
def test_what_is_named_helps(refused: tuple[Path, ParityFailedError], tmp_path: Path) -> None:
    checkpoint, err = refused
    keep, other, loose = err.remedies
    assert f"what could help:\n- {keep}\n- {other}\n- {loose}\nnothing was published" in err.hint
    modules = options(keep, "--keep-float")
    assert modules
    assert "most of the error comes from there" in keep
    assert export_model(recipe_of("gan", checkpoint, keep_float=modules, **LOW), tmp_path / "a").report.passed
    limits = parse_limits(options(loose, "--tolerance"))
    recipe = recipe_of("gan", checkpoint, tolerance=limits, **LOW)
    assert export_model(recipe, tmp_path / "b").bundle.manifest.tolerances.set_by_user == tuple(sorted(limits))
    assert other == "--precision int8 or bf16 or int8-weight or fp16 or fp32: more exact"
    assert export_model(recipe_of("gan", checkpoint, precision="int8-weight"), tmp_path / "c").report.passed


ARRAY = torch.arange(100.0).numpy()


def report(error: float, *, psnr: float = 80.0) -> ParityReport:
    errors = compare_arrays(ARRAY, ARRAY * (1 + error))
    tensor = TensorCheck(
        case="a", step=0, engine="model", output="image", errors=errors, passed=False, reasons=("missed",)
    )
    generation = GenerationCheck(metric="psnr_db", value=psnr, limit=70.0, passed=True, reasons=())
    return ParityReport(name="gan", target="ort-cpu", precision="", tensors=(tensor,), generation=generation)


def test_float_has_no_precision_to_go_to() -> None:
    (loose,) = remedies(report(1.1e-3), export_recipe("gan"), workload=get_workload("gan"))
    assert parse_limits(options(loose, "--tolerance")) == {"max_over_rms": 0.002, "min_sqnr_db": 59.0}


@pytest.mark.parametrize("error", [float("nan"), 3.0])
def test_what_no_limit_could_allow_has_none(error: float) -> None:
    found = remedies(report(error), export_recipe("gan", precision="int8"), workload=get_workload("gan"))
    assert found == ("--precision bf16 or int8-weight or fp16 or fp32: more exact",)


def test_16_bits_name_the_module_of_the_first_divergence() -> None:
    recipe: Any = replace(export_recipe("gan", precision="fp16"))
    divergence: Any = SimpleNamespace(module="blocks.1.1")
    keep, precision, _ = remedies(report(1e-2), recipe, workload=get_workload("gan"), divergence=divergence)
    assert keep.startswith("--keep-float blocks.1.1: ")
    assert precision == "--precision fp32: more exact"


def test_a_gain_that_does_not_suffice_is_not_sold_as_one() -> None:
    recipe = export_recipe("gan", precision="int8")
    for after, wanted in ((26.0, "does not suffice alone"), (20.5, "all over the model: a, b are the costliest")):
        costly = CostlyModules(modules=("a", "b"), before_db=20.0, after_db=after, suffices=False)
        assert wanted in remedies(report(0.1), recipe, workload=get_workload("gan"), costly=costly)[0]


def judged(**values: tuple[float, float]) -> ParityReport:
    """A language model's report: measure -> its value and standard error, in int4 under limits on all of them."""
    measures = {m.name: m for m in get_workload("text").measures}
    scores = [measures[n].paired(value, standard_error=error, samples=9) for n, (value, error) in values.items()]
    limits = export_recipe("lm", precision="int4", budget=["ppl<=+15%", "kl<=0.1", "top1>=0.9"]).tolerances
    return replace(report(0.01), paired=check_paired(scores, limits), quality=())


@pytest.mark.parametrize(
    ("values", "budget", "wanted"),
    [
        ({"ppl_increase": (0.3581, 0.004)}, (), ['"ppl<=+37%"']),
        ({"ppl_increase": (0.3581, 0.004), "kl_divergence": (0.05, 0.001)}, ("kl<=0.1",), ['"ppl<=+37%"', '"kl<=0.1"']),
        ({"kl_divergence": (0.1234, 0.001)}, ("kl<=0.1", "top1>=0.9"), ['"kl<=0.13"']),
        ({"top1_agreement": (0.789, 0.002)}, ("top1>=0.9",), ['"top1>=0.78"']),
        ({"ppl_increase": (20.0, 0.1)}, (), []),
        ({"ppl_increase": (1e30, 1e30)}, (), []),
        ({"top1_agreement": (0.01, 0.02)}, (), []),
        ({"ppl_increase": (0.1, 0.01)}, (), []),
    ],
)
def test_the_budget_that_accepts_what_was_measured(
    values: dict[str, tuple[float, float]], budget: tuple[str, ...], wanted: list[str]
) -> None:
    recipe, text = export_recipe("lm", precision="int4", budget=budget), get_workload("text")
    found = [line for line in remedies(judged(**values), recipe, workload=text) if "--budget" in line]
    assert [word for line in found for word in re.findall(r'--budget (".*?")', line)] == wanted
    if wanted:
        assert "if that is good enough for you" in found[0]
        again = export_recipe("lm", precision="int4", budget=[word.strip('"') for word in wanted])
        scores = Scores(paired=tuple(check.metric for check in judged(**values).paired))
        assert all(budget.holds(scores) for budget in again.budgets)


def test_a_better_rounding_is_named_where_there_is_one() -> None:
    text = get_workload("text")
    methods: tuple[tuple[WeightMethod, bool], ...] = (("rtn", True), ("gptq", False))
    for method, wanted in methods:
        recipe = export_recipe("lm", precision="int4", weight_method=method)
        found = remedies(judged(ppl_increase=(0.3, 0.01)), recipe, workload=text)
        assert any(line.startswith("--weight-method gptq") for line in found) is wanted
    for target, wanted in (("ort-cpu", True), ("tensorrt-rtx", False)):
        found = remedies(
            judged(ppl_increase=(0.3, 0.01)), export_recipe("lm", precision="int8", target=target), workload=text
        )
        assert any(line.startswith("--weight-method gptq") for line in found) is wanted
        assert any("int8-weight" in line for line in found) is False


def test_quality_that_was_not_measured_could_decide() -> None:
    text = get_workload("text")
    for precision, measured, wanted in (("int4", False, True), ("int4", True, False), ("fp32", False, False)):
        found = judged(ppl_increase=(0.3, 0.01)) if measured else report(0.5)
        lines = remedies(found, export_recipe("lm", precision=precision), workload=text)
        assert any(line.startswith("--quality-samples 32: ") for line in lines) is wanted
