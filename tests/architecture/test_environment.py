"""The suite runs the same on a machine that is set up as a device."""

import os
import subprocess
import sys
from pathlib import Path

TEST = "tests/runtime/bundle/test_bundle.py::test_what_was_written_opens"


def test_the_suite_has_an_environment_of_its_own() -> None:
    device = {"AIGC_TRUSTED_KEYS": "/nowhere", "AIGC_DEBUG": "1", "AIGC_KEY_PASSPHRASE": "", "SOURCE_DATE_EPOCH": "-"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEST],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **device},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
