"""Fixtures for tests of bundles: `pytest --aigc-bundle out/lm`. See docs/ci.md.

pytest loads this module in every run where the runtime is installed, so it imports nothing but pytest, and the runtime
only when a bundle is given. Its entry point bears the module's name: then `-p aigc_runtime.pytest_plugin` and
`pytest_plugins` name a plugin that is registered already, which does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.errors import AigcError
    from aigc_runtime.pipelines import AnyPipeline
    from aigc_runtime.proof.verify import ParityReport

__all__ = ["aigc_bundle", "aigc_parity", "aigc_pipeline"]

_BUNDLES = pytest.StashKey["dict[str, Bundle]"]()
_REPORTS = pytest.StashKey["dict[str, ParityReport]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("aigc", "bundles of aigc-export")
    group.addoption(
        "--aigc-bundle",
        metavar="PATH",
        action="append",
        default=[],
        help="a bundle for the fixtures aigc_bundle, aigc_pipeline and aigc_parity; may be repeated",
    )
    group.addoption(
        "--aigc-threads", metavar="N", type=int, help="threads of the bundles' engines (default: every processor)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Open the bundles, so that a bad one is refused before any test runs.

    Raises:
        pytest.UsageError: a bundle that is missing, damaged or not trusted; threads out of range; no numpy.
    """
    paths: list[str] = config.getoption("--aigc-bundle")
    if not paths:
        return
    try:
        from aigc_runtime.backends.threads import check_threads
        from aigc_runtime.bundle.bundle import Bundle
        from aigc_runtime.errors import AigcError
        from aigc_runtime.io.printable import printable
    except ImportError as err:
        raise pytest.UsageError(f"--aigc-bundle: {err}\ninstall it: pip install 'aigc-runtime[ort]'") from err
    try:
        check_threads(config.getoption("--aigc-threads"))
    except AigcError as err:
        raise pytest.UsageError(f"--aigc-threads: {_told(err)}") from err
    bundles = config.stash[_BUNDLES] = {}
    for path in dict.fromkeys(paths):
        if not path:
            raise pytest.UsageError("--aigc-bundle: the path is empty\ngive the folder of a bundle")
        try:
            # An engine may be loaded by this path after a test went to another folder.
            bundles[path] = Bundle.open(config.invocation_params.dir / path)
        except AigcError as err:
            raise pytest.UsageError(f"--aigc-bundle {printable(path)}: {_told(err)}") from err


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the bundles."""
    for bundle in config.stash.get(_BUNDLES, {}).values():
        bundle.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which bundles are tested."""
    return [
        f"aigc-bundle: {path!r}: {b.manifest.name}, {b.manifest.target}, {b.manifest.precision}, "
        f"manifest sha256 {b.manifest_sha256}"
        for path, b in config.stash.get(_BUNDLES, {}).items()
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of a bundle once for each one given."""
    bundles = metafunc.config.stash.get(_BUNDLES, {})
    if bundles and "aigc_bundle" in metafunc.fixturenames:
        metafunc.parametrize("aigc_bundle", list(bundles), indirect=True, scope="session")


@pytest.fixture(scope="session")
def aigc_bundle(request: pytest.FixtureRequest) -> Bundle:
    """The opened `Bundle` of `--aigc-bundle`: each in turn, where several are given; skipped without the option."""
    bundles = request.config.stash.get(_BUNDLES, {})
    if not bundles:
        pytest.skip("no bundle is given: pytest --aigc-bundle PATH")
    path = getattr(request, "param", None)
    if path is None:  # where pytest does not parametrize: getfixturevalue, unittest's classes
        if len(bundles) > 1:
            pytest.fail(
                f"{len(bundles)} bundles are given\nname aigc_bundle among the arguments of a test function, "
                "which then runs for each",
                pytrace=False,
            )
        path = next(iter(bundles))
    return bundles[path]


@pytest.fixture(scope="session")
def aigc_pipeline(aigc_bundle: Bundle, pytestconfig: pytest.Config) -> Iterator[AnyPipeline]:
    """The bundle's pipeline, opened once and closed after the last test that takes it."""
    from aigc_runtime.errors import AigcError
    from aigc_runtime.opening import open_pipeline

    try:
        pipeline = open_pipeline(aigc_bundle, threads=pytestconfig.getoption("--aigc-threads"))
    except AigcError as err:
        _fail(aigc_bundle, err)
    with pipeline:
        yield pipeline


@pytest.fixture(scope="session")
def aigc_parity(aigc_bundle: Bundle, aigc_pipeline: AnyPipeline, pytestconfig: pytest.Config) -> ParityReport:
    """The `ParityReport` of the engines of `aigc_pipeline`, as `aigc-run verify` has it; computed once."""
    from aigc_runtime.errors import AigcError
    from aigc_runtime.proof.verify import verify_bundle

    reports, path = pytestconfig.stash.setdefault(_REPORTS, {}), str(aigc_bundle.path)
    if path not in reports:
        try:
            reports[path] = verify_bundle(aigc_bundle, aigc_pipeline.program)
        except AigcError as err:
            _fail(aigc_bundle, err)
    return reports[path]


def _fail(bundle: Bundle, err: AigcError) -> NoReturn:
    pytest.fail(f"bundle {str(bundle.path)!r}: {_told(err)}", pytrace=False)


def _told(err: AigcError) -> str:
    from aigc_runtime.io.printable import printable

    return "\n".join(printable(line) for line in (err.message, err.hint) if line)
