"""ONNX Runtime's and NNCF's own quantization, in every configuration that a careful user would try.

Each variant gets the same float graph and the same calibration samples as ours. The best variant of a tool, by the
measure that is reported, stands for the tool: it is chosen with hindsight, ours is not.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from quant_subjects import Subject

from aigc_calibration.data import CalibrationData
from aigc_calibration.onnx_function import opened_when_called
from aigc_runtime.core.tensors import Array

__all__ = ["NNCF_MISSING", "Variant", "nncf_variants", "nncf_version", "ort_variants", "quiet"]

Variant = Callable[[], bytes]
"""Makes a quantized graph."""
NNCF_MISSING = "nncf not installed: pip install nncf"
SITE_OPS = ["Conv", "Gemm", "MatMul"]
BLOCK = 32


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the tools' own progress and warnings."""
    logging.disable(logging.CRITICAL)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def feeds_of(subject: Subject, data: CalibrationData, *, one_shape: bool = False) -> list[dict[str, Array]]:
    """All calibration feeds; `one_shape` keeps those of the first's shapes (of text: the prompts)."""
    found = list(data.batches(opened_when_called(subject.graph)))
    if not one_shape:
        return found
    shapes = {name: array.shape for name, array in found[0].items()}
    return [f for f in found if all(f[n].shape == s for n, s in shapes.items())]


