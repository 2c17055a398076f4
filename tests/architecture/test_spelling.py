"""American spelling, in words and inside names: `quantize`, as ONNX has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import codespell_lib

from .tracked import ROOT, tracked_files

TEXT = {".py", ".md", ".toml", ".ini", ".yml", ".yaml"}
KEPT = {
    "cancelled": "Python's own word: asyncio.CancelledError",
    "cancelling": "as cancelled",
    "writeable": "numpy's flag",
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
"""A word, also one within `a_name` or `AName`."""
_STEM = re.compile(
    r"(\w*(?:quanti|optimi|seriali|initiali|normali|tokeni|synchroni))s(e|ed|er|ers|es|ing|ation|ations)"
)


@cache
def british() -> Mapping[str, str]:
    """Codespell's list: a British word -> the American one."""
    path = Path(codespell_lib.__file__).parent / "data" / "dictionary_en-GB_to_en-US.txt"
    pairs = (line.partition("->") for line in path.read_text(encoding="utf-8").splitlines())
    return {word: other.split(",")[0] for word, _, other in pairs if word not in KEPT}


def faults(text: str) -> set[str]:
    """The British words of a text."""
    words = {match.lower() for match in _WORD.findall(text)} - KEPT.keys()
    return {word for word in words if word in british() or _STEM.fullmatch(word)}


def test_the_check_can_fail() -> None:
    words = ("colo" + "ur", "dequantis" + "ed", "quantis" + "er")
    assert faults(f"# the {words[0]} of {words[1]}_weights, and a {words[2].title()}Error") == set(words)
    assert faults("# the color of dequantized_weights, otherwise cancelled") == set()


def test_spelling_is_american() -> None:
    files = tracked_files()
    checked = [p for p in files if p.suffix in TEXT and p.name != Path(__file__).name]
    assert len(checked) > 400
    wrong = {str(p.relative_to(ROOT)): found for p in checked if (found := faults(p.read_text(encoding="utf-8")))}
    wrong |= {str(p): found for p in files if (found := faults(str(p.relative_to(ROOT))))}
    assert wrong == {}
