"""ONNX Runtime's and NNCF's own quantization, in every configuration that a careful user would try.

Each variant gets the same float graph and the same calibration samples as ours. The best variant of a tool, by the
measure that is reported, stands for the tool: it is chosen with hindsight, ours is not.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from quant_subjects import LANGUAGE, Subject

from aigc_calibration.data import CalibrationData
from aigc_calibration.onnx_function import opened_when_called
from aigc_runtime.core.tensors import Array

__all__ = ["NNCF_MISSING", "Variant", "nncf_variants", "nncf_version", "ort_variants", "quiet"]

Variant = Callable[[], bytes]
"""Makes a quantized graph."""
NNCF_MISSING = "rows of NNCF are left out: no interpreter with nncf and onnx was given (--nncf PYTHON)"
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


class Reader:
    """What `quantize_static` calls a CalibrationDataReader.

    With the option `CalibStridedMinMax` it is read in ranges, so that what all values of the graph were is not held
    for all samples at once.
    """

    def __init__(self, feeds: Sequence[Mapping[str, Array]]) -> None:
        self.feeds, self.left = feeds, iter(feeds)

    def __len__(self) -> int:
        return len(self.feeds)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return self.left

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read a part of the feeds from here on."""
        self.left = iter(self.feeds[start_index:end_index])

    def get_next(self) -> Mapping[str, Array] | None:
        """The next feeds; None at the end."""
        return next(self.left, None)


def ort_variants(subject: Subject, precision: str, seed: int, samples: int | None = None) -> dict[str, Variant]:
    """name -> how ONNX Runtime quantizes the graph, calibrated on as many samples as ours.

    Args:
        subject: with the graph.
        precision: of the product.
        seed: of the samples.
        samples: to calibrate on, at most; None takes the subject's number.
    """
    if precision == "int8":
        return {
            f"{method}, {scope}": partial(_ort_static, subject, seed, samples, method, scope)
            for scope in ("products", "all operators", "our float sites kept")
            for method in ("MinMax", "Entropy", "Percentile")
            if scope != "our float sites kept" or _float_nodes(subject)
        }
    if precision == "fp16":
        return {"float16 converter": lambda: _ort_half(subject)}
    if precision == "fp8":
        return {"Distribution": partial(_ort_fp8, subject, seed, samples)}
    if precision in {"int4", "int8-weight"}:
        bits = 4 if precision == "int4" else 8
        methods = ("RTN", "HQQ", "k-quant", "GPTQ") if bits == 4 else ("RTN",)
        return {f"MatMulNBits {m}": partial(_ort_nbits, subject, seed, samples, m, bits) for m in methods}
    return {}


def _float_nodes(subject: Subject) -> list[str]:
    """Nodes that our configuration keeps float in int8."""
    from aigc_calibration.sites import find_sites

    config = subject.config("int8")
    return [s.node for s in find_sites(subject.graph) if s.weight is not None and config.why_float(s.module)]


