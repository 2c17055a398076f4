"""How much faster a language model writes with tokens that are looked up in what was read, and that it writes the same.

    python benchmarks/prompt_lookup.py BUNDLE --tokens 4,10 --rounds 3

Three tasks, two on code of Python's standard library: to write it again with another name, to explain and quote it, and
a story, in which hardly anything repeats. Plain and looked-up generation take turns; the medians are of the rounds.
`per run` is how many tokens a run of the engine gave.
"""

from __future__ import annotations

import argparse
import statistics
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from aigc_runtime import TextPipeline, open_pipeline
from aigc_runtime.pipelines.chat import chat_ids

PIECE = "\n".join(Path(textwrap.__file__).read_text().splitlines()[405:450])
TASKS = {
    "code again": f"Write this code again, with `text` renamed to `source`:\n\n{PIECE}",
    "docstring": f"Explain what each line of this function does, and quote the line:\n\n{PIECE}",
    "story": "Tell a story of a lighthouse and a ship.",
}


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", default="4,10", help="how many are looked up; several with commas")
    parser.add_argument("--new", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    ways: list[int | None] = [None, *(int(count) for count in given.tokens.split(","))]
    print("| task | looked up | tokens | ms a token | speed | per run | same text |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with open_pipeline(given.bundle, threads=given.threads) as pipeline:
        assert isinstance(pipeline, TextPipeline)
        for task, text in TASKS.items():
            ids = chat_ids(pipeline, [{"role": "user", "content": text}])
            for way, row in timed(pipeline, ids, ways, given.new, given.rounds).items():
                print(f"| {task} | {way or '-'} | {row}", flush=True)


def timed(
    pipeline: TextPipeline, ids: np.ndarray, ways: list[int | None], new: int, rounds: int
) -> dict[int | None, str]:
    """A row of the table for each way."""
    seconds: dict[int | None, list[float]] = {way: [] for way in ways}
    tokens: dict[int | None, list[int]] = {}
    runs: dict[int | None, int] = {}
    for _ in range(rounds):
        for way in ways:
            asked: list[bool] = []

            def count(asked: list[bool] = asked) -> bool:
                asked.append(True)
                return False

            options: dict[str, Any] = {"max_new_tokens": new, "temperature": 0.0, "prompt_lookup_num_tokens": way}
            (found,) = pipeline.generate(ids, **options, cancel=count)
            assert found.tokens_per_second is not None
            seconds[way].append(1 / found.tokens_per_second)
            tokens[way], runs[way] = found.token_ids.tolist(), len(asked) - 1
    plain = statistics.median(seconds[None])
    rows = {}
    for way in ways:
        each, made = statistics.median(seconds[way]), len(tokens[way])
        same = "-" if way is None else "yes" if tokens[way] == tokens[None] else f"to token {_shared(tokens, way)}"
        rows[way] = f"{made} | {1e3 * each:.1f} | {plain / each:.2f}x | {made / max(runs[way], 1):.1f} | {same} |"
    return rows


def _shared(tokens: dict[int | None, list[int]], way: int | None) -> int:
    pairs = zip(tokens[None], tokens[way], strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(tokens[way]))


if __name__ == "__main__":
    main()
