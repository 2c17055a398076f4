"""Every console and Python block of the README runs as it stands, in order, in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..page_blocks import run_blocks
from .conftest import tool_environment


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme_does_what_it_says(root: Path, tmp_path: Path) -> None:
    assert run_blocks((root / "README.md").read_text(), tmp_path, tool_environment()) >= 10


def test_the_readme_check_can_fail(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_blocks("```console\n$ aigc-run info no-such-bundle\n```\n", tmp_path, tool_environment())
    with pytest.raises(AssertionError):
        run_blocks("```python\nraise SystemExit(1)\n```\n", tmp_path, tool_environment())
