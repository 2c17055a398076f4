"""Configure an export in full by one function call per model, target and precision."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

from aigc_calibration.calibrate import needs_samples
from aigc_calibration.config import QuantConfig, WeightMethod
from aigc_calibration.plan import SitePrecision, as_site_precision
from aigc_calibration.ranges import Method, RangeChoice
from aigc_export.recipes.budget import Budget, check_measures, parse_budget
from aigc_export.recipes.default_quantization import default_quantization, site_precisions
from aigc_export.recipes.part_precisions import check_parts, lowest_precision, parse_precisions
from aigc_export.recipes.requested import check_calibration, check_requested
from aigc_export.recipes.search import SearchConfig
from aigc_export.recipes.tolerances import with_budgets, with_user_limits
from aigc_export.targets import DEFAULT_TARGET
from aigc_export.targets.base import Target, check_precision, settings_for
from aigc_export.targets.table import get_target
from aigc_export.workloads import Workload, get_workload
from aigc_runtime.backends.threads import check_threads
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.core.integers import as_integer
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.io.printable import shown

if TYPE_CHECKING:
    from aigc_models.program import Program

__all__ = ["ExportRecipe", "check_quality_samples", "export_recipe"]

MAX_SAMPLES = 100_000
"""On which quality is measured: all are held in memory, and go through both sides."""


@dataclass(frozen=True, kw_only=True)
class ExportRecipe:
    """The full configuration of an export.

    Attributes:
        model: a program, or what `sources.resolve` makes one of when the work starts.
        target: what runs it.
        precision: one that the target can run; of a program of several parts, that of those that `parts` does not name.
        tolerances: limits; a bundle that misses one is not published.
        checkpoint: folder of the user's own weights; None takes the shipped ones.
        spec_options: keyword arguments of the model's program (for the LM: `cache`).
        opset: ONNX opset; None takes the target's own.
        threads: intra-op threads of both sides during parity; None lets each engine choose.
        quality_samples: windows of text or images on which quality is measured; 0 leaves quality out, None takes 200,
            of a large language model fewer.
        seed: of every random draw.
        quantization: how the graph is quantized, what the model's own hints say aside; None for fp32.
        calibration_data: the user's own samples; None takes the model's.
        eval_data: the user's own text to evaluate on; None takes what the checkpoint keeps, or the built-in text.
        budgets: what the user states of the quality in place of the precision's own limits; `tolerances` has them
            already. Those of `auto` are in `search`.
        search: how `auto` looks for its mix; None for other precisions.
        calibration: file of an earlier calibration, which takes the place of samples; None calibrates now.
        build: settings of the target: an object of its type, or fields by name; None takes the defaults.
        tolerance: limits that the user chose in place of the kind's, by name; `tolerances` has them already.
        parts: part -> its own precision.
        allow_slower: publish a quantized bundle that takes longer than fp32 here.
    """

    model: str | Program
    target: Target
    precision: str
    tolerances: Tolerances
    checkpoint: str | None = None
    spec_options: dict[str, Any] = field(default_factory=dict)
    opset: int | None = None
    threads: int | None = None
    quality_samples: int | None = None
    seed: int = 0
    quantization: QuantConfig | None = None
    calibration_data: str | None = None
    eval_data: str | None = None
    budgets: tuple[Budget, ...] = ()
    search: SearchConfig | None = None
    calibration: str | None = None
    build: Any = None
    tolerance: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    allow_slower: bool = False

    def of_part(self, part: str) -> ExportRecipe:
        """The recipe of one part: in its own precision, and without quantization where that is fp32."""
        precision = self.parts.get(part, self.precision)
        quantization = None if precision == "fp32" else self.quantization
        return replace(self, precision=precision, quantization=quantization, parts={})

    @property
    def run_precision(self) -> str:
        """The precision that the engine runs under this name: see `Workload.run_as`."""
        from aigc_models.sources import kind_of

        return get_workload(kind_of(self.model)).run_as(self.precision, self.target.format)

    @property
    def site_precision(self) -> SitePrecision:
        """The precision of what is quantized.

        Raises:
            UnknownNameError: a recipe in fp32, or of a search.
        """
        return as_site_precision(self.run_precision)

    @property
    def stored_precision(self) -> str:
        """The precision that tables and the manifest name: `mixed` where parts have several."""
        return self.precision if set(self.parts.values()) <= {self.precision} else "mixed"

    @property
    def name(self) -> str:
        """The name of the model, as tables and the bundle have it."""
        return self.model if isinstance(self.model, str) else self.model.name

    def __post_init__(self) -> None:
        check_quality_samples(self.quality_samples)
        check_threads(self.threads)
        check_seed(self.seed)
        object.__setattr__(self, "build", settings_for(self.target, self.build))


def check_quality_samples(count: int | None) -> None:
    """Raise ConfigError for a number of samples that measures nothing, or that no machine gets through."""
    if count is None:
        return
    if as_integer(count) is None or count < 0 or count == 1 or count > MAX_SAMPLES:
        raise ConfigError(
            f"quality_samples is {shown(count)}",
            hint=f"at least 2 make a measure, at most {MAX_SAMPLES:,} are allowed; 0 leaves quality out",
        )


def export_recipe(
    model: str | Program,
    *,
    target: str | Target = DEFAULT_TARGET,
    precision: str = "fp32",
    calibration_samples: int | None = None,
    rotate: bool | None = None,
    split_skips: bool = False,
    equalize: float | None = None,
    keep_float: Sequence[str] = (),
    float_share: float | None = None,
    ranges: RangeChoice | None = None,
    weight_ranges: Method | None = None,
    weight_method: WeightMethod | None = None,
    block: int | None = None,
    weight_zero_points: bool | None = None,
    tolerance: Mapping[str, float] | None = None,
    budget: Sequence[str] = (),
    **overrides: Any,
) -> ExportRecipe:
    """Make the recipe of a model, target and precision, with a few fields overridden.

    Args:
        model: a program, or the name of one: see `sources.resolve`. A shipped model is loaded when the work starts.
        target: a target, or its name.
        precision: one that it can run; of a program of several parts also one for each, `unet=int8,vae_decoder=fp16`,
            with one for the rest in front, or fp32; `auto,vae_encoder=fp16` searches for those that are not named.
        calibration_samples: in place of the default.
        rotate: see `QuantConfig`.
        split_skips: see `QuantConfig`.
        equalize: see `QuantConfig`.
        keep_float: modules that stay float, besides those that the model's hints name.
        float_share: see `QuantConfig`.
        ranges: see `QuantConfig`.
        weight_ranges: see `QuantConfig`, as for the next three.
        weight_method: how weights alone are rounded.
        block: numbers of such a weight that share a scale.
        weight_zero_points: whether blocks of 4-bit weights have zero points.
        tolerance: limits of your own by name, such as `{"min_sqnr_db": 60}`; the manifest says that you set them.
        budget: how much worse than PyTorch the model may become, such as `["ppl<=+2%", "kl<=0.02"]`, in place of the
            precision's own limits.
        overrides: fields of `ExportRecipe`; files by their names or by a `Path`.

    Raises:
        UnknownNameError: an unknown model, target, precision or override.
        ConfigError: a precision that the target cannot run, a limit that can never fail, a budget that nothing would
            read, or an override outside what is allowed.
    """
    from aigc_models.sources import kind_of, resolve
    from aigc_models.sources.shipped import MODELS

    for name in overrides:
        if name not in _OVERRIDES:
            raise UnknownNameError("argument of export_recipe", name, _ARGUMENTS)
    # In Python files may be named by a Path; the recipe, and the manifest's record of it, hold a text.
    overrides = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in overrides.items()}
    target = get_target(target)
    precision, parts = parse_precisions(precision)
    used = tuple(dict.fromkeys((precision, *parts.values())))
    for one in used:
        check_precision(target, one)
    lowest = lowest_precision(used)
    if isinstance(model, str) and model not in MODELS:
        given = {**overrides.pop("spec_options", {}), "checkpoint": overrides.pop("checkpoint", None)}
        model = resolve(model, options=given)
    if not isinstance(model, str):
        check_parts(parts, model.parts)
    workload = get_workload(kind_of(model))
    quantization = default_quantization(workload, target, used, weight_method=weight_method)
    own_samples = calibration_samples is not None or overrides.get("calibration_data") is not None
    calibration = overrides.get("calibration")
    check_calibration(lowest, workload, target, calibration=calibration, own_samples=own_samples)
    requested: dict[str, Any] = {
        "samples": calibration_samples,
        "keep_float": tuple(keep_float) or None,
        "float_share": float_share,
        "rotate": rotate,
        "split_skips": split_skips or None,
        "equalize": equalize,
        "ranges": ranges,
        "weight_ranges": weight_ranges,
        "weight_method": weight_method,
        "block": block,
        "weight_zero_points": weight_zero_points,
    }
    requested = {name: value for name, value in requested.items() if value is not None}
    also = {"allow_slower": True} if overrides.get("allow_slower") else {}
    check_requested({**requested, **also}, used, workload, target, calibration=calibration)
    if quantization is not None:
        quantization = replace(quantization, **requested)
        sites = site_precisions(workload, target, used)
        if own_samples and not any(needs_samples(quantization, one) for one in sites):
            raise ConfigError(
                "calibration data for weights that are rounded to the nearest codes, which needs none",
                hint="leave it out, or choose --weight-method gptq",
            )
    recipe = ExportRecipe(
        model=model,
        target=target,
        precision=precision,
        parts=parts,
        tolerances=workload.limits("int8" if precision == "auto" else workload.run_as(lowest, target.format)),
        quantization=quantization,
        search=_default_search(workload) if precision == "auto" else None,
    )
    recipe = replace(recipe, **overrides)
    if budget:
        recipe = _with_budgets(recipe, tuple(parse_budget(text, workload) for text in budget), workload)
    if tolerance:
        if twice := {b.tolerance for b in recipe.budgets} & set(tolerance):
            raise ConfigError(
                f"both a budget and the limit {', '.join(map(str, twice))} were given",
                hint="they are one: leave one out",
            )
        limits = with_user_limits(recipe.tolerances, tolerance, workload)
        recipe = replace(recipe, tolerances=limits, tolerance=dict(tolerance))
    if (recipe.search is not None) != (precision == "auto"):
        raise ConfigError(
            f"a search for a mix, and precision {precision!r}", hint="--objective and its like go with --precision auto"
        )
    return recipe


def _default_search(workload: Workload) -> SearchConfig:
    return SearchConfig(budgets=(parse_budget(workload.budget, workload),))


def _with_budgets(recipe: ExportRecipe, budgets: tuple[Budget, ...], workload: Workload) -> ExportRecipe:
    """Put the user's budgets into a recipe: they decide in a search, and for kinds whose quality decides."""
    check_measures(budgets, workload)
    if recipe.search is not None:
        return replace(recipe, search=replace(recipe.search, budgets=budgets))
    if not workload.quality_decides:
        raise ConfigError(
            f"a budget for a {workload.kind} model in {recipe.precision}, which is held to limits",
            hint="add --precision auto, or set a limit with --tolerance",
        )
    if recipe.quality_samples == 0:
        raise ConfigError("a budget, and no quality is measured", hint="ask for --quality-samples")
    names = [budget.tolerance for budget in budgets if budget.tolerance is not None]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two budgets set the limit {', '.join(twice)}", hint="leave one out")
    tolerances = with_budgets(recipe.tolerances, budgets, workload)
    return replace(recipe, budgets=budgets, tolerances=replace(tolerances, set_by_user=tuple(sorted(names))))


_FIXED = ("model", "target", "precision", "parts", "tolerance", "budgets")
_OVERRIDES = tuple(f.name for f in fields(ExportRecipe) if f.name not in _FIXED)
_ARGUMENTS = (*(name for name in signature(export_recipe).parameters if name != "overrides"), *_OVERRIDES)
