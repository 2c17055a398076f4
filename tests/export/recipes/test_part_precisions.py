"""A precision for each part of a program: what is written, what it means, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aigc_export.recipes.part_precisions import (
    check_parts,
    joint_precisions,
    lowest_precision,
    parse_precisions,
    precisions_text,
)
from aigc_export.recipes.recipe import ExportRecipe, export_recipe
from aigc_models.program import Part, Program
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, TensorSpec
from aigc_runtime.errors import AigcError, UnknownNameError
from aigc_runtime.pipelines.tensors import Stage, TensorsSettings


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.layer(x),)


def program() -> Program:
    def part(name: str, given: str, made: str) -> Part:
        inputs, outputs = (TensorSpec(name=tensor, dtype="float32", shape=("batch", 4)) for tensor in (given, made))
        return Part(
            name=name,
            module=Linear(),
            interface=Interface(inputs=(inputs,), outputs=(outputs,), dims=(DimSpec(name="batch", max=4),)),
        )

    parts = (part("first", "x", "y"), part("second", "y", "z"))
    return Program(
        name="two",
        kind="tensors",
        parts={one.name: one for one in parts},
        engines={one.name: one.name for one in parts},
        settings=TensorsSettings(stages=(Stage(role="first"), Stage(role="second"))),
    )


def recipe(precision: str, **options: object) -> ExportRecipe:
    return export_recipe(program(), precision=precision, **options)  # type: ignore[arg-type]


def test_each_part_has_its_own_precision() -> None:
    mixed = recipe("fp16,second=int8")
    assert (mixed.precision, dict(mixed.parts), mixed.stored_precision) == ("fp16", {"second": "int8"}, "mixed")
    first, second = mixed.of_part("first"), mixed.of_part("second")
    assert (first.precision, second.precision) == ("fp16", "int8")
    assert first.quantization == second.quantization is not None
    assert mixed.tolerances == recipe("int8").tolerances  # the widest of both
    alone = recipe("second=int8")
    assert alone.of_part("first").quantization is None
    assert alone.of_part("second").quantization == recipe("int8").quantization


def test_one_precision_for_all_is_no_mix() -> None:
    assert recipe("int8").stored_precision == "int8"
    assert recipe("int8,first=int8").stored_precision == "int8"
    plain = recipe("fp32")
    assert plain.of_part("first") == plain
    assert lowest_precision(["odd"]) == "odd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int8,fp16", "two are for all parts"),
        ("first=", "precision is 'first='"),
        ("=int8", "precision is '=int8'"),
        ("first=int8,first=fp16", "'first' has two"),
        ("first=auto", "a search is for all parts that have no precision of their own"),
        ("auto,third=int8", "unknown part 'third'"),
        ("third=int8", "unknown part 'third'"),
        ("first=int7", "unknown precision"),
        ("first=int8,", "unknown precision"),
    ],
)
def test_what_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(AigcError, match=message):
        recipe(text)


def test_a_search_leaves_parts_alone_that_are_named() -> None:
    searched = recipe("auto,second=fp16")
    assert searched.search is not None
    assert [searched.of_part(part).precision for part in ("first", "second")] == ["auto", "fp16"]
    assert searched.quantization == recipe("auto").quantization


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"first": "int8", "second": "int8"}, "int8"),
        ({"first": "fp32", "second": "fp32"}, "fp32"),
        ({"first": "int8", "second": "fp32"}, "first=int8"),
        ({"first": "int8", "second": "fp16"}, "first=int8,second=fp16"),
    ],
)
def test_what_was_chosen_is_written_as_it_is_read(chosen: dict[str, str], text: str) -> None:
    assert precisions_text(chosen) == text
    rest, parts = parse_precisions(text)
    assert {name: parts.get(name, rest) for name in chosen} == chosen
    assert joint_precisions(chosen) == (rest, parts)


def test_options_that_no_part_reads_are_refused() -> None:
    assert recipe("second=int8", ranges="mse").quantization is not None
    with pytest.raises(AigcError, match="--ranges changes nothing in fp32, fp16"):
        recipe("second=fp16", ranges="mse")
    with pytest.raises(UnknownNameError, match="unknown part 'unet'"):
        check_parts({"unet": "int8"}, program().parts)
    assert parse_precisions("unet = int8, fp16") == ("fp16", {"unet": "int8"})
