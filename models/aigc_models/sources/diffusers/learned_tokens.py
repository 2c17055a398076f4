"""Textual inversions in a text encoder: new tokens in its tokenizer, new rows in its table of tokens.

Shapes: V tokens, D width, n vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_models.sources.diffusers.embedding import Embedding
from aigc_models.sources.diffusers.prompt_tokenizer import PromptTokenizer
from aigc_models.sources.diffusers.text_to_image import TextToImageFolder
from aigc_models.weights.stored_weights import WeightsReader
from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.tokenizers.huggingface import import_tokenizers
from aigc_runtime.io.printable import shown

__all__ = ["Extended", "ExtendedWeights", "extend", "extend_folder"]

TABLE = "embeddings.token_embedding.weight"


@dataclass(frozen=True, kw_only=True)
class Extended:
    """A text encoder that knows learned tokens.

    Attributes:
        text: its configuration, with a row for each token.
        tokenizer: that knows the tokens.
        rows: id -> [D].
        multi_vector: first id and number of the ids that one token in a prompt stands for.
    """

    text: ClipTextConfig
    tokenizer: PromptTokenizer
    rows: Mapping[int, Tensor]
    multi_vector: tuple[tuple[int, int], ...]

    def weights(self, base: WeightsReader) -> WeightsReader:
        """The text encoder's weights with the rows in them."""
        return ExtendedWeights(base, self.rows, self.text.vocab_size) if self.rows else base


def extend(text: ClipTextConfig, tokenizer: PromptTokenizer, vectors: Sequence[tuple[Embedding, Tensor]]) -> Extended:
    """Add learned tokens to a text encoder and its tokenizer.

    Args:
        text: configuration of the text encoder.
        tokenizer: of its prompts.
        vectors: textual inversions and what each has for this encoder, [n, D].

    Raises:
        ConfigError: a token that the tokenizer has already; names it.
    """
    if not vectors:
        return Extended(text=text, tokenizer=tokenizer, rows={}, multi_vector=())
    ((name, data),) = tokenizer.files.items()
    known = import_tokenizers().Tokenizer.from_str(data.decode())
    rows: dict[int, Tensor] = {}
    learned: list[str] = list(tokenizer.origin.learned)
    multi_vector: list[tuple[int, int]] = []
    for embedding, table in vectors:
        first, count = known.get_vocab_size(), len(table)
        tokens = [embedding.token, *(f"{embedding.token}_{i}" for i in range(1, count))]
        for token in (*tokens, f"{embedding.token}_1"):
            if known.token_to_id(token) is not None:
                raise ConfigError(
                    f"the embedding {embedding.where!r} stands for the token {shown(token)}, which the tokenizer has",
                    hint=f"name another: --embedding {embedding.path}:TOKEN",
                )
        known.add_tokens(tokens)
        learned += tokens
        ids = [known.token_to_id(token) for token in tokens]
        assert ids == list(range(first, first + count))
        rows |= dict(zip(ids, table, strict=True))
        multi_vector += [(first, count)] if count > 1 else []
    return Extended(
        text=replace(text, vocab_size=max(text.vocab_size, *(token + 1 for token in rows))),
        tokenizer=replace(
            tokenizer,
            files={name: known.to_str().encode()},
            origin=replace(tokenizer.origin, learned=tuple(learned)),
        ),
        rows=rows,
        multi_vector=tuple(multi_vector),
    )


def extend_folder(
    found: TextToImageFolder, embeddings: Sequence[Embedding]
) -> tuple[TextToImageFolder, dict[str, Extended]]:
    """Add textual inversions to the text encoders of a pipeline, each to those that it has vectors for.

    Args:
        found: the pipeline.
        embeddings: opened.

    Returns:
        The pipeline with the new configurations, tokenizers and settings, and each text encoder.

    Raises:
        CheckpointError: vectors of another width.
        ConfigError: a token that a tokenizer has already.
    """
    widths = {name: text.hidden_size for name, text in found.text_encoders.items()}
    given: dict[str, list[tuple[Embedding, Tensor]]] = {name: [] for name in widths}
    notes = []
    for embedding in embeddings:
        tables = embedding.of(widths)
        for name, table in tables.items():
            given[name].append((embedding, table))
        said = ", ".join(f"{len(table)} for {name}" for name, table in tables.items())
        notes.append(f"added the embedding {embedding.where!r} as {shown(embedding.token)}: vectors: {said}")
        notes += [f"{name} does not know {shown(embedding.token)}" for name in widths if name not in tables]
    made = {name: extend(text, found.tokenizers[name], given[name]) for name, text in found.text_encoders.items()}
    first, *rest = made.values()
    settings = replace(found.settings, vocab_size=first.text.vocab_size, multi_vector=first.multi_vector)
    if rest and settings.second is not None:
        (second,) = rest
        info = replace(settings.second, vocab_size=second.text.vocab_size, multi_vector=second.multi_vector)
        settings = replace(settings, second=info)
    folder = replace(
        found,
        text_encoders={name: one.text for name, one in made.items()},
        tokenizers={name: one.tokenizer for name, one in made.items()},
        settings=settings,
        notes=(*found.notes, *notes),
    )
    return folder, made


class ExtendedWeights:
    """Weights of a text encoder under our names, whose table of tokens has learned rows.

    Args:
        base: of the text encoder.
        rows: id -> [D].
        size: V, rows of the table.
    """

    def __init__(self, base: WeightsReader, rows: Mapping[int, Tensor], size: int) -> None:
        self._base, self._rows, self._size = base, rows, size

    def described(self) -> dict[str, Tensor]:
        """Describe every tensor; the table has its new size, and is float32."""
        found = self._base.described()
        if TABLE in found:
            table = found[TABLE]
            found[TABLE] = torch.empty((self._size, *table.shape[1:]), dtype=torch.float32, device="meta")
        return found

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors in the order of their bytes; see `StoredWeights.stream`."""
        for name, tensor in self._base.stream(lambda name: None if name == TABLE else into(name)):
            yield name, self._extended(tensor) if name == TABLE else tensor

    def _extended(self, table: Tensor) -> Tensor:
        longer = torch.zeros((self._size, table.shape[1]))
        longer[: len(table)] = table
        for token, row in self._rows.items():
            longer[token] = row
        return longer
