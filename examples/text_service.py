"""Text in an application: one pipeline serves many requests, each streamed, with a seed and a deadline of its own.

    python examples/text_service.py out/lm "import " "def main("

The engine is loaded once. A request never waits longer than its deadline: it ends with what it has.
"""

import sys
import time
from collections.abc import Iterable

from aigc_runtime import AigcError, InputError, SamplingParams, TextPipeline, open_pipeline

SAMPLING = SamplingParams(temperature=0.8, top_p=0.95)


def answer(pipeline: TextPipeline, prompt: str, *, seed: int, deadline_s: float, max_new_tokens: int) -> str:
    """Answer one request; what was made by the deadline is the answer."""
    end = time.monotonic() + deadline_s
    pieces = pipeline.stream(
        prompt,
        max_new_tokens=max_new_tokens,
        sampling=SAMPLING,
        seed=seed,
        cancel=lambda: time.monotonic() > end,
    )
    return "".join(pieces)


def serve(path: str, prompts: Iterable[str], *, deadline_s: float = 2.0, max_new_tokens: int = 20) -> list[str]:
    answers = []
    with open_pipeline(path) as pipeline:
        if not isinstance(pipeline, TextPipeline):
            raise InputError(f"{path!r} makes no text")
        for seed, prompt in enumerate(prompts):
            try:
                text = answer(pipeline, prompt, seed=seed, deadline_s=deadline_s, max_new_tokens=max_new_tokens)
            except InputError as err:  # this request is bad; the next one may not be
                text = f"({err.message})"
            answers.append(text)
    return answers


if __name__ == "__main__":
    try:
        for line in serve(sys.argv[1], sys.argv[2:]):
            print(repr(line))
    except AigcError as err:
        sys.exit(f"error: {err}")
