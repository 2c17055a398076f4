"""What `make` and the hooks before a commit do is what is said of them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from .test_layout import MAX_FILE_BYTES
from .tracked import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_says_what_there_is() -> None:
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^make ([\w-]+) +\S", done.stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert sorted(listed) == sorted(phony[1].split())
    assert len(done.stdout.splitlines()) == len(listed) >= 10


def test_pages_name_targets_of_make_that_exist() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{''.join(target)}:", MAKEFILE, re.MULTILINE), (page.name, target)


def test_the_hooks_run_what_lint_runs_and_need_no_network() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: *(\S+)", hooks) == ["local"]
    commands = re.findall(r"entry: \.venv/bin/(\w+(?: \w+)?)", hooks)
    assert commands == ["ruff check", "ruff format", "codespell"]
    assert all(f"$(BIN)/{command}" in MAKEFILE for command in commands)
    assert f"-le {MAX_FILE_BYTES} ]" in hooks