class _Reader:
    """What `quantize_static` calls a CalibrationDataReader."""

    def __init__(self, feeds: Sequence[Mapping[str, Array]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self.feeds, None)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return self.feeds


def ort_variants(subject: Subject, precision: str, seed: int) -> dict[str, Variant]:
    """name -> how ONNX Runtime quantizes the graph."""
    if precision == "int8":
        return {
            f"{method}, {scope}": partial(_ort_static, subject, seed, method, scope)
            for scope in ("products", "all operators", "our float sites kept")
            for method in ("MinMax", "Entropy", "Percentile")
        }
    if precision == "fp16":
        return {"float16 converter": lambda: _ort_half(subject)}
    if precision == "fp8":
        return {"Distribution": lambda: _ort_fp8(subject, seed)}
    if precision in {"int4", "int8-weight"}:
        bits = 4 if precision == "int4" else 8
        methods = ("RTN", "HQQ", "k-quant", "GPTQ") if bits == 4 else ("RTN",)
        return {f"MatMulNBits {m}": partial(_ort_nbits, subject, seed, m, bits) for m in methods}
    return {}


def _float_nodes(subject: Subject) -> list[str]:
    """Nodes that our configuration keeps float in int8."""
    from aigc_calibration.sites import find_sites

    config = subject.config("int8")
    return [s.node for s in find_sites(subject.graph) if s.weight is not None and config.why_float(s.module)]


def _ort_static(subject: Subject, seed: int, method: str, scope: str) -> bytes:
    """u8 activations, s8 weights per channel, Q/DQ form: what its documentation recommends for x86 with VNNI."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, ready, made = (Path(folder) / f"{n}.onnx" for n in ("float", "ready", "quantized"))
        source.write_bytes(subject.proto_bytes())
        try:
            quant_pre_process(source, ready)
        except Exception:  # its symbolic shape inference does not know every graph; its own advice is to skip it
            quant_pre_process(source, ready, skip_symbolic_shape=True)
        # Its histograms take arrays of one shape only.
        feeds = feeds_of(subject, subject.data(seed), one_shape=method != "MinMax")
        kept = _float_nodes(subject) if scope == "our float sites kept" else []
        quantize_static(
            ready,
            made,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=None if scope == "all operators" else SITE_OPS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            calibrate_method=CalibrationMethod[method],
            # Without it products of activations are quantized too, and the attention mask with them.
            extra_options={"MatMulConstBOnly": scope != "all operators"},
        )
        return made.read_bytes()


def _ort_fp8(subject: Subject, seed: int) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, made = (Path(folder) / f"{n}.onnx" for n in ("float", "quantized"))
        source.write_bytes(subject.proto_bytes())
        quantize_static(
            source,
            made,
            _Reader(feeds_of(subject, subject.data(seed), one_shape=True)),
            op_types_to_quantize=SITE_OPS,
            activation_type=QuantType.QFLOAT8E4M3FN,
            weight_type=QuantType.QFLOAT8E4M3FN,
            calibrate_method=CalibrationMethod.Distribution,
            extra_options={"MatMulConstBOnly": True},
        )
        return made.read_bytes()


def _ort_half(subject: Subject) -> bytes:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        model = onnx.load_from_string(subject.proto_bytes())
        made: bytes = convert_float_to_float16(model, keep_io_types=True).SerializeToString()
        return made


def _ort_nbits(subject: Subject, seed: int, method: str, bits: int) -> bytes:
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    model = onnx.load_from_string(subject.proto_bytes())
    with quiet():
        if method == "GPTQ":
            reader = _Reader(feeds_of(subject, subject.data(seed), one_shape=True))
            config: Any = nbits.GPTQWeightOnlyQuantConfig(calibration_data_reader=reader, block_size=BLOCK)
        elif method == "HQQ":
            config = nbits.HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=bits)
        elif method == "k-quant":
            config = nbits.KQuantWeightOnlyQuantConfig()
        else:
            config = nbits.DefaultWeightOnlyQuantConfig(
                block_size=BLOCK, is_symmetric=True, accuracy_level=4, bits=bits
            )
        writer = nbits.MatMulNBitsQuantizer(
            model, block_size=BLOCK, is_symmetric=True, accuracy_level=4, algo_config=config
        )
        writer.process()
        made: bytes = writer.model.model.SerializeToString()
        return made


def nncf_version() -> str | None:
    """Of NNCF; None where it is not installed."""
    try:
        with quiet():
            import nncf
    except ImportError:
        return None
    found: str = nncf.__version__
    return found


def nncf_variants(subject: Subject, precision: str, seed: int, samples: int | None = None) -> dict[str, Variant]:
    """name -> how NNCF quantizes the graph, calibrated on as many samples as ours by default."""
    if precision == "int8":
        return {
            f"{preset}, {correction}{', our float sites kept' if kept else ''}": (
                partial(_nncf_static, subject, seed, preset, correction, kept, samples)
            )
            for kept in (False, True)
            for preset in ("performance", "mixed")
            for correction in ("fast bias correction", "no bias correction")
        }
    if precision == "int4":
        by_name: dict[str, dict[str, bool]] = {
            "int4 plain": {},
            "int4 scale estimation": {"scale_estimation": True},
            "int4 AWQ + scale estimation": {"awq": True, "scale_estimation": True},
        }
        return {name: partial(_nncf_weights, subject, seed, 4, options) for name, options in by_name.items()}
    if precision == "int8-weight":
        return {"int8 symmetric": lambda: _nncf_weights(subject, seed, 8, {})}
    return {}


def _constant_weights(subject: Subject) -> onnx.ModelProto:
    """The float graph with weights in place of transposed weights, behind which NNCF 3.4 finds none and fails."""
    import onnx_ir as ir

    from aigc_calibration.prepare import prepare

    return ir.to_proto(prepare(subject.graph))


def _nncf_static(
    subject: Subject, seed: int, preset: str, correction: str, kept: bool, samples: int | None = None
) -> bytes:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters

    with quiet():
        feeds = feeds_of(subject, subject.data(seed, samples))
        names = _float_nodes(subject) if kept else []
        made = nncf.quantize(
            _constant_weights(subject),
            nncf.Dataset(feeds),
            preset=nncf.QuantizationPreset(preset),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER if subject.program.kind == "text" else None,
            ignored_scope=nncf.IgnoredScope(names=names) if names else None,
            advanced_parameters=AdvancedQuantizationParameters(disable_bias_correction=correction.startswith("no")),
        )
        data: bytes = made.SerializeToString()
        return data


def _nncf_weights(subject: Subject, seed: int, bits: int, options: Mapping[str, bool]) -> bytes:
    import nncf

    with quiet():
        model = _constant_weights(subject)
        model = onnx.version_converter.convert_version(model, 21) if bits == 4 else model
        feeds = feeds_of(subject, subject.data(seed))
        # What it makes of convolutions, ONNX Runtime refuses to load: scales of more than one axis (NNCF 3.4).
        given: dict[str, Any] = {"ignored_scope": nncf.IgnoredScope(types=["Conv", "ConvTranspose"], validate=False)}
        if bits == 4:
            given |= {"ratio": 1.0, "group_size": BLOCK, "all_layers": True, **options}
        if options:
            given |= {"dataset": nncf.Dataset(feeds), "subset_size": len(feeds)}
        mode = nncf.CompressWeightsMode.INT4_SYM if bits == 4 else nncf.CompressWeightsMode.INT8_SYM
        data: bytes = nncf.compress_weights(model, mode=mode, **given).SerializeToString()
        return data
