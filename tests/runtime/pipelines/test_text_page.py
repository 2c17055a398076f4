"""The page on text: its Python runs, it names every option, and its defaults are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from aigc_runtime.generation.sampling_params import SamplingParams

from ...page_blocks import run_python
from .. import toys

PAGE = Path(__file__).parents[3] / "docs" / "text.md"


def test_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("onnxruntime")
    toys.write_chat_bundle(tmp_path / "out" / "smol", context_length=256)
    monkeypatch.chdir(tmp_path)
    run_python(PAGE)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"\d+ tokens of the last turn were not read again", last)
    assert not last.startswith("0 ")


def test_every_option_is_explained() -> None:
    table = PAGE.read_text(encoding="utf-8").split("## How tokens are chosen")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == {field.name for field in fields(SamplingParams)}
    # The order of the rows is that in which they apply.
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])][:3] == [
        "sequence_bias",
        "repetition_penalty",
        "frequency_penalty",
    ]
    for row in rows:
        names, default = re.findall(r"`(\w+)`", row.split("|")[1]), row.split("|")[2].strip().removesuffix(" (all)")
        values = {"none": (), "false": False}
        told = [values.get(word, word) for word in default.split(", ")]
        for name, value in zip(names, told * len(names), strict=False):
            found = getattr(SamplingParams(), name)
            assert found == value or str(found).removesuffix(".0") == value, name
