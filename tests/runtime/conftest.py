"""Bundles of the toy models, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import toys

FEW_CASES = "--few-cases"


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option of the runs whose only question is what another Python, or fewer packages, change."""
    parser.addoption(FEW_CASES, action="store_true", help="run the first and the last case of a parametrized test")


@pytest.hookimpl(trylast=True)  # after the markers of the command line
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With the option, leave out the cases between: they differ in their data, and run with all packages."""
    if not config.getoption(FEW_CASES, default=False):
        return
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        function = str(getattr(item, "originalname", item.name))
        cases.setdefault((item.nodeid.partition("::")[0], function), []).append(item)
    kept = {item for found in cases.values() for item in (found[0], found[-1])}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


NAMES = ("toy_lm_growing", "toy_lm_buffer", "toy_unet", "toy_gan")


@pytest.fixture(scope="session")
def toy_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a bundle of every toy."""
    folder = tmp_path_factory.mktemp("toys")
    for name in NAMES:
        toys.write_toy_bundle(folder, name)
    return folder
