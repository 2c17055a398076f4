"""Text of the verb `generate`: to the terminal, piece by piece, or as JSON."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from aigc_runtime.errors import InputError
from aigc_runtime.generation.logits import SamplingParams
from aigc_runtime.io.arguments import path_argument, text_argument
from aigc_runtime.io.prompt_file import read_prompt
from aigc_runtime.io.report import emit_json
from aigc_runtime.pipelines.kind import Option, Verb
from aigc_runtime.pipelines.options import SEED, given
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.system.streams import output_lost

__all__ = ["TEXT_VERB"]

_GROUP = "text"
PROMPT = Option(flags=("--prompt",), name="prompt", group=_GROUP, type=text_argument, help="text to continue")
PROMPT_FILE = Option(
    flags=("--prompt-file",),
    name="prompt_file",
    group=_GROUP,
    type=path_argument,
    metavar="FILE",
    help="the same from a file, - for standard input",
)
MAX_NEW_TOKENS = Option(
    flags=("--max-new-tokens",), name="max_new_tokens", group=_GROUP, type=int, help="(default: 128)"
)
SAMPLING = (
    Option(flags=("--temperature",), name="temperature", group=_GROUP, type=float, help="0 is greedy (default: 0)"),
    Option(flags=("--top-k",), name="top_k", group=_GROUP, type=int, help="keep the k most likely tokens"),
    Option(
        flags=("--top-p",),
        name="top_p",
        group=_GROUP,
        type=float,
        help="keep the most likely tokens that reach this probability",
    ),
    Option(
        flags=("--repetition-penalty",),
        name="repetition_penalty",
        group=_GROUP,
        type=float,
        help="above 1 discourages repetition",
    ),
)
STOP = Option(
    flags=("--stop",),
    name="stop",
    group=_GROUP,
    type=text_argument,
    metavar="TEXT",
    repeated=True,
    help="end before this text; may be repeated",
)


@dataclass(frozen=True, kw_only=True)
class _TextJob:
    """A prompt to continue on the terminal; `options` are those of the pipeline."""

    prompt: str
    options: dict[str, Any]
    json: bool
    output: None = None
    bounds_memory: bool = False

    def run(self, pipeline: TextPipeline) -> None:
        """Print the text as it comes, or one JSON document."""
        if self.json:
            (result,) = pipeline.generate(self.prompt, **self.options)
            emit_json(
                "aigc-run-generate-text/1",
                {
                    "prompt": self.prompt,
                    "text": result.text,
                    "token_ids": result.token_ids.tolist(),
                    "finish_reason": result.finish_reason,
                    "prompt_tokens": result.prompt_tokens,
                },
            )
            return
        pieces = pipeline.stream(self.prompt, **self.options)
        sys.stdout.write(self.prompt)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
            if output_lost():
                return
        sys.stdout.write("\n")

    def report(self) -> None:
        """Nothing: the text is all there is to say."""


def _prepare(arguments: Namespace, _pipeline: TextPipeline) -> _TextJob:
    if (arguments.prompt is None) == (arguments.prompt_file is None):
        raise InputError("text needs a prompt", hint="give either --prompt TEXT or --prompt-file FILE")
    return _TextJob(
        prompt=arguments.prompt if arguments.prompt is not None else read_prompt(arguments.prompt_file),
        options={
            "sampling": SamplingParams(**given(arguments, *SAMPLING)),
            **given(arguments, MAX_NEW_TOKENS, SEED, STOP),
        },
        json=arguments.json,
    )


TEXT_VERB = Verb(options=(PROMPT, PROMPT_FILE, MAX_NEW_TOKENS, *SAMPLING, STOP, SEED), prepare=_prepare)
