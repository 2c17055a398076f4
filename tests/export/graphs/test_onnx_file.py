"""Graphs as files: a full disk is said as such, and leaves nothing."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import pytest

from aigc_calibration.onnx_file import save_graph, to_proto
from aigc_export.graphs.passes import run_passes
from aigc_runtime.errors import OutputError

from ..conftest import tiny_of


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("external", [False, True])
def test_no_room_for_a_graph(external: bool, tmp_path: Path) -> None:
    model = tiny_of("gan").captured.model
    with largest_file(1000), pytest.raises(OutputError, match=r"model\.onnx' cannot be written: \S") as caught:
        save_graph(model, tmp_path / "model.onnx", threshold=0 if external else 1 << 31)
    assert caught.value.exit_code == 6
    assert "set TMPDIR to a larger disk" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    save_graph(model, tmp_path / "model.onnx", threshold=0 if external else 1 << 31)


def test_no_room_for_a_graph_is_no_fault_of_a_pass() -> None:
    tiny = tiny_of("gan")
    resources = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(model: ir.Model) -> ir.Model:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resources[1]))
        return model

    try:
        with pytest.raises(OutputError, match="cannot be written"):
            run_passes(ir.from_proto(to_proto(tiny.captured.model)), [("fill", fill_the_disk)], feeds=[tiny.feeds()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, resources)
