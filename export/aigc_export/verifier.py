"""Compare a published bundle with a PyTorch model again: the shipped weights, or the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aigc_export.bisect import Divergence, bisect
from aigc_export.capture import capture, example_sizes
from aigc_export.graph_session import graph_session
from aigc_export.parity import check_parity
from aigc_export.recipes import check_quality_samples
from aigc_export.reference import make_cases, make_generation
from aigc_export.tolerances import with_user_limits
from aigc_models.paired import make_judge
from aigc_models.spec import ExportSpec, example_feeds
from aigc_models.torch_session import TorchSession
from aigc_models.zoo import MODELS, LoadedModel, load_model
from aigc_runtime.backends import open_session
from aigc_runtime.bundle import Bundle
from aigc_runtime.compare import Tolerance
from aigc_runtime.errors import BundleError
from aigc_runtime.manifest import Tolerances
from aigc_runtime.verify import ParityReport

__all__ = ["Verification", "load_original", "verify_against_torch"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The report, what bisection found if it was asked for and parity is missed, and the limits that were applied."""

    report: ParityReport
    divergence: Divergence | None
    tolerances: Tolerances


def load_original(bundle: Bundle, checkpoint: Path | str | None) -> LoadedModel:
    """The PyTorch model that a bundle was made from.

    Args:
        bundle: opened.
        checkpoint: its weights; None takes the shipped ones.

    Raises:
        BundleError: a model that is not in the zoo, or with other inputs than the bundle's.
        CheckpointError: the checkpoint is damaged or foreign.
    """
    manifest = bundle.manifest
    if manifest.name not in MODELS:
        raise BundleError(f"the bundle's model {manifest.name!r} is unknown here", hint=f"known: {', '.join(MODELS)}")
    options: dict[str, object] = {}
    if manifest.state and "cache" in MODELS[manifest.name].options:
        options["cache"] = manifest.state[0].kind
    if "dynamic_size" in MODELS[manifest.name].options:
        options["dynamic_size"] = any(d.name == "height" for d in manifest.dims)
    loaded = load_model(manifest.name, checkpoint=checkpoint, options=options)
    spec = loaded.spec
    if (spec.inputs, spec.outputs, spec.state) != (manifest.inputs, manifest.outputs, manifest.state):
        raise BundleError(
            "the bundle's inputs and outputs are not those of this checkpoint",
            hint="name the checkpoint that the bundle was exported from with --checkpoint",
        )
    return loaded


def verify_against_torch(
    bundle: Bundle,
    *,
    checkpoint: Path | str | None = None,
    find_first_divergence: bool = False,
    quality_samples: int = 200,
    seed: int = 1,
    threads: int | None = None,
    tolerance: Mapping[str, float] | None = None,
) -> Verification:
    """Run all levels of parity on a bundle, with fresh inputs, under the limits in its manifest.

    Args:
        bundle: opened.
        checkpoint: see `load_original`.
        find_first_divergence: bisect the graph if parity is missed.
        quality_samples: see `ExportRecipe`.
        seed: of the inputs; another one than the export's tries inputs that it has not seen.
        threads: of the engine.
        tolerance: limits in place of the manifest's, by name.

    Raises:
        ConfigError: one quality sample, or fewer than none, or a limit that can never fail.
        UnknownNameError: no such limit.
        AigcError: the bundle, the checkpoint or the engine cannot be used. Missed parity is not raised: see the
            report.
    """
    check_quality_samples(quality_samples)
    manifest = bundle.manifest
    tolerances = with_user_limits(manifest.tolerances, tolerance or {}, family=manifest.family)
    loaded = load_original(bundle, checkpoint)
    spec = loaded.spec
    reference = TorchSession(spec)
    with open_session(bundle, threads=threads) as candidate:
        bounded = graph_session(reference.call, spec, dims=tuple(candidate.dims.values()))
        report = check_parity(
            candidate,
            spec,
            name=manifest.name,
            target=manifest.target,
            precision=manifest.precision,
            cases=make_cases(bounded, spec, seed=seed),
            generation=make_generation(bounded, spec, seed=seed),
            judgement=make_judge(
                reference, spec.settings, own_metric=loaded.has_metric, samples=quality_samples, seed=seed
            )(candidate),
            tolerances=tolerances,
        )
    divergence = None
    if find_first_divergence and not report.passed:
        divergence = _bisect(bundle, spec, seed, tolerances.tensor)
    return Verification(report=report, divergence=divergence, tolerances=tolerances)


def _bisect(bundle: Bundle, spec: ExportSpec, seed: int, tolerance: Tolerance) -> Divergence:
    import onnx

    graph = onnx.load(str(bundle.path / bundle.manifest.engine.file))
    return bisect(
        graph,
        capture(spec).program,
        example_feeds(spec, example_sizes(spec), seed=seed),
        output_names=spec.graph_outputs,
        tolerance=tolerance,
    )
