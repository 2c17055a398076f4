"""The hint beside an unknown field."""

from __future__ import annotations

from aigc_models.field_hint import field_hint


def test_the_nearest_or_all_in_their_order() -> None:
    assert field_hint("n_head", ["n_layers", "n_heads"]) == "did you mean 'n_heads'?"
    assert field_hint("zzz", iter(["n_layers", "d_ff"])) == "valid: n_layers, d_ff"
    assert field_hint("zzz", ()) == "valid: "
