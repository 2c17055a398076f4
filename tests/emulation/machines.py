"""Machines with other processors: this one's Python, or a bare aarch64 one, run by qemu-user."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.system.processor import instruction_set

from . import arm64

__all__ = ["HERE", "ROOT", "X86", "Machine", "arm_machine", "x86_machine"]

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "apt-get install qemu-user"

X86 = {"Haswell": "avx2", "EPYC-Milan": "avx2", "Nehalem": "sse"}
"""Processors of qemu -> their instruction sets. qemu emulates neither AVX-512 nor AMX nor VNNI: see `HERE`."""

NEEDS_CORE = ("Nehalem",)
"""Processors whose kernels numpy's OpenBLAS is told: numpy 2.4.6 ended with an illegal instruction when it was imported
on one, emulated by an AMD EPYC with AVX-512. Why was not looked into."""

HERE = instruction_set()
"""That of this machine's own processor, which takes the place of those that are not emulated."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A processor that runs Python with the runtime, numpy and onnxruntime.

    Attributes:
        name: of the processor.
        instruction_set: that it should be found to have.
        python: command that runs Python on it.
        environment: of its processes.
    """

    name: str
    instruction_set: str | None
    python: tuple[str, ...]
    environment: Mapping[str, str]

    def run(self, *arguments: str | Path, timeout_s: float = 3600) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments in the repository's root; ends the test where it does not come back."""
        return subprocess.run(
            [*self.python, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=dict(self.environment),
            cwd=ROOT,
            check=False,
            timeout=timeout_s,
        )

    def verify(self, bundle: Path) -> dict[str, Any]:
        """`aigc-run verify`: its report. A failed command ends the test with what it said."""
        done = self.run("-m", "aigc_runtime", "verify", bundle, "--threads", "1", "--json")
        assert done.returncode == 0, (
            f"{self.name}: exit code {done.returncode}\n{done.stdout[-2000:]}{quiet(done.stderr)}"
        )
        report: dict[str, Any] = json.loads(done.stdout)
        return report


def quiet(stderr: str) -> str:
    """Without qemu's lines on what it cannot emulate."""
    return "".join(line for line in stderr.splitlines(keepends=True) if "TCG doesn't support" not in line)[-4000:]


def this_machine() -> Machine:
    """The processor that runs the tests."""
    return Machine(name="this one", instruction_set=HERE, python=(sys.executable,), environment=_environment())


def x86_machine(cpu: str) -> Machine:
    """An emulated x86-64 processor, or this machine by the name `this one`; skips the test where that cannot be."""
    if cpu == "this one":
        return this_machine()
    if HERE is None or HERE.startswith("neon"):
        pytest.skip("the host is no x86-64 machine, whose Python is run on other x86-64 processors")
    python = (_qemu("qemu-x86_64"), "-cpu", cpu, sys.executable)
    environment = {**_environment(), **({"OPENBLAS_CORETYPE": cpu} if cpu in NEEDS_CORE else {})}
    return Machine(name=cpu, instruction_set=X86[cpu], python=python, environment=environment)


def arm_machine(cpu: str) -> Machine:
    """An emulated aarch64 processor; skips the test where that cannot be."""
    qemu = _qemu("qemu-aarch64")
    try:
        python, packages = arm64.prepare(ROOT / ".cache" / "arm64", cpu, qemu)
    except arm64.UnavailableError as err:
        pytest.skip(str(err))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT / "runtime")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Machine(name=cpu, instruction_set=arm64.CPUS[cpu], python=(str(python),), environment=environment)


def _environment() -> dict[str, str]:
    paths = [str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _qemu(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: {INSTALL}")
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"version \d+", told), told
    return path
