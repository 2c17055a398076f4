"""How long the choice of a token takes in a large vocabulary, beside transformers' own processors and draw.

    python benchmarks/sampling.py [--vocabularies 50000,256000] [--runs N]

Both are given the same logits of one row, float32, and a text of 1,000 tokens. Times are medians; each round measures
ours and theirs by turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from aigc_runtime.generation.history import TokenHistory
from aigc_runtime.generation.logits import sample_tokens
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.sampling_params import SamplingParams

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, repetition penalty": {"repetition_penalty": 1.2},
    "top_k=1": {"temperature": 0.7, "top_k": 1},
    "top_k=50": {"temperature": 0.7, "top_k": 50},
    "top_k=50, top_p=0.9, penalty": {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.2},
    "top_p=0.9": {"temperature": 0.7, "top_p": 0.9},
    "min_p=0.05": {"temperature": 0.7, "min_p": 0.05},
    "typical_p=0.9": {"temperature": 0.7, "typical_p": 0.9},
    "temperature alone": {"temperature": 0.7},
}
PROMPT = 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--vocabularies", default="50000,128000,256000")
    parser.add_argument("--runs", type=int, default=30)
    asked = parser.parse_args()
    print("| vocabulary | choice | ours, ms | transformers, ms |")
    print("| ---: | --- | ---: | ---: |")
    for vocabulary in map(int, asked.vocabularies.split(",")):
        for name, ours, theirs in measured(vocabulary, asked.runs):
            print(f"| {vocabulary:,} | {name} | {ours:.3f} | {theirs:.3f} |")
    return 0


def measured(vocabulary: int, runs: int) -> Iterator[tuple[str, float, float]]:
    """Name of a choice, and milliseconds."""
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    # A language model's logits are spread like these: a few tokens hold most of the probability.
    logits = (3 * rng.standard_normal((1, vocabulary))).astype(np.float32)
    logits[0, rng.integers(0, vocabulary, 20)] += 12
    ids = rng.integers(0, vocabulary, PROMPT)
    history, generator = TokenHistory(ids), TorchGenerator(0)
    tensor, tokens = torch.from_numpy(logits), torch.from_numpy(ids)[None]
    for name, options in WAYS.items():
        params = SamplingParams(**options)
        process = processors(options)

        def theirs(process: Any = process, params: SamplingParams = params) -> None:
            scores = process(tokens, tensor.clone())
            if params.is_greedy:
                scores.argmax(dim=-1)
            else:
                torch.multinomial(torch.softmax(scores, dim=-1), 1)

        def ours(params: SamplingParams = params) -> None:
            sample_tokens(logits, params, [generator], [history])

        times = [(timed(ours), timed(theirs)) for _ in range(runs)]
        yield name, statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def processors(options: dict[str, Any]) -> Any:
    import transformers

    library: Any = transformers
    config = library.GenerationConfig(do_sample="temperature" in options, **options)
    owner: Any = type("Owner", (library.GenerationMixin,), {"config": library.PretrainedConfig()})
    return owner()._get_logits_processor(config, input_ids_seq_length=PROMPT, device="cpu")


def timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    raise SystemExit(main())
