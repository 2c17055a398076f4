"""Describe what a bundle is exported from, for its manifest; and load it again from the bundle."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from aigc_calibration.config import QuantConfig
from aigc_export.recipes.default_quantization import default_quantization
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.workloads import get_workload
from aigc_models.carried_form import fixed_capacity, in_buffers
from aigc_models.data.kept_data import KeptData, read_kept
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.program import Program
from aigc_models.separate_prefill import can_separate_prefill, with_separate_prefill
from aigc_models.sources import kind_of, resolve
from aigc_models.sources.shipped import MODELS, load_shipped
from aigc_models.sources.transformers.language_program import OPTIONS
from aigc_models.weights.weights_file import find_weights
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.bundle.origin import Origin, can_be_recorded
from aigc_runtime.errors import AigcError, BundleError, CheckpointError
from aigc_runtime.io.user_file import path_exists
from aigc_runtime.pipelines.text_tensors import PREFILL

__all__ = ["find_evaluation", "kept_text", "load_original", "make_origin", "recorded_weights"]

MERGED = ("lora", "embedding")
"""Options that name files which are merged into the weights."""
FLAGS = ("lora_partial", "separate_prefill")
"""Options that have no value."""


_SIDES = {"--dynamic-size": True, "--fixed-size": False}
"""Option of an export -> what it says of the sides of a picture."""


def make_origin(program: Program, recipe: ExportRecipe, evaluation: Evaluation) -> Origin:
    """Describe what a bundle is exported from; paths stay as the user wrote them."""
    own = recipe.checkpoint or (program.source if program.checkpoint is not None else "") or None
    code = program.source if program.checkpoint is None else ""
    return Origin(
        shipped=own is None and program.checkpoint is not None,
        checkpoint=_path(own),
        source=_path(code or None),
        model_sha256=program.module_sha256,
        config_sha256=program.config_sha256,
        calibration_data=_path(recipe.calibration_data),
        calibration=_path(recipe.calibration),
        eval_data=_path(recipe.eval_data),
        eval_sha256="" if recipe.quality_samples == 0 else evaluation.sha256,
        options=tuple(_options(recipe, {**program.options, **recipe.spec_options})),
    )


def _path(given: str | None) -> str | None:
    return given if given is not None and can_be_recorded(given) else None


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _options(recipe: ExportRecipe, loaded: Mapping[str, Any]) -> list[str]:
    """List the options of `aigc-export export` that give the recipe, beside its paths, target and precision."""
    words: list[str] = []
    for option in ("cache", "context_length", *MERGED, "noise", "tile"):
        value = loaded.get(option)
        for one in value if isinstance(value, (tuple, list)) else () if value is None else (value,):
            words += [_flag(option), str(one)]
    words += [_flag(option) for option in FLAGS if loaded.get(option)]
    if loaded.get("separate_prefill") is False:
        words.append("--no-separate-prefill")
    words += [flag for flag, dynamic in _SIDES.items() if loaded.get("dynamic_size") is dynamic]
    if recipe.seed:
        words += ["--seed", str(recipe.seed)]
    if recipe.quality_samples != _default(ExportRecipe, "quality_samples"):
        words += ["--quality-samples", str(recipe.quality_samples)]
    for budget in recipe.budgets:
        words += ["--budget", budget.text]
    for name, value in recipe.tolerance.items():
        words += ["--tolerance", f"{name}={value!r}"]
    if recipe.allow_slower:
        words.append("--allow-slower")
    if recipe.parts:
        words += ["--precision", ",".join((recipe.precision, *(f"{part}={one}" for part, one in recipe.parts.items())))]
    if recipe.quantization is not None:
        words += _quantization_options(recipe.quantization, _quantization(recipe))
    return [*words, *recipe.target.options(recipe.build)]


def _quantization(recipe: ExportRecipe) -> QuantConfig:
    """Make the quantization of a recipe whose user asks for nothing."""
    # What a search has found was asked for as `auto`.
    precisions = ("auto" if recipe.search is not None else recipe.precision, *recipe.parts.values())
    method = None if recipe.quantization is None else recipe.quantization.weight_method
    workload = get_workload(kind_of(recipe.model))
    found = default_quantization(workload, recipe.target, precisions, weight_method=method) or QuantConfig()
    return dataclasses.replace(found, weight_method=None)


def _quantization_options(config: QuantConfig, default: QuantConfig) -> list[str]:
    words: list[str] = []
    for module in config.keep_float:
        words += ["--keep-float", module]
    if config.split_skips:
        words.append("--split-skips")
    for option, name in (
        ("--calibration-samples", "samples"),
        ("--float-share", "float_share"),
        ("--ranges", "ranges"),
        ("--weight-ranges", "weight_ranges"),
        ("--equalize", "equalize"),
        ("--weight-method", "weight_method"),
        ("--block", "block"),
    ):
        value = getattr(config, name)
        if value != getattr(default, name):
            words += [option, str(value)]
    for name in ("weight_zero_points", "rotate"):
        value = getattr(config, name)
        if value != getattr(default, name):
            words.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
    return words


def _default(cls: type, name: str) -> Any:
    return next(f.default for f in dataclasses.fields(cls) if f.name == name)


def load_original(
    bundle: Bundle, checkpoint: Path | str | None = None, *, model: Program | str | None = None
) -> Program:
    """Load the PyTorch model that a bundle was exported from, and no other.

    Args:
        bundle: opened.
        checkpoint: its weights; None takes those that the manifest names.
        model: the program itself, or what makes it: for a bundle of the user's own code, which is run where the user
            names it and never because a bundle does.

    Raises:
        BundleError: a model that is unknown here, or with other inputs than the bundle's.
        CheckpointError: the weights are not there, damaged, foreign, or others than the bundle's.
    """
    manifest = bundle.manifest
    if model is not None:
        program = resolve(model, options={"checkpoint": checkpoint}) if isinstance(model, str) else model
        return _checked(program, manifest, f"the program {program.name!r}")
    if manifest.origin is not None and manifest.origin.source is not None:
        raise BundleError(
            f"the bundle was made by {manifest.origin.source!r}, which is code of its maker's own",
            hint=f"read it, and name it with --model: --model {shlex.quote(manifest.origin.source)}",
        )
    known = manifest.name in MODELS or (manifest.origin is not None and manifest.origin.checkpoint is not None)
    if not known and checkpoint is None:
        raise BundleError(
            f"the bundle's model {manifest.name!r} is unknown here",
            hint=f"name what it was made from with --model; known without it: {', '.join(MODELS)}",
        )
    path = recorded_weights(manifest) if checkpoint is None else checkpoint
    try:
        program = _load(manifest, path)
    except AigcError as err:
        if checkpoint is not None:
            raise
        raise CheckpointError(
            f"the bundle was made from {_named(path)}, which cannot be loaded: {err.message}", hint=_remedy(manifest)
        ) from err
    return _checked(program, manifest, _named(path))


def _load(manifest: Manifest, path: Path | str | None) -> Program:
    """Load the model of a bundle from its weights.

    A folder of the user's own may have the name of a shipped model, and the bundle that of the folder.
    """
    if manifest.name not in MODELS:
        return _load_own(manifest, path)
    try:
        options = _shown_options(manifest, MODELS[manifest.name].options)
        return load_shipped(manifest.name, checkpoint=path, options=options)
    except CheckpointError:
        if path is None:
            raise
        try:
            return _load_own(manifest, path)
        except AigcError:  # the first error is that of the more usual case
            pass
        raise


def _load_own(manifest: Manifest, path: Path | str | None) -> Program:
    options = _shown_options(manifest, OPTIONS)
    options |= {option: files for option in MERGED if (files := _recorded_files(manifest, f"--{option}"))}
    if manifest.origin is not None:
        options |= _recorded_options(manifest.origin)
    # Of other kinds than text, what was loaded from weights has no options.
    length = getattr(manifest.pipeline.settings, "context_length", None)
    if length is not None and "context_length" in OPTIONS:
        options["context_length"] = length
    return resolve(str(path), options=options)


def _shown_options(manifest: Manifest, taken: Collection[str]) -> dict[str, object]:
    """The options of a loader that the engines of a bundle show."""
    interface = next(iter(manifest.interfaces.values()))
    options: dict[str, object] = {}
    if interface.state and "cache" in taken:
        options["cache"] = min(spec.kind for spec in interface.state)  # all are of one kind in what is loaded here
    if "dynamic_size" in taken:
        options["dynamic_size"] = interface.dim("height") is not None
    return options


def _recorded_options(origin: Origin) -> dict[str, object]:
    """List the options that an origin names and that engines do not show."""
    options: dict[str, object] = {}
    for flag, dynamic in _SIDES.items():
        if origin.has(flag):
            options["dynamic_size"] = dynamic
    if origin.has("--lora-partial"):
        options["lora_partial"] = True
    if noise := origin.given("--noise"):
        options["noise"] = noise[-1]
    if (tile := origin.given("--tile")) and tile[-1].isdecimal():
        options["tile"] = int(tile[-1])
    return options


def _checked(program: Program, manifest: Manifest, named: str) -> Program:
    """Check that a program is the one that a bundle was made from; its parts and buffers are as the bundle has them."""
    chosen = any(found.capacity_dim is not None for found in manifest.interfaces.values())
    if PREFILL in manifest.pipeline.engines and can_separate_prefill(program):
        program = with_separate_prefill(program)
    program = in_buffers(program) if chosen else fixed_capacity(program)
    interfaces = {name: part.interface for name, part in program.parts.items()}
    if interfaces.keys() != manifest.interfaces.keys() or any(
        interfaces[name].with_dims(found.dims) != found for name, found in manifest.interfaces.items()
    ):
        raise BundleError(
            f"the bundle's inputs and outputs are not those of {named}",
            hint="name the checkpoint that the bundle was exported from with --checkpoint"
            if program.checkpoint is not None
            else "name the program that the bundle was exported from",
        )
    _require_same(program, manifest, named)
    return program


def recorded_weights(manifest: Manifest) -> str | None:
    """Find the weights that the manifest names; None: those that come with the package.

    Raises:
        CheckpointError: it names none, or they are not there.
    """
    origin = manifest.origin
    if origin is None or origin.shipped:
        return None
    path = origin.checkpoint
    if path is None or _is_remote(path):
        raise CheckpointError(
            "the bundle was made from own weights, and its manifest does not say where they are", hint=_remedy(manifest)
        )
    if not path_exists(path):
        raise CheckpointError(
            f"the bundle was made from the checkpoint {path!r}, which is not there (looked in {str(Path.cwd())!r})",
            hint=_remedy(manifest),
        )
    return path


def _recorded_files(manifest: Manifest, flag: str) -> tuple[str, ...]:
    """Find the files that the manifest says were merged into the weights."""
    files = () if manifest.origin is None else manifest.origin.given(flag)
    for file in files:
        if _is_remote(file):
            raise CheckpointError(
                f"the bundle was made with {flag} {file!r}, which is on another machine",
                hint="copy it here, and export the model again",
            )
    return files


def _is_remote(path: str) -> bool:
    """Check for a path on another machine: a stranger's manifest must not make this one log in there."""
    return path.startswith(("\\\\", "//"))


