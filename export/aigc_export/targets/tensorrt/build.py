"""One builder for TensorRT 10, TensorRT 11 and TensorRT-RTX: an ONNX file in, an engine file and its facts out.

Networks are strongly typed: the precision of every operator is that of the graph, and no builder flag changes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_calibration.bodies import proto_nodes
from aigc_export.errors import GraphRefusedError
from aigc_export.targets.tensorrt import log as trt_log
from aigc_export.targets.tensorrt.checks import check_graph, check_turing, nodes_that_read, target_capabilities
from aigc_export.targets.tensorrt.config import keep_timing_cache, make_config
from aigc_export.targets.tensorrt.inspector import inspect_engine, parse_inspector
from aigc_export.targets.tensorrt.layers import built_types, types_of
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.needs import check_needs, estimate_needs
from aigc_export.targets.tensorrt.precision import PrecisionProof, network_types, prove, telling
from aigc_export.targets.tensorrt.progress import Watch, make_monitor
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_export.targets.tensorrt.write import write_engine
from aigc_runtime.core.progress import Progress
from aigc_runtime.errors import EngineError
from aigc_runtime.system.host_memory import available_memory

if TYPE_CHECKING:
    import onnx

__all__ = ["BuiltTrt", "Shapes", "build_trt"]

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]
"""Graph input -> smallest, best and largest shape: one optimization profile."""

_ONE_BUILD = threading.Lock()
"""The library has one logger in a process, and the facts of a build are read from it."""


@dataclass(frozen=True, kw_only=True)
class BuiltTrt:
    """A built engine.

    Attributes:
        path: of the engine.
        seconds: of the whole build.
        proof: of its precision.
        device_memory_bytes: weights and activations; None where the builder did not say.
        layers: of the compiled engine, one line each; empty where neither builder nor engine did say.
        warnings: of the library, each once.
    """

    path: Path
    seconds: float
    proof: PrecisionProof
    device_memory_bytes: int | None
    layers: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Size of the engine file."""
        return self.path.stat().st_size


def build_trt(
    library: Library,
    source: Path,
    destination: Path,
    settings: BuildSettings,
    *,
    profiles: Sequence[Shapes],
    requested: Mapping[str, str],
    macs: Mapping[str, int],
    progress: Progress | None = None,
) -> BuiltTrt:
    """Build an engine and prove its precision.

    Args:
        library: that builds.
        source: the ONNX file; external data beside it.
        destination: the engine file; whatever fails, nothing is left there.
        settings: the user's choices.
        profiles: one or more, each with every input of the graph that has a dynamic shape.
        requested: product of the graph (MatMul, Gemm, Conv, ConvTranspose) -> type that it should be computed in.
        macs: multiply-accumulates of every one of them.
        progress: called after every step of a phase of the build; False cancels it.

    Raises:
        ConfigError: settings that this library cannot follow.
        InputError, OutputError: not enough memory or disk.
        GraphRefusedError: the graph cannot be built, or would be built wrong; names the node.
        PrecisionError: it was built in another precision.
        CancelledError: `progress` returned False.
        KeyboardInterrupt: Ctrl-C, at the library's next step that it can be stopped at.
        EngineError: the library failed.
    """
    import onnx

    library.check_capabilities(settings.compute_capabilities)
    model = onnx.load(str(source), load_external_data=False)
    graph = model.graph
    capabilities = target_capabilities(library, settings.compute_capabilities)
    check_graph(graph, capabilities)
    if library.ahead_of_time:
        check_turing(model, capabilities)
    weights = sum(path.stat().st_size for path in source.parent.glob(f"{source.name}*"))
    needs = estimate_needs(weight_bytes=weights, nodes=sum(1 for _ in proto_nodes(graph)), profiles=len(profiles))
    check_needs(needs, destination.parent, memory=available_memory())
    watch = Watch(progress)
    with _ONE_BUILD:
        logger, log = library.logger()
        log.messages.clear()
        log.keep = watch.keep
        try:
            with watch.listening():
                return _build(
                    library, logger, log, source, destination, settings, graph, profiles, requested, macs, watch
                )
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
        finally:
            log.messages.clear()
            log.keep = None


