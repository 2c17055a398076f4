"""From a graph to the engine of its target, and to the session that parity compares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from aigc_calibration.coverage import site_macs
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.prepare import prepare
from aigc_export.parity.graph_session import bf16_products_in_float, bounded
from aigc_export.prepare.prepare import PreparedModel, pass_feeds
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.ort import BuiltEngine, build_ort
from aigc_export.targets.profiles import derive_profiles, input_shapes, narrowed
from aigc_export.targets.settings import BuildSettings
from aigc_export.targets.table import get_target
from aigc_export.targets.tensorrt.build import BuiltTrt, build_trt
from aigc_export.targets.tensorrt.checks import MIN_CAPABILITY
from aigc_export.targets.tensorrt.config import check_settings
from aigc_export.targets.tensorrt.library import Library, load_library
from aigc_models.program import Program
from aigc_models.torch_session import TorchSession
from aigc_runtime.backends.ort.open import import_onnxruntime, placement_line, unavailable
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.bundle.engine_build import EngineBuild, Flavor, ShapeProfile, capability_number
from aigc_runtime.bundle.providers import PROVIDERS, EngineProvider
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.progress import Progress
from aigc_runtime.core.session import Session
from aigc_runtime.device.probe import Gpu, host_platform, probe_device
from aigc_runtime.errors import ConfigError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["EngineUnderTest", "build_engine", "check_build", "reference_session"]

ENGINE_FILE = "model.engine"
_TYPE_OF = {"float": "fp32"}
_NEEDED = {"bf16": MIN_CAPABILITY["BFLOAT16"], "fp8": MIN_CAPABILITY["FLOAT8E4M3FN"]}


@dataclass(frozen=True, kw_only=True)
class EngineUnderTest:
    """A built engine and the sessions that stand for it in parity.

    Attributes:
        engine: its files.
        candidate: session that takes the shapes that the engine takes.
        unbounded: session that takes all shapes that the model takes, for measuring quality on large batches.
        graph: that ONNX Runtime can run, for bisection.
        summary: what the build reports, for the stage's line.
        provenance: facts for the manifest.
    """

    engine: BuiltEngine
    candidate: Session
    unbounded: Session
    graph: ir.Model
    summary: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


def check_build(recipe: ExportRecipe) -> None:
    """Check before the work starts that the recipe can be built.

    Raises:
        EngineMissingError: the library is not installed; the hint is the install line.
        ConfigError: settings that the target, or a device, cannot follow.
    """
    engine = get_target(recipe.target).engine
    if engine == "onnxruntime":
        if recipe.build != BuildSettings():
            raise ConfigError(
                f"target {recipe.target!r} compiles nothing, so it takes no compute capability, profile or the like",
                hint="leave these options out, or choose --target tensorrt-rtx",
            )
        return
    library = load_library(cast(Flavor, engine))
    library.check_capabilities(recipe.build.compute_capabilities)
    check_settings(library, recipe.build)
    if recipe.opset is not None and recipe.opset > get_target(recipe.target).opset:
        raise ConfigError(
            f"opset {recipe.opset} is not supported by target {recipe.target!r}",
            hint=f"TensorRT 10.3 reads up to {get_target(recipe.target).opset}",
        )
    least = _NEEDED.get(recipe.precision)
    for text in recipe.build.compute_capabilities:
        if least is not None and capability_number(text) < capability_number(least):
            raise ConfigError(
                f"devices of compute capability {text} do not multiply {recipe.precision} numbers",
                hint=f"build for {least} and later, or choose another --precision",
            )


def reference_session(program: Program, recipe: ExportRecipe) -> Session:
    """Make a PyTorch session that takes the shapes that the engine will take, and no others.

    Raises:
        ConfigError: profiles that the model cannot follow.
    """
    reference = TorchSession(program.part)
    if get_target(recipe.target).engine == "onnxruntime":
        return reference
    profiles = derive_profiles(program, recipe.build.profiles)
    interface = narrowed(program.part.interface, profiles)
    return ArraySession(bounded(reference.call, interface, profiles), interface)


def build_engine(
    prepared: PreparedModel,
    graph: ir.Model,
    plan: QuantizationPlan | None,
    recipe: ExportRecipe,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> EngineUnderTest:
    """Build the engine of the recipe's target.

    Args:
        prepared: the model and its float graph.
        graph: to build, quantized or not.
        plan: that it was quantized by; None for fp32.
        recipe: target and settings.
        folder: where the files go.
        progress: called after every step of a compilation; False cancels it, and what it raises ends it.

    Raises:
        AigcError: it cannot be built, or was built in another precision than was asked for.
    """
    return _BUILDERS[get_target(recipe.target).engine](prepared, graph, plan, recipe, folder, progress)


def _build_ort(
    prepared: PreparedModel,
    graph: ir.Model,
    _plan: QuantizationPlan | None,
    recipe: ExportRecipe,
    folder: Path,
    _progress: Progress | None,
) -> EngineUnderTest:
    engine = build_ort(graph, prepared.part.interface, folder)
    if get_target(recipe.target).provider != "cpu":
        return _build_for_provider(graph, engine, recipe)
    session = _ort_session(engine, recipe, "cpu")
    return EngineUnderTest(engine=engine, candidate=session, unbounded=session, graph=graph)


def _build_for_provider(graph: ir.Model, engine: BuiltEngine, recipe: ExportRecipe) -> EngineUnderTest:
    """Compare with the provider where it runs; elsewhere with the same file on a CPU, no node rewritten."""
    provider = PROVIDERS[get_target(recipe.target).provider]
    why = unavailable(import_onnxruntime(provider), provider)
    session: Session
    parity: Literal["engine", "graph"]
    provenance: dict[str, str] = {}
    if why is None:
        opened = _ort_session(engine, recipe, provider.name)
        session, parity, summary = opened, "engine", f"; {placement_line(opened.placement, provider)}"
    else:
        session = ArraySession(
            open_onnx(engine.files[engine.file], threads=recipe.threads, optimize=False), engine.interface
        )
        parity, summary = "graph", f"; {provider.name} was not tried here: parity is that of its graph on a CPU"
        provenance["parity_of"] = (
            f"the graph, run by ONNX Runtime on a CPU; {provider.ort_name} was not tried: {why.message}"
        )
    built = replace(engine, provider=EngineProvider(name="cuda", parity=parity))
    return EngineUnderTest(
        engine=built, candidate=session, unbounded=session, graph=graph, summary=summary, provenance=provenance
    )


def _ort_session(engine: BuiltEngine, recipe: ExportRecipe, device: str) -> OrtSession:
    path = engine.files[engine.file]
    return OrtSession(
        path.read_bytes(),
        engine.interface,
        folder=str(path.parent.absolute()),
        threads=recipe.threads,
        device=device,
    )


def _build_trt(
    prepared: PreparedModel,
    graph: ir.Model,
    plan: QuantizationPlan | None,
    recipe: ExportRecipe,
    folder: Path,
    progress: Progress | None,
) -> EngineUnderTest:
    part, library = prepared.part, load_library(cast(Flavor, get_target(recipe.target).engine))
    profiles = derive_profiles(prepared.program, recipe.build.profiles)
    source = save_graph(graph, folder / "source.onnx")[0]
    macs = site_macs(prepare(prepared.graph), pass_feeds(part, recipe.seed)[0])
    low = {} if plan is None else {op.node: _TYPE_OF.get(op.precision, op.precision) for op in plan.ops}
    built = build_trt(
        library,
        source,
        folder / ENGINE_FILE,
        recipe.build,
        profiles=[input_shapes(part, profile) for profile in profiles],
        requested={node: low.get(node, "fp32") for node in macs},
        macs=macs,
        progress=progress,
    )
    # Parity runs the very file that was built; only bf16, for which ONNX Runtime has no kernels, is spelled out first.
    runnable = bf16_products_in_float(graph) if recipe.precision == "bf16" else graph
    compared = save_graph(runnable, folder / "compared.onnx")[0] if runnable is not graph else source
    function = open_onnx(compared, threads=recipe.threads, optimize=False)
    engine = BuiltEngine(
        kind=library.flavor,
        file=ENGINE_FILE,
        files={ENGINE_FILE: built.path},
        seconds=built.seconds,
        build=_facts(library, built, recipe.build, profiles),
        interface=narrowed(part.interface, profiles),
    )
    return EngineUnderTest(
        engine=engine,
        candidate=ArraySession(bounded(function, engine.interface, profiles), engine.interface),
        unbounded=ArraySession(function, part.interface),
        graph=runnable,
        summary=f"; {built.proof}; built, not run here: parity is that of its graph",
        provenance=_provenance(library, source, prepared.program),
    )


def _facts(
    library: Library, built: BuiltTrt, settings: BuildSettings, profiles: tuple[ShapeProfile, ...]
) -> EngineBuild:
    own = None if settings.compute_capabilities else _own_gpu()
    capabilities = settings.compute_capabilities if own is None else (own.compute_capability,)
    parity: Literal["engine", "graph"] = "graph"
    return EngineBuild(
        flavor=library.flavor,
        version=library.version,
        cuda_major=library.cuda_major,
        platform=host_platform(),
        compute_capabilities=capabilities,
        hardware_compatibility=settings.hardware_compatibility,
        version_compatible=settings.version_compatible,
        weight_streaming=settings.weight_streaming,
        device_memory_bytes=built.device_memory_bytes,
        profiles=profiles,
        work={kind: round(share, 6) for kind, share in built.proof.work.items()},
        work_source=built.proof.source,
        parity=parity,
        gpu=None if own is None else own.name,
    )


def _own_gpu() -> Gpu:
    """Find the GPU that TensorRT has just built for: the first one."""
    gpus = probe_device().gpus
    if not gpus:
        raise ConfigError("the GPU that the engine was built for was not found", hint="run `aigc-run doctor`")
    return gpus[0]


def _provenance(library: Library, source: Path, program: Program) -> dict[str, str]:
    digest = hashlib.sha256()
    for path in sorted(source.parent.glob(f"{source.name}*")):
        digest.update(path.read_bytes())
    return {
        "built_graph_sha256": digest.hexdigest(),
        library.module.__name__: library.version,
        "parity_of": f"the graph of the {program.kind} engine, run by ONNX Runtime on a CPU; the engine was not run",
    }


_Builder = Callable[
    [PreparedModel, "ir.Model", "QuantizationPlan | None", ExportRecipe, Path, "Progress | None"], EngineUnderTest
]
_BUILDERS: dict[str, _Builder] = {"onnxruntime": _build_ort, "tensorrt": _build_trt, "tensorrt-rtx": _build_trt}
"""Kind of engine -> builder."""
