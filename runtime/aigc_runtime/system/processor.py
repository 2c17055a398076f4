"""Which kernels for 8-bit products this processor gets, named by the instructions that they are made of.

Engines choose their kernels by what the processor offers, and a result belongs to the kernels that computed it. The
processor is asked, not the system: an emulator shows the host's `/proc/cpuinfo`.
"""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from collections.abc import Mapping, Set
from pathlib import Path

from aigc_runtime.errors import ConfigError

__all__ = [
    "BYTE_PRODUCTS",
    "INSTRUCTION_SETS",
    "check_instruction_set",
    "find_instruction_set",
    "instruction_set",
    "processor_flags",
    "processor_name",
    "reconciled",
]

INSTRUCTION_SETS: dict[str, tuple[str, frozenset[str]]] = {
    "amx_int8": ("x86_64", frozenset({"amx_tile", "amx_int8", "avx512_vnni"})),
    "avx512_vnni": ("x86_64", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"})),
    "avx512": ("x86_64", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})),
    "avx_vnni": ("x86_64", frozenset({"avx2", "fma", "avx_vnni"})),
    "avx2": ("x86_64", frozenset({"avx2", "fma"})),
    "sse": ("x86_64", frozenset()),
    "neon_i8mm": ("aarch64", frozenset({"asimddp", "i8mm"})),
    "neon_dotprod": ("aarch64", frozenset({"asimddp"})),
    "neon": ("aarch64", frozenset()),
}
"""name -> (architecture, flags that the processor must have, as Linux calls them), the first that fits counts.

From `onnxruntime/core/mlas/lib/platform.cpp` of ONNX Runtime, which takes the same decisions in this order.
"""

BYTE_PRODUCTS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "neon_i8mm", "neon_dotprod"})
"""Those with instructions that multiply 8-bit numbers and add in 32 bits; elsewhere floats may be faster."""

_NAME = re.compile(r"[a-z0-9_.-]{1,32}")
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_NUMPY_NAMES = {
    "AVX2": "avx2",
    "FMA3": "fma",
    "AVX512F": "avx512f",
    "AVX512BW": "avx512bw",
    "AVX512DQ": "avx512dq",
    "AVX512VL": "avx512vl",
    "AVX512VNNI": "avx512_vnni",
    "ASIMDDP": "asimddp",
}
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_ARM_BITS = {(_AT_HWCAP, 20): "asimddp", (_AT_HWCAP2, 13): "i8mm"}
"""(entry of the auxiliary vector, bit) -> flag: asm/hwcap.h of Linux."""


def instruction_set() -> str | None:
    """The key of `INSTRUCTION_SETS` of this processor; None on one that is not known here."""
    return find_instruction_set(platform.machine(), processor_flags())


def processor_name() -> str:
    """What this machine calls its processor: a maker's name, or the architecture where it tells no more."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def find_instruction_set(machine: str, flags: Set[str]) -> str | None:
    """The key of `INSTRUCTION_SETS` of a processor.

    Args:
        machine: its architecture, as `platform.machine` tells it.
        flags: what it offers, as Linux calls it.

    >>> find_instruction_set("x86_64", {"sse4_2", "avx", "avx2", "fma"})
    'avx2'
    """
    architecture = _ARCHITECTURES.get(machine.lower())
    for name, (wanted, needed) in INSTRUCTION_SETS.items():
        if wanted == architecture and needed <= flags:
            return name
    return None


def check_instruction_set(name: str) -> None:
    """Refuse what is no name of an instruction set; one that only a later version knows is none the worse.

    Raises:
        ConfigError: anything but 1 to 32 lower-case letters, digits, `_`, `.` and `-`.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"instruction set {name[:64]!r}", hint=f"known: {', '.join(INSTRUCTION_SETS)}")


def processor_flags() -> frozenset[str]:
    """What this processor offers, as Linux calls it."""
    if sys.platform == "linux" and _ARCHITECTURES.get(platform.machine().lower()) == "aarch64":
        return _auxiliary_flags()
    return reconciled(_listed_flags(), _numpy_features())


def reconciled(listed: frozenset[str], features: Mapping[str, bool]) -> frozenset[str]:
    """The system's list, corrected by numpy, which asks the processor itself but not for everything.

    Where numpy misses what the list names, the list is another processor's, and nothing else of it counts.

    Args:
        listed: flags from the system; empty where it has no list.
        features: numpy's name -> whether the processor has it; empty where numpy does not tell.
    """
    asked = {flag: features[name] for name, flag in _NUMPY_NAMES.items() if name in features}
    found = frozenset(flag for flag, there in asked.items() if there)
    if any(flag in listed and not there for flag, there in asked.items()):
        return found
    return listed | found


def _listed_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    line = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(line.group(1).split()) if line else frozenset()


def _numpy_features() -> Mapping[str, bool]:
    """The table by which numpy chooses its kernels; it is not part of numpy's interface, so it may be absent."""
    import numpy as np

    core = getattr(np, "_core", None) or getattr(np, "core", None)
    found = getattr(getattr(core, "_multiarray_umath", None), "__cpu_features__", None)
    return found if isinstance(found, dict) else {}


def _auxiliary_flags() -> frozenset[str]:
    """From the auxiliary vector, which the kernel hands to every process, and an emulator to an emulated one."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return frozenset()
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return frozenset(flag for (entry, bit), flag in _ARM_BITS.items() if getauxval(entry) >> bit & 1)
