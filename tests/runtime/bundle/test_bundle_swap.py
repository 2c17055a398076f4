"""A bundle that is replaced while it is read: the old one or the new one, and never "damaged"."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aigc_runtime import open_pipeline
from aigc_runtime.bundle import folder as bundle_folder
from aigc_runtime.bundle.bundle import Bundle, retry_replaced, write_bundle
from aigc_runtime.cli.main import run as run_cli
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError, BundleReplacedError
from aigc_runtime.opening import open_session
from aigc_runtime.pipelines.gan import GanPipeline

from .. import publish_harness as harness
from ..io.test_publish_stress import run

POSIX = pytest.mark.skipif(os.name != "posix", reason="folders are opened by path there")


@pytest.fixture(params=["by handle", "by path"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files opened relative to the folder, and as on systems that cannot."""
    if request.param == "by path":
        monkeypatch.setattr(bundle_folder, "_BY_HANDLE", False)
    return str(request.param)


def write(target: Path, number: int) -> None:
    write_bundle(target, *harness.with_weights(number))


def number_of(bundle: Bundle) -> int:
    """What the weights of the engine add up to, by running it."""
    zero: dict[str, Array] = {"latents": np.zeros((1, 4), np.float32), "class_labels": np.zeros(1, np.int64)}
    with open_session(bundle, threads=1) as session:
        return round(float(np.arctanh(session.run(zero)["image"][0, 0, 0, 0])) / harness.SHIFT)


@pytest.mark.any_python
@pytest.mark.parametrize("swaps", [40, pytest.param(1000, marks=[pytest.mark.stress, pytest.mark.timeout(600)])])
@POSIX
def test_readers_in_a_loop_while_a_bundle_is_replaced(swaps: int, tmp_path: Path) -> None:
    told = run("readers", tmp_path, swaps)
    assert told["false_alarms"] == []
    assert told["unknown"] == []
    assert min(told["bundles_seen"]) > 1
    assert told["opens"] > swaps


@pytest.mark.usefixtures("way")
def test_what_is_read_is_of_one_bundle_though_the_path_leads_to_another(tmp_path: Path) -> None:
    """The old folder is kept here: everything of it can still be read, weights that an engine opens by path, too."""
    write(tmp_path / "out", 1)
    write(tmp_path / "new", 2)
    bundle = Bundle.open(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "old")
    (tmp_path / "new").rename(tmp_path / "out")
    if bundle_folder._BY_HANDLE:
        assert bundle.read("made_by.bin") == b"1"
        assert number_of(bundle) == 1
    else:
        with pytest.raises(BundleReplacedError, match=r"was replaced by another after it was opened\nopen it again"):
            bundle.read("made_by.bin")
        with pytest.raises(BundleReplacedError):
            number_of(bundle)
    assert number_of(Bundle.open(tmp_path / "out")) == 2


@pytest.mark.usefixtures("way")
def test_a_bundle_that_went_says_so(tmp_path: Path) -> None:
    write(tmp_path / "out", 1)
    bundle = Bundle.open(tmp_path / "out")
    write(tmp_path / "out", 2)
    for read in (lambda: bundle.read("made_by.bin"), lambda: number_of(bundle)):
        with pytest.raises(BundleReplacedError, match="was replaced by another"):
            read()
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(BundleReplacedError, match="was replaced by another"):
        bundle.read("made_by.bin")


@pytest.mark.usefixtures("way")
def test_a_damaged_bundle_is_still_damaged(tmp_path: Path) -> None:
    write(tmp_path / "out", 1)
    bundle = Bundle.open(tmp_path / "out")
    (tmp_path / "out" / "made_by.bin").write_bytes(b"2")
    with pytest.raises(BundleError, match="changed after the bundle was opened") as caught:
        bundle.read("made_by.bin")
    assert not isinstance(caught.value, BundleReplacedError)
    with pytest.raises(BundleError, match="it was changed or damaged"):
        Bundle.open(tmp_path / "out")


@pytest.fixture
def swap_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[], None]], None]]:
    """swap_at(n, swap): do something before the n-th file of a bundle is opened."""
    opened = bundle_folder.BundleFolder.open
    left: list[tuple[int, Callable[[], None]]] = []

    def open_after(self: bundle_folder.BundleFolder, name: str) -> int:
        if left:
            count, swap = left.pop()
            if count:
                left.append((count - 1, swap))
            else:
                swap()
        return opened(self, name)

    monkeypatch.setattr(bundle_folder.BundleFolder, "open", open_after)
    yield lambda count, swap: left.append((count, swap))
    assert not left, "there are not so many files"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("file", range(8))
