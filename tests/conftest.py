"""An environment of its own, and what is shown at the end: a run in several processes loads no other conftest there."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

# A device that checks signatures, or a shell that shows tracebacks, sets these; a test that means one sets it itself.
for variable in ("AIGC_TRUSTED_KEYS", "AIGC_KEY_PASSPHRASE", "AIGC_DEBUG", "SOURCE_DATE_EPOCH"):
    os.environ.pop(variable, None)

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # a device's environment has none, and passes over what needs it
    pass
else:
    # How long an example takes to draw and to run is of what else the machine does.
    settings.register_profile("suite", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("suite")


LONG_SECONDS = 300
"""The limit that every test has; a file that asks for more is among the longest."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the files, the longest come first: none is left for one process at the end."""
    if not hasattr(config, "workerinput"):
        return
    weights: dict[Path, float] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        long = limit is not None and limit.args[0] > LONG_SECONDS
        weights[item.path] = weights.get(item.path, 0) + 100 * long + (item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: -weights[item.path])


def pytest_collection_finish() -> None:
    """Look for garbage among what the tests make: not each time among millions of objects of libraries and tests.

    A whole collection took half a second, and all of them 5 to 10 percent of the time of tests that capture models.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)


ENGINE_ROW, GRAPH_DB = "engine of the matrix", "graph of the matrix"
PROCESSOR_ROW = "bundle on a processor"
"""Properties of a test: they reach the end of the run from other processes too."""


@pytest.fixture
def record_engine(record_property: Callable[[str, object], None]) -> Callable[[object], None]:
    """record_engine([model, precision, capability, bytes, seconds, proven]): a row of the table."""
    return partial(record_property, ENGINE_ROW)


@pytest.fixture
def record_graph(record_property: Callable[[str, object], None]) -> Callable[[object], None]:
    """record_graph([model, precision, dB]): how near the graph of those rows is to PyTorch."""
    return partial(record_property, GRAPH_DB)


@pytest.fixture
def record_processor(record_property: Callable[[str, object], None]) -> Callable[[object], None]:
    """record_processor([bundle, processor, instruction set, worst dB, metric, value]): a row of that table."""
    return partial(record_property, PROCESSOR_ROW)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tables of what was built, where the matrix ran, and of bundles on other processors."""
    properties = [p for report in terminalreporter.stats.get("passed", ()) for p in report.user_properties]
    processors = sorted(value for name, value in properties if name == PROCESSOR_ROW)
    if processors:
        terminalreporter.section("bundles on other processors; dB: the worst tensor against PyTorch")
    for bundle, processor, instructions, worst_db, metric, value in processors:
        terminalreporter.write_line(
            f"{bundle:<14}{processor:<12}{instructions:<14}{worst_db:7.2f} dB  {metric} {value:.4g}"
        )
    rows = [value for name, value in properties if name == ENGINE_ROW]
    decibels = {(value[0], value[1]): value[2] for name, value in properties if name == GRAPH_DB}
    if not rows:
        return
    terminalreporter.section("TensorRT-RTX engines, optimization level 0; dB: their graph against PyTorch")
    for model, precision, capability, size_bytes, seconds, proven in sorted(rows):
        worst = decibels.get((model, precision))
        shown = "   -" if worst is None else f"{worst:4.0f}"
        terminalreporter.write_line(
            f"{model:<5}{precision:<5}{capability:>5}{size_bytes / 1e6:8.2f} MB{seconds:6.1f} s{shown} dB  {proven}"
        )
