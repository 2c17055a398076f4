"""Opening a graph with one provider of ONNX Runtime, and proof that this provider is the one that runs it.

ONNX Runtime replaces a provider that it cannot load by the CPU's, and runs on the CPU what a provider has no kernel
for; it tells of neither but in its log. Here both are errors:

1. The provider is among those that the installed package was built with, and the machine has a device for it.
2. It is still the first of the session that was made: it is dropped where its libraries cannot be loaded. The Python
   wrapper's own second try on the CPU is switched off.
3. Every node of the graph is placed on it, but for those that compute shapes.

The exception in 3 is ONNX Runtime's own: sizes are numbers on the host, so what is computed from `Shape` alone stays
there, since a copy to the device and back would cost more. Its option `session.disable_cpu_ep_fallback` knows no such
exception, and refuses every graph with a dynamic shape; the placement is read instead and held against `SHAPE_OPS`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aigc_runtime.backends.ort.denormals import CAN_FLUSH, flushed, isolated
from aigc_runtime.backends.ort.exact_products import EXACT_PRODUCTS, products_saturate
from aigc_runtime.backends.ort.providers import PROVIDERS, Provider
from aigc_runtime.backends.ort.rewrites import leave_out_rewrites
from aigc_runtime.backends.ort.spinning import spin_shortly
from aigc_runtime.backends.threads import available_threads
from aigc_runtime.core.integers import as_integer
from aigc_runtime.device.probe import probe_device
from aigc_runtime.errors import EngineError, EngineMissingError, InputError

__all__ = [
    "SHAPE_OPS",
    "check_placement",
    "import_onnxruntime",
    "open_native",
    "placement_line",
    "unavailable",
]

_LOG = logging.getLogger(__name__)

SHAPE_OPS = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Split", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Cast", "Identity"}
    | {"Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Neg", "Equal", "Where", "ReduceProd"}
)
"""Operators that sizes are computed with. The CUDA provider has kernels for all of them in float and half (see
docs/OperatorKernels.md of ONNX Runtime), so that one on the CPU handles sizes. None multiplies matrices, normalizes or
activates.
"""

_CPU = PROVIDERS["cpu"]
_WARNINGS, _ERRORS = 2, 3
"""Severities of ONNX Runtime's logger; the first is its default."""


def import_onnxruntime(provider: Provider = _CPU) -> Any:
    """The module.

    Raises:
        EngineMissingError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as err:
        raise EngineMissingError(
            "this bundle needs ONNX Runtime, which is not installed", hint=provider.install
        ) from err
    return onnxruntime


def unavailable(ort: Any, provider: Provider) -> EngineError | None:
    """Why a provider cannot run here, or None; nothing is opened for the answer."""
    if provider.name == _CPU.name:
        return None
    built_with = list(ort.get_available_providers())
    if provider.ort_name not in built_with:
        return EngineMissingError(
            f"the installed ONNX Runtime {ort.__version__} has no {provider.ort_name}, only {', '.join(built_with)}",
            hint=provider.install,
        )
    if not probe_device().gpus:
        return EngineError(
            f"no driver here knows a CUDA device, which {provider.ort_name} needs",
            hint="install the driver (`aigc-run doctor` says what is found), or export for --target ort-cpu",
        )
    return None


def open_native(
    ort: Any,
    model: bytes,
    *,
    provider: Provider,
    device_id: int = 0,
    folder: str | None = None,
    threads: int | None = None,
    repeats: bool = False,
) -> tuple[Any, Mapping[str, int]]:
    """Open a graph.

    Args:
        ort: the module.
        model: the graph's bytes.
        provider: that must run it.
        device_id: of several devices, which.
        folder: where external data lies; None for a graph that names none.
        threads: threads inside an operator; None takes all processors that the process may use.
        repeats: whether most runs are short ones of the same shapes, as a token is. Then memory for all inner values of
            such a run is taken at once, as ONNX Runtime does by default: some microseconds less, and up to twice the
            memory where inner values are large, since what the first run took is kept beside it.

    Returns:
        ONNX Runtime's session, and for a provider other than the CPU's how many nodes are placed on which provider.

    Raises:
        EngineMissingError: the installed package was built without the provider.
        EngineError: no device, a graph that does not load, or another provider than the one that was asked for.
        InputError: no such device.
    """
    if (why := unavailable(ort, provider)) is not None:
        raise why
    asked: list[str | tuple[str, dict[str, str]]] = [provider.ort_name]
    options = _options(ort, folder, threads)
    options.enable_mem_pattern = repeats or provider is not _CPU
    logger: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if provider is not _CPU:
        logger = _errors_alone(ort)
        _check_device_id(device_id)
        asked = [(provider.ort_name, {**provider.options, "device_id": str(device_id)})]
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        _preload(ort)
    elif products_saturate(ort):
        options.add_session_config_entry(EXACT_PRODUCTS, "1")
    try:
        with logger:
            session = isolated(lambda: _make(ort, model, options, asked))
    except Exception as err:  # ONNX Runtime's own types share no base class
        raise EngineError(
            f"ONNX Runtime {ort.__version__} cannot load the graph: {err}",
            hint="upgrade onnxruntime, or export the bundle again with an older opset",
        ) from err
    runs = session.get_providers()[0]
    if runs != provider.ort_name:
        raise EngineError(
            f"asked for {provider.ort_name}, ONNX Runtime {ort.__version__} runs {runs}: "
            "it drops a provider whose libraries it cannot load",
            hint="install CUDA and cuDNN of the versions that it was built for: "
            "pip install 'aigc-runtime[ort-gpu]' brings them",
        )
    placement = {} if provider is _CPU else check_placement(ort, session, provider)
    told = placement_line(placement, provider) if placement else provider.ort_name
    _LOG.debug("ONNX Runtime %s, %d threads: %s", ort.__version__, options.intra_op_num_threads, told)
    return session, placement


def _make(ort: Any, model: bytes, options: Any, providers: list[Any]) -> Any:
    with flushed():  # what is folded into constants here is computed as it would be in a run
        return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


def _options(ort: Any, folder: str | None, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_threads()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # what fails is raised as well, and an error that is tried again is none
    leave_out_rewrites(options)
    spin_shortly(options, ort.__version__)
    # In the pool's threads; the caller's own flushes for the length of a run (`OrtSession.run`).
    options.add_session_config_entry("session.set_denormal_as_zero", "1" if CAN_FLUSH else "0")
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    return options


def _check_device_id(device_id: int) -> None:
    gpus = probe_device().gpus
    number = as_integer(device_id)
    if number is None or not 0 <= number < len(gpus):
        found = ", ".join(f"{i}: {gpu.name}" for i, gpu in enumerate(gpus))
        raise InputError(f"there is no CUDA device {device_id!r}", hint=f"valid: {found}")


def _preload(ort: Any) -> None:
    """Load CUDA and cuDNN from where pip put them; ONNX Runtime looks on the system's own paths alone."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it misses, and standard output may be JSON
            ort.preload_dlls()