def test_a_swap_before_any_file_gives_the_new_bundle(
    file: int, swap_at: Callable[[int, Callable[[], None]], None], tmp_path: Path
) -> None:
    write(tmp_path / "out", 1)
    swap_at(file, lambda: write(tmp_path / "out", 2))
    with open_pipeline(tmp_path / "out", threads=1) as pipeline:
        assert isinstance(pipeline, GanPipeline)
        assert pipeline.generate([0]).shape == (1, 1, 2, 2)
    assert Bundle.open(tmp_path / "out").manifest.provenance["made_by"] == "2"


def test_a_swap_between_opening_and_loading_gives_the_new_engine(
    swap_at: Callable[[int, Callable[[], None]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "out", 1)
    files = 1 + len(Bundle.open(tmp_path / "out").manifest.files)
    swap_at(files, lambda: write(tmp_path / "out", 2))
    assert retry_replaced(lambda: number_of(Bundle.open(tmp_path / "out"))) == 2
    swap_at(files, lambda: write(tmp_path / "out", 0))  # number 0 is what the toy's reference was made with
    assert run_cli(["verify", str(tmp_path / "out"), "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.count("verified") == 1
    assert said.err == ""


def test_a_bundle_that_is_replaced_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", 1)
    (tmp_path / "out" / "made_by.bin").write_bytes(b"2")
    monkeypatch.setattr(bundle_folder.BundleFolder, "replaced", lambda self: True)
    with pytest.raises(BundleReplacedError, match=r"replaced again and again while it was opened\ntry again when"):
        Bundle.open(tmp_path / "out")


class Clock:
    """Time that passes only where it is waited for.

    Args:
        until: seconds, after which something happens.
        happens: called then.
    """

    def __init__(self, until: float, happens: Callable[[], object]) -> None:
        self.now, self.until, self.happens = 0.0, until, happens

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        if before < self.until <= self.now:
            self.happens()


def test_the_moment_between_two_renames_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", 1)
    aside = tmp_path / ".aigc-old-out"
    for until, comes_back in ((0.05, True), (60.0, False)):
        (tmp_path / "out").rename(aside)
        clock = Clock(until, partial(aside.rename, tmp_path / "out"))
        monkeypatch.setattr(bundle_folder, "time", clock)
        if comes_back:
            assert number_of(Bundle.open(tmp_path / "out")) == 1
        else:
            with pytest.raises(BundleError, match="is not a folder"):
                Bundle.open(tmp_path / "out")
            assert clock.now > 0.05
    with pytest.raises(BundleError, match="is not a folder"):
        Bundle.open(tmp_path / "gone")


@POSIX
def test_a_bundle_laid_out_as_links_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """As content-addressed caches lay out what they hold."""
    write(tmp_path / "blobs", 1)
    (tmp_path / "out").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "out" / file.name).symlink_to(os.path.relpath(file, tmp_path / "out"))
    with pytest.raises(BundleError, match=r"is a symbolic link\n.*`cp -rL BUNDLE COPY`"):
        Bundle.open(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")  # follows links
    assert number_of(Bundle.open(tmp_path / "copy")) == 1
    (tmp_path / "current").symlink_to("copy")  # the folder itself may be a link
    assert number_of(Bundle.open(tmp_path / "current")) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files")
def test_no_handle_is_left(tmp_path: Path) -> None:
    write(tmp_path / "out", 1)
    open_session(Bundle.open(tmp_path / "out"), threads=1).close()  # what the library keeps for good is open now

    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts itself each time

    gc.collect()  # what other tests left behind would go in between
    before = handles()
    for _ in range(5):
        with Bundle.open(tmp_path / "out") as bundle:
            number_of(bundle)
        with pytest.raises(BundleError, match=r"is closed\nopen it again"):
            bundle.read("made_by.bin")
        Bundle.open(tmp_path / "out")
        open_pipeline(tmp_path / "out", threads=1).close()
    (tmp_path / "out" / "made_by.bin").write_bytes(b"2")
    for _ in range(5):
        with pytest.raises(BundleError, match="changed or damaged"):
            Bundle.open(tmp_path / "out")
    assert handles() == before
