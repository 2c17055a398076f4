"""Products of 8-bit numbers that are the same on every processor.

x86 processors without VNNI multiply unsigned by signed 8-bit numbers in pairs, whose sum saturates at 16 bits:
255 x 127 + 255 x 127 becomes 32,767. ONNX Runtime takes these kernels by default. With `session.x64quantprecision` it
stores weights as unsigned numbers, for which it has exact kernels on every x86 processor. Where the default ones are
exact too, on VNNI, those are 2.3 to 2.6 times slower (onnxruntime 1.32), so the option is set only where the default
kernels are wrong. A product of the largest codes tells; what a processor says of itself would have to be translated
into ONNX Runtime's choice of kernels. See docs/adr/0012-eight-bit-products.md.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

import numpy as np

from aigc_runtime.backends.ort.denormals import isolated

__all__ = ["EXACT_PRODUCTS", "PROBE", "products_saturate"]

EXACT_PRODUCTS = "session.x64quantprecision"
"""Entry of a session's configuration: "1" for exact products. No processor but x86 needs it, or knows it."""

PROBE = (
    b'\x08\x04:\x80\x01\n\x1e\n\x01x\n\x01w\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01g'
    b"*\x1b\x08\x04\x08\x04\x10\x03B\x01wJ\x10"
    + b"\x7f"
    * 16
    + b"*\x08\x10\x02B\x01aJ\x01\x00*\x08\x10\x03B\x01bJ\x01\x00"
    b"Z\x14\n\x01x\x12\x0f\n\r\x08\x02\x12\t\n\x03\x12\x01n\n\x02\x08\x04"
    b"b\x14\n\x01y\x12\x0f\n\r\x08\x06\x12\t\n\x03\x12\x01n\n\x02\x08\x04B\x04\n\x00\x10\n"
)
"""An ONNX graph: `y [n, 4] int32 = MatMulInteger(x [n, 4] uint8, w [4, 4] int8, 0, 0)`, all of w being 127.

Without the zero points, onnxruntime 1.23 ends the process where it makes weights unsigned.
"""


@cache
def products_saturate(ort: Any) -> bool:
    """Whether ONNX Runtime's default kernels are wrong on this processor; 1 ms, once a process.

    Also true where nothing tells: of a build that holds no kernels for integers.

    Args:
        ort: the module.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with contextlib.suppress(Exception):  # ONNX Runtime's own types share no base class
        session = isolated(lambda: ort.InferenceSession(PROBE, options, providers=["CPUExecutionProvider"]))
        # One row and several are multiplied by kernels of their own.
        found = [session.run(None, {"x": np.full((rows, 4), 255, dtype=np.uint8)})[0] for rows in (1, 2)]
        return any((products != 4 * 255 * 127).any() for products in found)
    return True
