"""What reads texts for each kind of pipeline: nothing, a tokenizer, or one for each text encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import BundleError
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines import KINDS
from aigc_runtime.pipelines.text_readers import TextReaders

from .. import toys
from .picture_toys import SETTINGS, TOKENS, XL_SETTINGS


@pytest.mark.parametrize("name", ["diffusion", "gan", "tensors", "upscale"])
def test_a_kind_without_text_reads_none(name: str) -> None:
    kind, any_settings = KINDS[name], object()
    assert kind.text_readers(any_settings, {}) == TextReaders()
    assert not kind.needs_text_vectors(any_settings)


def test_a_language_model_reads_by_one_tokenizer() -> None:
    readers = KINDS["text"].text_readers(toys.TEXT, {})
    assert readers.tokenizer is not None
    assert readers.tokenizer.encode("hi").tolist() == [104, 105]
    assert (readers.of_file, readers.template, readers.prompts) == (False, None, {})


def test_each_text_encoder_reads_rows_of_its_own() -> None:
    kind = KINDS["text_to_image"]
    rows = {role: read(["ab", ""]) for role, read in kind.text_readers(XL_SETTINGS, {}).prompts.items()}
    assert list(rows) == ["text_encoder", "text_encoder_2"]
    for role, pad in (("text_encoder", 0), ("text_encoder_2", 1)):
        np.testing.assert_array_equal(rows[role], [[97, 98, *[pad] * (TOKENS - 2)], [pad] * TOKENS])
    assert list(kind.text_readers(SETTINGS, {}).prompts) == ["text_encoder"]


def test_a_file_that_is_not_there_is_named() -> None:
    settings: Any = replace(SETTINGS, tokenizer=TokenizerInfo(kind="huggingface", file="tokenizer.json"))
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        KINDS["text_to_image"].text_readers(settings, {})
