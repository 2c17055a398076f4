"""The runtime's own tests on aarch64, with nothing but numpy, onnxruntime and pytest beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .machines import ROOT, arm_machine

FOLDER = ROOT / "tests" / "runtime"
OF_PROCESSES = (
    "cli/test_entry.py",
    "system/test_interrupts.py",
    "bundle/test_bundle_swap.py",
    "io/test_publish_stress.py",
)
"""Files that signal processes, count what they write to a stream, or race them: here these processes are qemu's."""
LEFT_OUT = (
    "proof/test_bench.py::test_a_slow_engine_is_seen_as_slow",
    "bundle/test_bundle.py::test_a_disk_that_takes_no_more_leaves_the_old_bundle",
    "system/test_memory_bound.py::test_an_allocation_beyond_the_bound_fails_and_the_bound_ends",
)
"""Tests of how long something takes, and of limits that the system sets a process: both are qemu's."""


@pytest.mark.parametrize("name", OF_PROCESSES + LEFT_OUT)
def test_what_is_left_out_exists(name: str) -> None:
    file, _, function = name.partition("::")
    assert f"def {function}" in (FOLDER / file).read_text()


@pytest.mark.emulated
@pytest.mark.timeout(7200)
def test_the_runtimes_own_tests_pass_on_arm() -> None:
    options: list[str | Path] = [
        "-q",
        "-c",
        FOLDER / "bare.ini",
        "-m",
        "not stress",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ROOT,
    ]
    options += [f"--ignore={FOLDER / name}" for name in OF_PROCESSES]
    options += [f"--deselect=tests/runtime/{name}" for name in LEFT_OUT]
    done = arm_machine("cortex-a72").run("-m", "pytest", *options, FOLDER, timeout_s=7000)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(re.findall(r"\d+ passed.*", done.stdout)[-1])
