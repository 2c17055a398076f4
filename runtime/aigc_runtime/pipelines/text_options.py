"""Options of the command line that text takes: each sampling option under its name, in kebab case."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from aigc_runtime.errors import InputError
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.io.arguments import text_argument
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_count
from aigc_runtime.pipelines.kind import Option
from aigc_runtime.pipelines.options import given
from aigc_runtime.pipelines.prompt_lookup import check_lookup
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.pipelines.text_beams import check_beams

__all__ = [
    "MAX_NEW_TOKENS",
    "PREFILL_CHUNK",
    "PROMPT_LOOKUP",
    "SAMPLING",
    "STOP",
    "SYSTEM",
    "check_options",
    "sampling_options",
    "token_ids",
]

_GROUP, _SAMPLING = "text", "sampling (default: the model's own)"


def token_ids(argument: str) -> tuple[int, ...]:
    """Token ids with commas between them.

    >>> token_ids("5, 6")
    (5, 6)
    """
    try:
        ids = tuple(int(part) for part in argument.split(","))
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{argument!r} is not token ids: numbers with commas between them") from err
    if min(ids) < 0:
        raise argparse.ArgumentTypeError(f"{argument!r} holds {min(ids)}: token ids begin at 0")
    return ids


def _biased(argument: str) -> tuple[tuple[int, ...], float]:
    ids, _, bias = argument.rpartition("=")
    try:
        return token_ids(ids), float(bias)
    except (ValueError, argparse.ArgumentTypeError) as err:
        raise InputError(
            f"--sequence-bias is {shown(argument)}", hint="must be IDS=NUMBER, such as 15=-2.5 or 15,16=1"
        ) from err


def _early_stopping(argument: str) -> bool | str:
    word = argument.lower()
    return {"true": True, "false": False}.get(word, word)


def _option(name: str, kind: Any, text: str, *, metavar: str | None = None, repeated: bool = False) -> Option:
    return Option(
        flags=(f"--{name.replace('_', '-')}",),
        name=name,
        group=_SAMPLING,
        type=kind,
        metavar=metavar,
        repeated=repeated,
        help=text,
    )


SAMPLING = (
    _option("temperature", float, "0 takes the most likely token"),
    _option("top_k", int, "keep the k most likely tokens"),
    _option("top_p", float, "keep the most likely tokens that reach this probability"),
    _option("min_p", float, "keep tokens at least this share as likely as the most likely one"),
    _option("typical_p", float, "keep the most typical tokens that reach this probability"),
    _option("repetition_penalty", float, "above 1 discourages what occurred, prompt included"),
    _option("frequency_penalty", float, "above 0 discourages what was generated, each time anew"),
    _option("presence_penalty", float, "above 0 discourages what was generated, once"),
    _option("no_repeat_ngram_size", int, "no sequence of so many tokens twice", metavar="N"),
    _option("min_new_tokens", int, "no end of the text before so many tokens", metavar="N"),
    _option(
        "sequence_bias",
        text_argument,
        "added to the logit of the last id where the text ends with those before it; may be repeated",
        metavar="IDS=NUMBER",
        repeated=True,
    ),
    _option(
        "bad_words_ids",
        token_ids,
        "token ids that are not generated behind each other; may be repeated",
        metavar="IDS",
        repeated=True,
    ),
    _option("suppress_tokens", token_ids, "token ids that are never generated", metavar="IDS"),
    _option("begin_suppress_tokens", token_ids, "token ids that are not generated first", metavar="IDS"),
    _option("num_beams", int, "beams of a beam search", metavar="N"),
    _option("length_penalty", float, "beam search: above 0 favors long texts"),
    _option("early_stopping", _early_stopping, "beam search: true, false or never"),
)
_DRAWN, _OF_BEAMS = ("top_k", "top_p", "min_p", "typical_p"), ("length_penalty", "early_stopping")
"""Options that mean nothing to a greedy choice, and to a search without beams."""

MAX_NEW_TOKENS = Option(
    flags=("--max-new-tokens",),
    name="max_new_tokens",
    group=_GROUP,
    type=int,
    help="at most (default: 128; in a chat, what the context leaves)",
)
STOP = Option(
    flags=("--stop",),
    name="stop",
    group=_GROUP,
    type=text_argument,
    metavar="TEXT",
    repeated=True,
    help="end before this text; may be repeated (default: the model's own)",
)
SYSTEM = Option(
    flags=("--system",),
    name="system",
    group=_GROUP,
    type=text_argument,
    metavar="TEXT",
    help="the chat's system message",
)
PREFILL_CHUNK = Option(
    flags=("--prefill-chunk",),
    name="prefill_chunk",
    group=_GROUP,
    type=int,
    metavar="N",
    help="tokens of a prompt that are read at once (default: what fits into memory)",
)

PROMPT_LOOKUP = Option(
    flags=("--prompt-lookup-num-tokens",),
    name="prompt_lookup_num_tokens",
    group=_GROUP,
    type=int,
    metavar="N",
    help="look up N tokens for each run in what was read: faster where a text repeats itself",
)


def check_options(pipeline: TextPipeline, sampling: SamplingParams, options: Mapping[str, Any]) -> list[str]:
    """Refuse options before an engine is loaded.

    Args:
        pipeline: that takes them.
        sampling: how tokens will be chosen.
        options: what was given, by name.

    Returns:
        What is to be said of those that mean nothing beside the others.

    Raises:
        InputError: a bad value.
    """
    pipeline.row_maker(
        max_new_tokens=options.get("max_new_tokens", 1),
        stop=options.get("stop"),
        logprobs=options.get("logprobs"),
    )
    check_seed(options.get("seed", 0))
    for name in ("num_return_sequences", "prefill_chunk"):
        check_count(name, options.get(name, 1))
    check_lookup(options.get("prompt_lookup_num_tokens"), sampling, pipeline.engines)
    if sampling.num_beams > 1:
        check_beams(
            sampling,
            pipeline.engines,
            num_return_sequences=options.get("num_return_sequences", 1),
            logprobs=options.get("logprobs"),
        )
    unused = [name for name in _DRAWN if name in options and sampling.is_greedy]
    unused += [name for name in _OF_BEAMS if name in options and sampling.num_beams == 1]
    return [
        f"--{name.replace('_', '-')} means nothing {'at temperature 0' if name in _DRAWN else 'without --num-beams'}"
        for name in unused
    ]


def sampling_options(arguments: Namespace) -> dict[str, Any]:
    """The sampling options that were given, by name.

    Raises:
        InputError: a bias that is none.
    """
    found = given(arguments, *SAMPLING)
    if "sequence_bias" in found:
        found["sequence_bias"] = [_biased(text) for text in found["sequence_bias"]]
    return found
