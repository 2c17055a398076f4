"""A decoder is rewritten as a copy; any other graph is returned as it is."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_export.graphs.passes.decoder.fuse import DECODER, fuse_decoder

from ....conftest import tiny_of
from .decoders import decoder, operators, results


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_a_decoder_gives_the_same_in_few_nodes(kind: str) -> None:
    interface, model = decoder(kind=kind)
    before = [node.name for node in model.graph]
    fused = fuse_decoder(model)
    assert [node.name for node in model.graph] == before
    assert len(fused.graph) < 0.7 * len(before)
    counts = [operators(fused, name) for name in ("GroupQueryAttention", "SkipSimplifiedLayerNormalization", "Softmax")]
    assert counts == [2, 3, 0]
    for one, other in zip(results(model, interface), results(fused, interface), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_names_of_a_decoder_are_its_own() -> None:
    fused = fuse_decoder(decoder()[1])
    names = [node.name for node in fused.graph]
    assert len(set(names)) == len(names)
    assert [value.name for value in fused.graph.outputs] == [value.name for value in decoder()[1].graph.outputs]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "gan"])
def test_any_other_graph_is_the_same_object(name: str) -> None:
    model = tiny_of(name).captured.model
    assert fuse_decoder(model) is model


def test_products_are_one_before_the_attention_takes_them() -> None:
    assert [name for name, _ in DECODER].index("pack-products") == 0
