"""What is held out is nowhere in what is kept, and all else is, against a plain search."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_models.data import held_out
from aigc_models.data.documents import Document
from aigc_models.data.held_out import without

RNG = np.random.default_rng(0)


def text(length: int) -> bytes:
    return bytes(RNG.integers(97, 105, length).astype("u1"))


@pytest.mark.parametrize("chunk", [7, 100, 1 << 22])
def test_pieces_are_taken_out_wherever_they_stand(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "_CHUNK", chunk)
    pieces = [text(n) for n in (64, 65, 200, 1000)]
    between = [text(n) for n in (50, 300, 0, 90, 10)]
    order = (3, 0, 2, 1)
    whole = b"".join(part for i, at in enumerate(order) for part in (between[i], pieces[at])) + between[4]
    (found,) = without([Document(text=whole, is_rendered=True)], pieces)
    assert found == Document(text=b"".join(between), is_rendered=True)
    assert without([Document(text=whole)], [text(64)]) == (Document(text=whole),)


def test_pieces_that_overlap_or_repeat() -> None:
    piece = text(100)
    (found,) = without([Document(text=b"<" + piece + piece + b"-" + piece[:90] + b">")], [piece, piece[20:]])
    assert found.text == b"<-" + piece[:90] + b">"
    (found,) = without([Document(text=b"<" + piece + b">")], [piece[:80], piece[30:]])
    assert found.text == b"<>"


def test_short_pieces_stay_unless_they_are_all_of_a_document() -> None:
    documents = [Document(text=b"yes"), Document(text=b"yes, it is"), Document(ids=(1, 2)), Document(ids=(3,))]
    assert without(documents, [b"yes", b"1 2"]) == (documents[1], documents[3])
    assert without(documents, []) == tuple(documents)


def test_text_that_was_all_held_out_is_no_document() -> None:
    piece = text(300)
    assert without([Document(text=piece[:150] + piece[150:]), Document(text=piece + piece)], [piece]) == ()