def _named(path: Path | str | None) -> str:
    return "the shipped checkpoint" if path is None else f"the checkpoint {str(path)!r}"


def _remedy(manifest: Manifest) -> str:
    digest = manifest.provenance.get("checkpoint_sha256", "")
    which = f": its weights have SHA-256 {digest}" if digest else ""
    return f"name it with --checkpoint{which}"


def _require_same(program: Program, manifest: Manifest, named: str) -> None:
    """Check that weights and settings are those of the export: comparing others says nothing of it."""
    origin, recorded = manifest.origin, manifest.provenance.get("checkpoint_sha256")
    if origin is None:
        same = recorded is None or program.weights_sha256 == recorded
    else:
        same = program.module_sha256 == origin.model_sha256
    if same:
        return
    if origin is not None and program.config_sha256 != origin.config_sha256:
        what = "its config.json says something else"
        what += "" if program.weights_sha256 == recorded else ", and so do its weights"
    else:
        what = f"its weights have SHA-256 {program.weights_sha256}"
    raise CheckpointError(
        f"{named} is not the one that the bundle was made from: {what}",
        hint=f"{_remedy(manifest)}; to see what another checkpoint changes, export it and use `aigc-export compare`",
    )


def find_evaluation(
    manifest: Manifest, evaluate: Callable[[Path | str | None], Evaluation], eval_data: Path | str | None
) -> tuple[Evaluation, tuple[str, ...]]:
    """Choose what a bundle is evaluated on: what the user names, else what its export used, where that is found.

    Args:
        manifest: of the bundle.
        evaluate: gives what a path, or None, stands for: `program_evaluation`.
        eval_data: the user's.

    Returns:
        The evaluation, and notes for the user.

    Raises:
        AigcError: see `Workload.evaluation`.
    """
    origin, evaluation = manifest.origin, evaluate(eval_data)
    if eval_data is not None or origin is None or not origin.eval_sha256:
        return evaluation, ()
    named = origin.eval_data
    if named is not None and not _is_remote(named):
        with contextlib.suppress(AigcError):
            again = evaluate(named)
            if again.sha256 == origin.eval_sha256:
                return again, ()
    if evaluation.sha256 == origin.eval_sha256:
        return evaluation, ()
    exported = ", ".join(sorted({result.data for result in manifest.quality if result.data})) or "other text"
    return evaluation, (f"evaluated on {evaluation.data}; the export used {exported}, which was not found",)


def kept_text(manifest: Manifest) -> tuple[KeptData | None, tuple[bytes, ...]]:
    """Read the text that the checkpoint of a bundle keeps, if it is still where the manifest says."""
    with contextlib.suppress(AigcError):
        path = recorded_weights(manifest)
        if path is not None:
            kept, pieces = read_kept(find_weights(path).weights.parent)
            return kept, pieces.get("held_out", ())
    return None, ()