def _ort_static(subject: Subject, seed: int, samples: int | None, method: str, scope: str) -> bytes:
    """u8 activations, s8 weights per channel, Q/DQ form: what its documentation recommends for x86 with VNNI."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Its shape inference writes files to the folder that it runs in, and leaves them there when it fails.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quiet():
        source, ready, made = (Path(folder) / f"{n}.onnx" for n in ("float", "ready", "quantized"))
        source.write_bytes(subject.proto_bytes())
        try:
            quant_pre_process(source, ready)
        except Exception:  # its symbolic shape inference does not know every graph; its own advice is to skip it
            quant_pre_process(source, ready, skip_symbolic_shape=True)
        # Its histograms take arrays of one shape only.
        feeds = feeds_of(subject, subject.data(seed, samples), one_shape=method != "MinMax")
        strided = subject.calibrated is not None  # few samples of large pictures, all of whose values take memory
        kept = _float_nodes(subject) if scope == "our float sites kept" else []
        quantize_static(
            ready,
            made,
            Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=None if scope == "all operators" else SITE_OPS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            calibrate_method=CalibrationMethod[method],
            # Without it products of activations are quantized too, and the attention mask with them.
            extra_options={
                "MatMulConstBOnly": scope != "all operators",
                **({"CalibStridedMinMax": 1} if strided else {}),
            },
        )
        return made.read_bytes()


def _ort_fp8(subject: Subject, seed: int, samples: int | None) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, made = (Path(folder) / f"{n}.onnx" for n in ("float", "quantized"))
        source.write_bytes(subject.proto_bytes())
        quantize_static(
            source,
            made,
            Reader(feeds_of(subject, subject.data(seed, samples), one_shape=True)),
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


def _ort_nbits(subject: Subject, seed: int, samples: int | None, method: str, bits: int) -> bytes:
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    model = onnx.load_from_string(subject.proto_bytes())
    with quiet():
        if method == "GPTQ":
            reader = Reader(feeds_of(subject, subject.data(seed, samples), one_shape=True))
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


def nncf_version(python: str) -> str | None:
    """Version of NNCF in an interpreter; None where it, or onnx, is not installed there."""
    code = "import nncf, onnx; print('nncf', nncf.__version__)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except OSError:
        return None
    told = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("nncf ")]
    return told[-1] if done.returncode == 0 and told else None


def nncf_variants(
    subject: Subject, precision: str, seed: int, python: str, samples: int | None = None
) -> dict[str, Variant]:
    """name -> how NNCF quantizes the graph, calibrated on as many samples as ours.

    Args:
        subject: with the graph.
        precision: of the product.
        seed: of the samples.
        python: an interpreter with nncf and onnx.
        samples: to calibrate on, at most; None takes the subject's number.
    """
    if precision == "int8":
        return {
            f"{preset}, {correction}{', our float sites kept' if kept else ''}": partial(
                _nncf,
                subject,
                seed,
                python,
                samples,
                {
                    "kind": "static",
                    "preset": preset,
                    "correct_bias": not correction.startswith("no"),
                    "transformer": subject.measure == LANGUAGE,
                },
                kept=kept,
            )
            for kept in (False, True)
            for preset in ("performance", "mixed")
            for correction in ("fast bias correction", "no bias correction")
            if not kept or _float_nodes(subject)
        }
    if precision == "int4":
        by_name: dict[str, dict[str, bool]] = {
            "int4 plain": {},
            "int4 scale estimation": {"scale_estimation": True},
            "int4 AWQ + scale estimation": {"awq": True, "scale_estimation": True},
        }
        return {name: partial(_nncf, subject, seed, python, samples, _weights(4, o)) for name, o in by_name.items()}
    if precision == "int8-weight":
        return {"int8 symmetric": partial(_nncf, subject, seed, python, samples, _weights(8, {}))}
    return {}


def _weights(bits: int, options: Mapping[str, bool]) -> dict[str, Any]:
    return {"kind": "weights", "bits": bits, "block": BLOCK, "options": dict(options)}


def _nncf(
    subject: Subject,
    seed: int,
    python: str,
    samples: int | None,
    request: Mapping[str, Any],
    *,
    kept: bool = False,
) -> bytes:
    """Run `nncf_process.py` on the graph.

    Raises:
        RuntimeError: NNCF failed; the last line that it told.
    """
    import onnx_ir as ir

    from aigc_calibration.prepare import prepare

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # With weights in place of transposed weights, behind which NNCF 3.4 finds none and fails.
        onnx.save(ir.to_proto(prepare(subject.graph)), folder / "model.onnx")
        (folder / "feeds").mkdir()
        if request["kind"] == "static" or request["options"]:
            for index, feeds in enumerate(feeds_of(subject, subject.data(seed, samples))):
                np.savez(folder / "feeds" / f"{index:06}.npz", **feeds)  # type: ignore[arg-type]
        asked = {**request, "ignored": _float_nodes(subject) if kept else []}
        (folder / "request.json").write_text(json.dumps(asked), encoding="utf-8")
        command = [python, str(Path(__file__).with_name("nncf_process.py")), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"NNCF: {' '.join(done.stderr.strip().splitlines()[-1:])}")
        return (folder / "made.onnx").read_bytes()
