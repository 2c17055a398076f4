"""The runtime's own tests on aarch64, with nothing but numpy, onnxruntime and pytest beside it."""

from __future__ import annotations

import re

import pytest

from .machines import ROOT, arm_machine

OF_PROCESSES = ("test_entry.py", "test_interrupts.py", "test_bundle_swap.py", "test_publish_stress.py")
"""Files that signal processes, count what they write to a stream, or race them: here these processes are qemu's."""
LEFT_OUT = (
    "test_bench.py::test_a_slow_engine_is_seen_as_slow",
    "test_bundle.py::test_a_disk_that_takes_no_more_leaves_the_old_bundle",
    "test_memory_bound.py::test_an_allocation_beyond_the_bound_fails_and_the_bound_ends",
)
"""Tests of how long something takes, and of limits that the system sets a process: both are qemu's."""


@pytest.mark.emulated
@pytest.mark.timeout(7200)
def test_the_runtimes_own_tests_pass_on_arm() -> None:
    folder = ROOT / "tests" / "runtime"
    options = ["-q", "-c", folder / "bare.ini", "-m", "not slow and not stress", "-p", "no:cacheprovider"]
    options += [f"--ignore={folder / name}" for name in OF_PROCESSES]
    options += [f"--deselect=tests/runtime/{name}" for name in LEFT_OUT]
    done = arm_machine("cortex-a72").run("-m", "pytest", *options, "--rootdir", ROOT, folder, timeout_s=7000)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(re.findall(r"\d+ passed.*", done.stdout)[-1])
