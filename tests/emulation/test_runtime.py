"""The runtime's own tests on aarch64, with nothing but numpy, onnxruntime and pytest beside it."""

from __future__ import annotations

import re

import pytest

from .machines import ROOT, arm_machine


@pytest.mark.emulated
@pytest.mark.timeout(5400)
def test_the_runtimes_own_tests_pass_on_arm() -> None:
    options = [
        "-q",
        "-c",
        ROOT / "tests" / "runtime" / "bare.ini",
        "-m",
        "not slow and not stress",
        "-p",
        "no:cacheprovider",
    ]
    done = arm_machine("cortex-a72").run("-m", "pytest", *options, "--rootdir", ROOT, ROOT / "tests" / "runtime")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(re.findall(r"\d+ passed.*", done.stdout)[-1])
