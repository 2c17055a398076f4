"""Sites that do the same in a network are a group."""

from __future__ import annotations

import pytest

from aigc_calibration.prepare import prepare
from aigc_calibration.roles import by_role
from aigc_calibration.sites import find_sites

from .conftest import small_network
from .decoder import decoder


def test_the_same_product_of_all_layers_is_one_group() -> None:
    model, _ = decoder()
    names = [site.node for site in find_sites(model)]
    assert names == ["up_0", "down_0", "up_1", "down_1", "head_product"]
    assert by_role(model, names) == (("up_0", "up_1"), ("down_0",), ("down_1",), ("head_product",))
    some = ["head_product", "up_1", "down_0", "up_0"]
    assert by_role(model, some) == (("head_product",), ("up_1", "up_0"), ("down_0",))


def test_sites_that_are_all_different_are_groups_of_one() -> None:
    model = prepare(small_network()[0])
    names = [site.node for site in find_sites(model)]
    assert by_role(model, names) == tuple((name,) for name in names)
    assert by_role(model, []) == ()


def test_a_site_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        by_role(decoder()[0], ["unknown"])
