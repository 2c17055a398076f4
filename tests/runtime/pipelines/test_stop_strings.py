"""Where a text ends by its stop strings, against transformers' own criterion; and a model's own stop strings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer, TokenizerInfo
from aigc_runtime.pipelines.stop_strings import StopWatch
from aigc_runtime.pipelines.text import TextPipeline

from .. import toys
from ..generation.tokenizers.makers import byte_level

TEXT = "def main(argv):\n    return len(argv)  # the quick brown fox jumps over the lazy dog\n\nand the dog END of it"
STOPS = [
    ["END"],
    ["og", "the laz"],
    ["\n\n"],
    ["x j"],
    ["ret", "turn"],
    [")  # t"],
    ["nothing like it"],
    ["e"],
    ["and the dog E"],
]


@pytest.mark.parametrize("stop", STOPS, ids=repr)
def test_a_text_ends_at_the_token_where_transformers_ends_it(stop: list[str], tmp_path: Any) -> None:
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(byte_level())
    theirs = transformers.StopStringCriteria(
        tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_file=str(path)), stop_strings=stop
    )
    tokenizer = HuggingFaceTokenizer(byte_level())
    ids = tokenizer.encode(TEXT).tolist()
    ends = [n for n in range(1, len(ids) + 1) if bool(theirs(torch.tensor([ids[:n]]), None)[0])]
    watch = StopWatch(tokenizer.stream(), stop)
    read = 0
    while not watch.stopped and read < len(ids):
        watch.feed(ids[read])
        read += 1
    assert (watch.stopped, read) == (bool(ends), ends[0] if ends else len(ids))
    watch.finish()
    assert watch.emitted == TEXT[: min([TEXT.find(s) for s in stop if s in TEXT], default=len(TEXT))]


def test_a_models_own_stop_strings_hold_where_a_request_names_none() -> None:
    settings = replace(toys.TEXT, stop=("0",))
    pipeline, plain = TextPipeline(toys.lm_session(), settings), TextPipeline(toys.lm_session(), toys.TEXT)

    def ended(pipeline: TextPipeline, **options: Any) -> tuple[str, str]:
        (row,) = pipeline.generate("ab", max_new_tokens=9, **options)
        assert "".join(pipeline.stream("ab", max_new_tokens=9, **options)) == row.text
        return row.text, row.finish_reason

    whole = ended(plain)
    assert "0" in whole[0]
    assert "`" in whole[0]
    assert ended(pipeline) == ended(plain, stop=["0"]) == (whole[0].partition("0")[0], "stop")
    assert ended(pipeline, stop=["`"]) == ended(plain, stop=["`"]) == (whole[0].partition("`")[0], "stop")
    assert ended(pipeline, stop=[]) == whole
    for row in pipeline.generate("ab", num_beams=3, num_return_sequences=3, max_new_tokens=9):
        assert ("0" in bytes(row.token_ids.tolist()).decode(errors="replace")) == (row.finish_reason == "stop")
    assert len(pipeline.generate_all(2, 9).token_ids) == 9  # a benchmark is not ended


def test_stop_strings_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"stop is \['a', ''\]\nmust be a list of texts, none of them empty"):
        replace(toys.TEXT, stop=("a", ""))
    with pytest.raises(InputError, match="stop is 'a'\nmust be a list of strings, none of them empty"):
        TextPipeline(toys.lm_session(), toys.TEXT).generate("a", stop="a")


def test_a_model_without_text_is_not_ended_by_one() -> None:
    pipeline = TextPipeline(toys.lm_session(), replace(toys.TEXT, tokenizer=TokenizerInfo(kind="none")))
    for call in (pipeline.generate, pipeline.stream):
        with pytest.raises(
            InputError, match="this model has no tokenizer: a text cannot end it\nleave the stop strings"
        ):
            call([1, 2], stop=["a"])
    assert len(pipeline.generate([1, 2], stop=[], max_new_tokens=3)[0].token_ids) == 3
