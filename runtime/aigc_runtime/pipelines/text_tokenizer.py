"""The tokenizer that the settings of a language model name, made of the files of its program."""

from __future__ import annotations

from collections.abc import Mapping

from aigc_runtime.generation.tokenizers import Tokenizer, TokenizerRequest, make_tokenizer
from aigc_runtime.pipelines.settings import TextSettings

__all__ = ["text_tokenizer"]


def text_tokenizer(settings: TextSettings, assets: Mapping[str, bytes] | None) -> Tokenizer:
    """The tokenizer of a language model.

    Args:
        settings: of its pipeline.
        assets: of its program.

    Raises:
        UnknownNameError: an unknown kind.
        TextSupportMissingError: its package is not installed; the hint is the install line.
        BundleError: settings or files that the kind does not take, or more tokens than the model knows.
    """
    return make_tokenizer(
        TokenizerRequest(
            info=settings.tokenizer,
            vocab_size=settings.vocab_size,
            assets=assets,
            bos=settings.bos_token_id,
            others=(*settings.eos_token_ids, settings.pad_token_id),
        )
    )
