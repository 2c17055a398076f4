"""A pipe, a socket or a device in the place of any input file is refused by its name, and never waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from aigc_calibration.cache import read_calibration
from aigc_calibration.data.npz import NpzRows
from aigc_calibration.search.journal import Journal
from aigc_export.line.signing import load_signer
from aigc_export.targets.tensorrt.config import _held_timing_cache
from aigc_export.tools.devices import find_device
from aigc_models.weights.checkpoint import load_checkpoint
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.trusted_keys import read_trusted_keys
from aigc_runtime.errors import AigcError

pytestmark = [pytest.mark.timeout(20), pytest.mark.skipif(os.name != "posix", reason="needs pipes")]
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "samples": ("samples.npz", NpzRows),
    "calibration": ("calibration.npz", read_calibration),
    "journal": ("journal.jsonl", Journal),
    "checkpoint": ("model.safetensors", load_checkpoint),
    "checkpoint folder": ("model.safetensors", lambda path: load_checkpoint(path.parent)),
    "private key": ("private.pem", load_signer),
    "trusted key": ("public.pem", read_trusted_keys),
    "folder of keys": ("public.pem", lambda path: read_trusted_keys(path.parent)),
    "device": ("device.json", lambda path: find_device(str(path))),
    "timing cache": ("kernels.cache", _held_timing_cache),
    "bundle": ("manifest.json", lambda path: Bundle.open(path.parent)),
    "bundle itself": ("bundle", Bundle.open),
}


@pytest.mark.parametrize("reader", list(READERS))
def test_what_is_no_plain_file_is_refused(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    with socket.socket(socket.AF_UNIX) as listener:
        for make in (os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: listener.bind(str(p))):
            make(path)
            with pytest.raises(AigcError) as caught:
                read(path)
            assert (name if path.name in str(caught.value) else str(path)) in str(caught.value)
            path.unlink()
