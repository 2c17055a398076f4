"""What a language model says about text, and what does not fit its model."""

from __future__ import annotations

import pytest

from aigc_models.text_assets import BYTES, NO_TEXT, TextAssets
from aigc_runtime.errors import BundleError
from aigc_runtime.generation.tokenizers import TokenizerInfo

from ...runtime.generation.tokenizers.makers import byte_level


def test_a_tokenizer_is_held_against_the_model() -> None:
    BYTES.check(256)
    NO_TEXT.check(2)
    file = TextAssets(
        tokenizer=TokenizerInfo(kind="huggingface", file="tokenizer.json"), files={"tokenizer.json": byte_level()}
    )
    file.check(400)
    with pytest.raises(BundleError, match="the tokenizer has 400 tokens, the model 399"):
        file.check(399)
    with pytest.raises(BundleError, match=r"the program has no file 'tokenizer\.json'"):
        TextAssets(tokenizer=file.tokenizer).check(400)
