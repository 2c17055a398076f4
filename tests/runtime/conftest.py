"""Bundles of the toy models, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import toys

NAMES = ("toy_lm_growing", "toy_lm_buffer", "toy_unet", "toy_gan")


@pytest.fixture(scope="session")
def toy_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a bundle of every toy."""
    folder = tmp_path_factory.mktemp("toys")
    for name in NAMES:
        toys.write_toy_bundle(folder, name)
    return folder
