"""The public functions of the package: each verb of the command line as one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aigc_export.targets import DEFAULT_TARGET
from aigc_models.sources import kind_of, resolve
from aigc_models.sources.module import make_part, make_program

if TYPE_CHECKING:
    from aigc_export.line.calibrator import CalibrationResult
    from aigc_export.line.exporter import ExportResult
    from aigc_export.mixed_precision.sensitivity import SensitivityReport
    from aigc_export.targets.base import Target
    from aigc_export.tools.comparison import Comparison
    from aigc_export.tools.verifier import Verification
    from aigc_models.program import Program
    from aigc_runtime.bundle.bundle import Bundle

__all__ = ["calibrate", "compare", "export", "load", "part", "program", "search", "sensitivity", "verify"]

part = make_part
program = make_program


def load(model: str, **options: Any) -> Program:
    """Load a model by what names it: a shipped name, a folder, `file.py:function` or `module:function`.

    Args:
        model: see `aigc_models.sources.resolve`.
        options: of the model, such as `checkpoint` or `cache`.

    Raises:
        AigcError: nothing of that name, or it cannot be used.
    """
    return resolve(model, options=options)


def export(
    model: Program | str,
    *,
    output: Path | str,
    target: str | Target = DEFAULT_TARGET,
    precision: str = "fp32",
    bisect: bool = False,
    stage: Any = None,
    progress: Any = None,
    sign: Any = None,
    **options: Any,
) -> ExportResult:
    """Take a model from PyTorch to a verified bundle.

    Args:
        model: a program, or what names one: see `load`.
        output: folder of the bundle; an old bundle there is replaced in one step, and only at the end.
        target: engine and device, such as `ort-cpu` or `tensorrt-rtx`.
        precision: `fp32`, `fp16`, `bf16`, `int8`, `fp8`, `int8-weight`, `int4` or `auto`; of a program of several parts
            also one for each, such as `unet=int8,vae_decoder=fp16`.
        bisect: find the first node that diverges, if parity is missed.
        stage: called as stage(name, what it did) after every stage.
        progress: called after every batch of calibration, and after every step of a compilation.
        sign: signs the manifest, such as `aigc_export.load_signer(key)`.
        options: of `export_recipe`, such as `calibration_data`, `calibration_samples`, `quality_samples`, `tolerance`.

    Raises:
        ParityFailedError: a tolerance is missed; nothing is published.
        AigcError: any stage failed; nothing is published.
    """
    from aigc_export.line.exporter import export_model
    from aigc_export.recipes.recipe import export_recipe

    recipe = export_recipe(model, target=target, precision=precision, **options)
    return export_model(recipe, output, bisect=bisect, stage=stage, progress=progress, sign=sign)


def verify(bundle: Bundle | Path | str, **options: Any) -> Verification:
    """Compare a bundle again with the PyTorch model that it was exported from, on fresh inputs.

    Args:
        bundle: opened, or its path.
        options: of `aigc_export.tools.verifier.verify_against_torch`: `model` (a program of your own), `checkpoint`,
            `quality_samples`, `seed`, `threads`, `tolerance`.

    Returns:
        The report: a missed limit is not raised, see `report.passed`.

    Raises:
        AigcError: the bundle or the model cannot be used.
    """
    from aigc_export.tools.verifier import verify_against_torch

    return verify_against_torch(_opened(bundle), **options)


def calibrate(
    model: Program | str,
    output: Path | str,
    *,
    target: str | Target = DEFAULT_TARGET,
    precision: str = "int8",
    **options: Any,
) -> CalibrationResult:
    """Collect the statistics that a quantized export needs, into a file that several exports can use.

    Args:
        model: see `export`.
        output: the file to write.
        target: that it is exported for.
        precision: that it is exported in.
        options: of `export_recipe`, such as `calibration_data` and `calibration_samples`.

    Raises:
        AigcError: the model or the samples cannot be used.
    """
    from aigc_export.line.calibrator import calibrate_model
    from aigc_export.recipes.recipe import export_recipe

    return calibrate_model(export_recipe(model, target=target, precision=precision, **options), Path(output))


def compare(first: Bundle | Path | str, second: Bundle | Path | str, **options: Any) -> Comparison:
    """Measure a bundle beside another one of the same model: tensors, results, quality, size and speed.

    Args:
        first: the reference.
        second: what is compared with it.
        options: of `aigc_export.tools.comparison.compare_bundles`.

    Raises:
        AigcError: they are not of one model, or cannot be run.
    """
    from aigc_export.tools.comparison import compare_bundles

    return compare_bundles(_opened(first), _opened(second), **options)


def search(
    model: Program | str,
    *,
    output: Path | str,
    budget: str | Sequence[str] | None = None,
    objective: Literal["latency", "size", "ops"] = "latency",
    folder: Path | str | None = None,
    samples: int | None = None,
    **options: Any,
) -> ExportResult:
    """Search for the mix of precisions that is best under a quality budget, and export it.

    Of a model of one part every site has its precision; of several parts every part.

    Args:
        model: see `export`.
        output: folder of the bundle.
        budget: one or several, such as `psnr>=45` or `ppl<=+0.5%`; None takes that of the kind of model.
        objective: milliseconds of a step, or of a generation for several parts; bytes of the engines; or sites in high
            precision.
        folder: for the journal and the report; None keeps them in memory.
        samples: on which a mix is evaluated; None takes as many as an export of such a model is evaluated on.
        options: of `export`.

    Returns:
        The export; its `search` says what was tried.

    Raises:
        BudgetError: nothing keeps the budget, not even fp32; nothing is published.
        AigcError: see `export`.
    """
    from aigc_export.recipes.budget import check_measures, parse_budget
    from aigc_export.recipes.search import SearchConfig
    from aigc_export.workloads import get_workload
    from aigc_models.sources.shipped import MODELS

    if isinstance(model, str) and model not in MODELS:
        model = load(model, checkpoint=options.pop("checkpoint", None), **options.pop("spec_options", {}))
    workload = get_workload(kind_of(model))
    texts = [budget] if isinstance(budget, str) else budget or [workload.budget]
    budgets = tuple(parse_budget(text, workload) for text in texts)
    check_measures(budgets, workload)
    config = SearchConfig(
        budgets=budgets,
        objective=objective,
        folder=None if folder is None else Path(folder),
        samples=samples,
    )
    return export(model, output=output, precision="auto", search=config, **options)


def sensitivity(
    model: Program | str,
    *,
    target: str | Target = DEFAULT_TARGET,
    low: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> SensitivityReport:
    """Measure what low precision costs and saves at every site of a model, each alone.

    Args:
        model: see `export`.
        target: that it is exported for.
        low: the low precision; None takes the target's lowest.
        options: of `export_recipe`.

    Raises:
        AigcError: the model or the samples cannot be used.
    """
    from aigc_export.mixed_precision.sensitivity import measure_sensitivity
    from aigc_export.recipes.recipe import export_recipe

    return measure_sensitivity(export_recipe(model, target=target, precision="auto", **(options or {})), low=low)


def _opened(bundle: Bundle | Path | str) -> Bundle:
    from aigc_runtime.bundle.bundle import Bundle

    return bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
