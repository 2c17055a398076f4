"""The two forms differ in every field that a form has, and say why a site stays float."""

from dataclasses import fields

from aigc_calibration.formats import SIGNED_FORMAT, UNSIGNED_FORMAT, QdqFormat


def test_the_two_forms_differ_in_every_field() -> None:
    for one in fields(QdqFormat):
        assert getattr(SIGNED_FORMAT, one.name) != getattr(UNSIGNED_FORMAT, one.name), one.name


def test_a_float_operator_comes_with_a_reason() -> None:
    assert all(why for form in (SIGNED_FORMAT, UNSIGNED_FORMAT) for why in form.float_ops.values())
