"""Full configurations of an export: one function call per model, target and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aigc_calibration.calibrate import CALIBRATED
from aigc_calibration.config import QuantConfig, default_config
from aigc_calibration.plan import as_site_precision
from aigc_export.auto.config import SearchConfig
from aigc_export.budget import DEFAULT_BUDGETS, parse_budget
from aigc_export.build.settings import BuildSettings
from aigc_export.targets import check_precision, get_target
from aigc_export.tolerances import TOLERANCES
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.manifest import Tolerances

__all__ = ["ExportRecipe", "check_quality_samples", "export_recipe"]


@dataclass(frozen=True, kw_only=True)
class ExportRecipe:
    """Everything that `export_model` needs to know.

    Attributes:
        model: name in the zoo.
        target: name in `targets.TARGETS`.
        precision: one that the target can run.
        tolerances: limits; a bundle that misses one is not published.
        checkpoint: folder of the user's own weights; None takes the shipped ones.
        spec_options: keyword arguments of the model's spec (for the LM: `cache`).
        opset: ONNX opset; None takes the target's own.
        threads: intra-op threads of both sides during parity; None lets each engine choose.
        quality_samples: windows of text or images on which quality is measured; 0 leaves quality out.
        seed: of every random draw.
        quantisation: how the graph is quantised; None for fp32.
        calibration_data: the user's own samples; None takes the model's.
        search: how `auto` looks for its mix; None for other precisions.
        calibration: file of an earlier calibration, which takes the place of samples; None calibrates now.
        build: how the engine is compiled, for targets that compile one.
    """

    model: str
    target: str
    precision: str
    tolerances: Tolerances
    checkpoint: str | None = None
    spec_options: dict[str, Any] = field(default_factory=dict)
    opset: int | None = None
    threads: int | None = None
    quality_samples: int = 200
    seed: int = 0
    quantisation: QuantConfig | None = None
    calibration_data: str | None = None
    search: SearchConfig | None = None
    calibration: str | None = None
    build: BuildSettings = field(default_factory=BuildSettings)

    def __post_init__(self) -> None:
        check_quality_samples(self.quality_samples)
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads is {self.threads}", hint="must be at least 1")


def check_quality_samples(count: int) -> None:
    """Raise ConfigError for a number of samples that measures nothing."""
    if count < 0 or count == 1:
        raise ConfigError(f"quality_samples is {count}", hint="at least 2 make a measure; 0 leaves quality out")


def _check_calibration(precision: str, *, calibration: str | None, own_samples: bool) -> None:
    """Raise ConfigError for samples or a calibration that nothing would read."""
    if precision == "fp32" and (own_samples or calibration is not None):
        raise ConfigError("calibration data for fp32, which needs none", hint="add --precision int8, or leave it out")
    if calibration is None:
        return
    if own_samples:
        raise ConfigError(
            "a calibration and calibration samples were both given", hint="leave one out: the file holds its ranges"
        )
    if precision != "auto" and as_site_precision(precision) not in CALIBRATED:
        raise ConfigError(
            f"{precision} rounds weights by second moments of what they are multiplied with, "
            "which a calibration file does not hold",
            hint=f"leave --calibration out; it is for {', '.join(CALIBRATED)}",
        )


def export_recipe(
    model: str,
    *,
    target: str = "ort-cpu",
    precision: str = "fp32",
    calibration_samples: int | None = None,
    split_concats: bool = False,
    keep_float: Sequence[str] = (),
    **overrides: Any,
) -> ExportRecipe:
    """The recipe of a model, target and precision, with a few fields overridden.

    Args:
        model: name in the zoo.
        target: name of the target.
        precision: one that it can run.
        calibration_samples: in place of the family's default.
        split_concats: see `QuantConfig`.
        keep_float: modules that stay float, besides those of the family: `QuantConfig.asked_float`.
        overrides: fields of `ExportRecipe`.

    Raises:
        UnknownNameError: an unknown model, target or precision.
        ConfigError: a precision that the target cannot run, or an override outside what is allowed.
    """
    from aigc_models.zoo import MODELS

    if model not in MODELS:
        raise UnknownNameError("model", model, MODELS)
    check_precision(get_target(target), precision)
    quantisation = None if precision == "fp32" else default_config(MODELS[model].family, precision)
    own_samples = calibration_samples is not None or overrides.get("calibration_data") is not None
    _check_calibration(precision, calibration=overrides.get("calibration"), own_samples=own_samples)
    if quantisation is None and keep_float:
        raise ConfigError("modules to keep float in fp32, where all are", hint="add --precision int8, or leave it out")
    if quantisation is not None:
        quantisation = replace(
            quantisation,
            samples=quantisation.samples if calibration_samples is None else calibration_samples,
            split_concats=split_concats or quantisation.split_concats,
            asked_float=tuple(keep_float),
        )
    family = MODELS[model].family
    recipe = ExportRecipe(
        model=model,
        target=target,
        precision=precision,
        tolerances=TOLERANCES[family, "int8" if precision == "auto" else precision],
        quantisation=quantisation,
        search=SearchConfig(budgets=(parse_budget(DEFAULT_BUDGETS[family]),)) if precision == "auto" else None,
    )
    recipe = replace(recipe, **overrides)
    if (recipe.search is not None) != (precision == "auto"):
        raise ConfigError(
            f"a search for a mix, and precision {precision!r}", hint="--budget and its like go with --precision auto"
        )
    return recipe