def _build(
    library: Library,
    logger: Any,
    log: trt_log.Log,
    source: Path,
    destination: Path,
    settings: BuildSettings,
    graph: onnx.GraphProto,
    profiles: Sequence[Shapes],
    requested: Mapping[str, str],
    macs: Mapping[str, int],
    watch: Watch,
) -> BuiltTrt:
    started = time.perf_counter()
    module = library.module
    builder = module.Builder(logger)
    if not builder:
        raise EngineError(
            f"{module.__name__} {library.version} cannot build here: {trt_log.errors(log) or 'no reason given'}",
            hint="TensorRT needs an NVIDIA device and driver to build; TensorRT-RTX (--target tensorrt-rtx) needs none",
        )
    # A parser keeps a pointer to its network: both stay referenced until the engine is written.
    network = builder.create_network(_network_flags(module))
    parser = module.OnnxParser(network, logger)
    _parse(library, parser, source, log)
    watch.check()
    _let_attention_decompose(module, network)
    types = network_types(library, network)
    config = make_config(library, builder, settings, profiles)
    config.progress_monitor = make_monitor(module, watch)
    built = write_engine(library, builder, network, config, destination, watch)
    _refuse_unused(log, graph)
    _refuse_unreachable(log)
    if not built:
        raise _cannot_build(library, log, settings)
    layers = tuple(trt_log.layer_dump(log))
    found: Mapping[str, str] | None = built_types(layers, requested) if layers else None
    if not library.ahead_of_time:  # it was built for this device, so that the engine itself can be asked
        best = {name: shapes[1] for name, shapes in profiles[0].items()}
        inspected = parse_inspector(inspect_engine(library, logger, destination, best))
        layers, found = (
            tuple(layer.name for layer in inspected),
            telling(requested, macs, types_of(inspected, requested)),
        )
    proof = prove(requested, macs, types, found)
    if library.ahead_of_time and proof.source != "engine":
        raise EngineError(
            f"{module.__name__} {library.version} did not list the layers it compiled, so its precision is unproven",
            hint="use the version in constraints.txt",
        )
    keep_timing_cache(library, config, settings)
    del parser
    return BuiltTrt(
        path=destination,
        seconds=time.perf_counter() - started,
        proof=proof,
        device_memory_bytes=trt_log.memory_need(log).total,
        layers=layers,
        warnings=tuple(dict.fromkeys(text for severity, text in log.messages if severity == "WARNING")),
    )


def _network_flags(module: Any) -> int:
    """Strongly typed: a flag in TensorRT 10, the only kind in TensorRT 11 and RTX, which may have no flag for it."""
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(library: Library, parser: Any, source: Path, log: trt_log.Log) -> None:
    """Parse an ONNX file into a network."""
    if not parser.parse_from_file(str(source)):
        found = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = "; ".join(f"{e.node_operator()} {e.node_name()!r}: {e.desc()}" for e in found)
        raise GraphRefusedError(
            f"TensorRT does not take the graph: {reasons or trt_log.errors(log, ahead_of_time=library.ahead_of_time)}",
            hint="the operator, or this form of it, has no TensorRT kernel",
        )


def _refuse_unused(log: trt_log.Log, graph: onnx.GraphProto) -> None:
    """The parser drops what it does not know, and the builder what nothing reads: either computes something else."""
    for value in trt_log.unused_inputs(log):
        readers = ", ".join(repr(name) for name in nodes_that_read(graph, value)) or "no node"
        raise GraphRefusedError(
            f"TensorRT drops the input {value!r} of {readers}, and would compute something else",
            hint="export the model without it",
        )


def _refuse_unreachable(log: trt_log.Log) -> None:
    """The builder leaves out devices that a layer does not run on."""
    for devices, why in trt_log.unreachable_targets(log):
        raise GraphRefusedError(
            f"the engine would not run on compute capability {', '.join(devices)}, which was asked for: {why}",
            hint="leave it out, or choose another precision",
        )


def _cannot_build(library: Library, log: trt_log.Log, settings: BuildSettings) -> GraphRefusedError:
    reasons = trt_log.errors(log, ahead_of_time=library.ahead_of_time) or "no reason given"
    hint = "the message names the node where the library knows it; AIGC_DEBUG=1 shows the whole trace"
    if settings.workspace_bytes is not None and trt_log.lacks_workspace(log):
        hint = f"--workspace-mib is {settings.workspace_bytes >> 20}: give it more, or leave it out"
    return GraphRefusedError(
        f"{library.module.__name__} {library.version} cannot build the graph: {reasons}", hint=hint
    )


def _let_attention_decompose(module: Any, network: Any) -> None:
    """Attention without a fused kernel (fp32, or a head of 8) may be split into its parts, in place of failing."""
    if not hasattr(module, "IAttentionInputLayer"):
        return
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type == module.LayerType.ATTENTION_INPUT:
            layer.__class__ = module.IAttentionInputLayer
            layer.attention.decomposable = True
