"""A language model's bundles beside other runtimes, as the table of docs/performance.md.

    python benchmarks/peers.py out/smol-int8 --beside out/smol-int4 --against genai:int4,genai:int8,torch --threads 2

Every option is that of `aigc-export bench`, which times and judges; this prints what it found as Markdown.
`--save FILE` keeps the document, and `--from FILE` prints the table of one that was kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEADINGS = (
    "",
    "prompt, ms",
    "token, ms",
    "p90",
    "p99",
    "speed",
    "MB",
    "peak MB",
    "cold start, s",
    "perplexity",
    "same token",
)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--from", dest="kept", type=Path)
    asked, words = parser.parse_known_args()
    if asked.kept is None:
        command = [sys.executable, "-m", "aigc_export", "bench", *words, "--json"]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    else:
        told = asked.kept.read_text(encoding="utf-8")
    if asked.save is not None:
        asked.save.write_text(told, encoding="utf-8")
    print(markdown(json.loads(told)))


def markdown(document: Mapping[str, Any]) -> str:
    """The table of a document; below it why a runtime is not in it."""
    results = document["results"]
    timed = [one for one in results if "token_ms" in one]
    lines = [f"| {' | '.join(HEADINGS)} |", "| " + " | ".join("---" for _ in HEADINGS) + " |"]
    lines += [f"| {' | '.join(row(one, timed[0]))} |" for one in timed]
    return "\n".join([*lines, "", *(f"{one['name']}: {one['failed']}" for one in results if "failed" in one)])


def row(one: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """The cells of a runtime; its speed is the first's time of a token over its own."""
    peak = "" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e6:.0f}"
    cells = [
        f"{one['name']} {one['version']}",
        f"{one['prompt_ms']:.0f}",
        *(f"{one[name]:.1f}" for name in ("token_ms", "token_p90_ms", "token_p99_ms")),
        f"{first['token_ms'] / one['token_ms']:.2f}x",
        f"{one['size_bytes'] / 1e6:.0f}",
        peak,
        f"{one['cold_s']:.2f}",
    ]
    if "judgment" not in one:
        return [*cells, "", ""]
    increase, error = (100 * value for value in one["judgment"]["increase"])
    return [*cells, f"{increase:+.2f} ± {error:.2f} %", f"{100 * one['judgment']['agreement'][0]:.1f} %"]


if __name__ == "__main__":
    main()
