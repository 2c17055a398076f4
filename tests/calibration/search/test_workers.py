"""The same noise from this process, from local processes and from a real Dask cluster; failures are one message."""

from __future__ import annotations

import math
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from aigc_calibration.search import workers
from aigc_calibration.search.journal import Journal
from aigc_calibration.search.probe import Probe
from aigc_calibration.search.sensitivity import Sensitivity, decibels, fallback_order, measure_sites, total_noise
from aigc_calibration.search.workers import DaskWorkers, InProcessWorkers, LocalWorkers, Mix, make_workers
from aigc_runtime.errors import ConfigError, EngineError
from aigc_runtime.system.interrupts import Interrupted, handled_signals

from .test_toggle import int8_pair, probe_of


@pytest.fixture(scope="module")
def probe() -> Probe:
    return probe_of(*int8_pair())


@pytest.fixture(scope="module")
def here(probe: Probe) -> dict[Mix, float]:
    return dict(InProcessWorkers().noises(probe, mixes(probe)))


def mixes(probe: Probe) -> list[Mix]:
    return [*((node,) for node in probe.nodes), probe.nodes]


def test_local_processes(probe: Probe, here: dict[Mix, float]) -> None:
    assert dict(make_workers(jobs=2).noises(probe, mixes(probe))) == here
    assert list(LocalWorkers(2).noises(probe, [])) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask's own, while it starts and stops servers
def test_a_dask_cluster_of_two_workers(probe: Probe, here: dict[Mix, float]) -> None:
    from distributed import LocalCluster

    with (
        warnings.catch_warnings(),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
    ):
        warnings.simplefilter("ignore")
        workers = make_workers(dask=cluster.scheduler_address)
        assert isinstance(workers, DaskWorkers)
        assert dict(workers.noises(probe, mixes(probe))) == here
        with pytest.raises(EngineError, match=r"a Dask worker failed: KeyError"):
            list(workers.noises(probe, [("nothing",)]))
        cluster.scale(0)
        for _ in range(100):
            if not cluster.scheduler.workers:
                break
            cluster.sync(_pause)
        with pytest.raises(EngineError, match="has no workers"):
            list(workers.noises(probe, mixes(probe)))


async def _pause() -> None:
    import asyncio

    await asyncio.sleep(0.1)


@pytest.mark.filterwarnings("ignore")
def test_no_scheduler(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigc_calibration.search.workers.CONNECT_SECONDS", 0.5)
    with pytest.raises(EngineError, match="no Dask scheduler answers at"):
        list(DaskWorkers("tcp://127.0.0.1:9").noises(probe, mixes(probe)))
    with pytest.raises(EngineError, match="no Dask scheduler answers at"):
        list(DaskWorkers("nonsense://x").noises(probe, mixes(probe)))


def test_options() -> None:
    assert isinstance(make_workers(), InProcessWorkers)
    with pytest.raises(ConfigError, match="jobs is 0"):
        make_workers(jobs=0)
    with pytest.raises(ConfigError, match="both jobs and a Dask address"):
        make_workers(jobs=2, dask="tcp://127.0.0.1:1")


class Counting:
    """Workers that count, and stop after some."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.asked: list[Mix] = []
        self.left = stop_after

    def noises(self, probe: Probe, mixes: Sequence[Mix]) -> Iterator[tuple[Mix, float]]:
        for mix in mixes:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.asked.append(mix)
            yield mix, len(self.asked) / 100


def test_a_search_that_was_stopped_goes_on(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    first, second = Counting(stop_after=2), Counting()
    with pytest.raises(KeyboardInterrupt):
        measure_sites(probe, first, Journal(path))
    seen: list[tuple[str, int, int]] = []
    found = measure_sites(probe, second, Journal(path), progress=lambda *p: seen.append(p))
    assert len(first.asked) == 2
    assert first.asked + second.asked == [(n,) for n in probe.nodes]
    assert list(found) == list(probe.nodes)
    assert found[first.asked[0][0]] == 0.01
    assert seen[-1] == ("sites", len(probe.nodes), len(probe.nodes))


def site(node: str, noise: float, saved: float, *, error: float = 0.0, size: int = 10) -> Sensitivity:
    return Sensitivity(
        node=node,
        op_type="Conv",
        module=node,
        noise=noise,
        share=0.1,
        saved_ms=saved,
        saved_ms_error=error,
        saved_bytes=size,
    )


def test_the_order_of_raising() -> None:
    sites = [
        site("loud", 1.0, 1.0),
        site("cheap", 0.5, 0.1),  # five times the noise per millisecond of "loud"
        site("slower", 0.01, -0.2),
        site("quiet", 0.001, 1.0),
        site("unsure", 0.02, -0.1, error=0.2),  # not told from zero: worth its error
    ]
    free, rest = fallback_order(sites, "latency")
    assert free == (("slower",),)
    assert rest == (("cheap",), ("loud",), ("unsure",), ("quiet",))
    assert fallback_order(sites, "ops") == ((), (("loud",), ("cheap",), ("unsure",), ("slower",), ("quiet",)))
    assert fallback_order([site("none", 1, 1, size=0), site("some", 1, 1)], "size") == ((("none",),), (("some",),))
    assert total_noise({s.node: s.noise for s in sites}, ["loud", "cheap"]) == pytest.approx(0.031)


def test_sites_that_are_decided_together_are_one_in_the_order() -> None:
    sites = [site("q", 1.0, 1.0), site("k", 0.1, 1.0), site("down", 0.9, 1.0), site("head", 0.1, -1.0)]
    together = (("q", "k"), ("down",), ("head",))
    assert fallback_order(sites, "latency", together) == ((("head",),), (("down",), ("q", "k")))


def test_decibels() -> None:
    assert decibels(0.01) == pytest.approx(20.0)
    assert decibels(0.0) == decibels(1e-99) == 300.0
    assert math.isfinite(decibels(1e30))


@pytest.mark.parametrize("address", ["junk", "", "tcp://", "10.0.0.1", "host:port", "tcp:// a:1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a Dask scheduler"):
        make_workers(dask=address)


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "cluster.local:8786", "tls://a:1", "inproc://1/2"])
def test_addresses(address: str) -> None:
    assert isinstance(make_workers(dask=address), DaskWorkers)


def test_a_signal_waits_until_the_processes_are_started(monkeypatch: pytest.MonkeyPatch, probe: Probe) -> None:
    """Broken off between starting a child and telling it what to do, the child ended with a traceback of its own."""
    started = []

    class Pool:
        def __init__(self, *_: object, **__: object) -> None: ...

        def submit(self, *_: object) -> Future[float]:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            started.append(True)
            return Future()

        def shutdown(self, **_: object) -> None: ...

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(Interrupted), handled_signals():
            list(LocalWorkers(2).noises(probe, mixes(probe)))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert len(started) == len(mixes(probe))


def test_a_group_is_measured_as_one_and_shares_its_noise(probe: Probe, tmp_path: Path) -> None:
    groups = (tuple(probe.nodes[:2]), *((node,) for node in probe.nodes[2:]))
    asked, path = Counting(), tmp_path / "journal.jsonl"
    found = measure_sites(probe, asked, Journal(path), together=groups)
    assert asked.asked == list(groups)
    assert found[probe.nodes[0]] == found[probe.nodes[1]] == 0.005
    again = Counting(stop_after=0)
    assert measure_sites(probe, again, Journal(path), together=groups) == found
