"""The tokenizer of a language model is the one that its settings name, with their tokens and no more."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_runtime.errors import BundleError, UnknownNameError
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.text_tokenizer import text_tokenizer


def settings(kind: str) -> TextSettings:
    return TextSettings(
        tokenizer=TokenizerInfo(kind=kind),
        vocab_size=259,
        context_length=16,
        bos_token_id=256,
        eos_token_ids=(257,),
        pad_token_id=258,
    )


def test_it_reads_with_the_tokens_of_the_settings() -> None:
    tokenizer = text_tokenizer(settings("bytes"), None)
    assert list(tokenizer.encode("ab")) == [256, 97, 98]
    assert tokenizer.decode(np.array([97, 257, 98])) == "ab"


def test_a_kind_that_takes_a_file_is_refused_without_it() -> None:
    with pytest.raises(BundleError, match="has no file"):
        text_tokenizer(settings("huggingface"), None)
    with pytest.raises(UnknownNameError, match="'bytes'"):
        text_tokenizer(settings("byte"), None)