@contextlib.contextmanager
def _errors_alone(ort: Any) -> Iterator[None]:
    """No warnings on standard error: with every session it warns of a plugin that a provider inside it does not need.

    Its severity can be set and not be asked for, so that afterwards it is ONNX Runtime's own.
    """
    ort.set_default_logger_severity(_ERRORS)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)


def check_placement(ort: Any, session: Any, provider: Provider) -> Mapping[str, int]:
    """How many nodes are placed on which provider; refuses a graph of which another one computes more than shapes.

    Args:
        ort: the module.
        session: opened with the placement recorded.
        provider: that was asked for.

    Raises:
        EngineError: names the nodes that run elsewhere; or this ONNX Runtime does not say.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise EngineError(
            f"ONNX Runtime {ort.__version__} does not say which provider runs a node, so nothing shows that it is "
            f"{provider.ort_name}",
            hint=f"upgrade it: {provider.install}",
        )
    parts = session.get_provider_graph_assignment_info()
    placed = [(part.ep_name, node) for part in parts for node in part.get_nodes()]
    counts = Counter(name for name, _ in placed)
    elsewhere = [node for name, node in placed if name != provider.ort_name and not _computes_shapes(node)]
    if elsewhere or not counts[provider.ort_name]:
        raise EngineError(
            f"{provider.ort_name} was asked for and runs {counts[provider.ort_name]} of {len(placed)} nodes; "
            f"elsewhere: {_named(elsewhere) or 'all of them'}",
            hint="it has no kernel for these operators or their types: export in another --precision or for another "
            "--target",
        )
    return dict(counts)


def placement_line(placement: Mapping[str, int], provider: Provider) -> str:
    """A placement in words.

    >>> placement_line({"CUDAExecutionProvider": 96, "CPUExecutionProvider": 4}, PROVIDERS["cuda"])
    'CUDAExecutionProvider runs 96 of 100 nodes, 4 compute shapes on the host'
    """
    own, total = placement[provider.ort_name], sum(placement.values())
    shapes = f", {total - own} compute shapes on the host" if total > own else ""
    return f"{provider.ort_name} runs {own} of {total} nodes{shapes}"


def _computes_shapes(node: Any) -> bool:
    return node.domain in {"", "ai.onnx"} and node.op_type in SHAPE_OPS


def _named(nodes: Iterable[Any]) -> str:
    listed = [f"{node.op_type} {node.name!r}" for node in nodes]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(listed[:5]) + more
