"""Workers that measure mixes: this process, several local ones, or a Dask cluster. The results are the same."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context, parent_process
from typing import Any, Protocol

from aigc_calibration.search.probe import Probe, measure_noise
from aigc_runtime.core.integers import as_integer
from aigc_runtime.errors import ConfigError, EngineError, EngineMissingError
from aigc_runtime.io.printable import shown
from aigc_runtime.system.interrupts import interrupts_held

__all__ = [
    "DaskWorkers",
    "InProcessWorkers",
    "LocalWorkers",
    "Mix",
    "Workers",
    "check_dask_address",
    "check_jobs",
    "make_workers",
]

Mix = tuple[str, ...]
"""The sites that run in low precision."""

CONNECT_SECONDS = 10
MAX_JOBS = 256
"""Local processes: each holds the model."""


class Workers(Protocol):
    """Measures mixes of a probe."""

    def noises(self, probe: Probe, mixes: Sequence[Mix]) -> Iterator[tuple[Mix, float]]:
        """Yield (mix, its noise) in the order of completion.

        Raises:
            EngineError: a worker failed.
        """
        ...


def make_workers(*, jobs: int = 1, dask: str | None = None) -> Workers:
    """Make the workers that the command line's options ask for.

    Args:
        jobs: local processes; 1 measures in this one.
        dask: address of a Dask scheduler, such as `tcp://10.0.0.1:8786`, in place of local processes.

    Raises:
        ConfigError: fewer than one job, both options, or an invalid address.
    """
    check_jobs(jobs)
    if dask is None:
        return InProcessWorkers() if jobs == 1 else LocalWorkers(jobs)
    if jobs != 1:
        raise ConfigError("both jobs and a Dask address were given", hint="the cluster has its own workers: give one")
    check_dask_address(dask)
    return DaskWorkers(dask)


def check_jobs(jobs: int) -> None:
    """Raise ConfigError for a number of local processes that is none, or that no machine has the memory for."""
    count = as_integer(jobs)
    if count is None or not 1 <= count <= MAX_JOBS:
        raise ConfigError(f"jobs is {shown(jobs)}", hint=f"must be from 1 to {MAX_JOBS}")


_ADDRESS = re.compile(r"[a-z]+://\S+|[^\s:/]+:\d+|inproc://\S+")


def check_dask_address(address: str) -> None:
    """Check the address of a Dask scheduler before any work.

    Raises:
        ConfigError: it is invalid.
    """
    if _ADDRESS.fullmatch(address) is None:
        raise ConfigError(
            f"{address!r} is not the address of a Dask scheduler", hint="it reads like tcp://10.0.0.1:8786 or HOST:8786"
        )


class InProcessWorkers:
    """Measures in this process."""

    def noises(self, probe: Probe, mixes: Sequence[Mix]) -> Iterator[tuple[Mix, float]]:
        """See `Workers.noises`."""
        for mix in mixes:
            yield mix, measure_noise(probe, mix)


_PROBE: list[Probe] = []
"""The probe of a local worker process, set when it starts."""


def _start(probe: Probe) -> None:
    _PROBE[:] = [probe]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker with its parent: a killed parent leaves workers waiting forever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Children that start here never see Ctrl-C, which a terminal sends to all: it is the parent's to act on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _measure(mix: Mix) -> float:
    return measure_noise(_PROBE[0], mix)


class LocalWorkers:
    """Measures in local processes, each with the probe loaded once.

    Args:
        jobs: how many.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def noises(self, probe: Probe, mixes: Sequence[Mix]) -> Iterator[tuple[Mix, float]]:
        """See `Workers.noises`."""
        if not mixes:
            return
        # Spawned, not forked: a forked child would inherit the threads' locks of the engines open here.
        pool = ProcessPoolExecutor(
            min(self.jobs, len(mixes)), mp_context=get_context("spawn"), initializer=_start, initargs=(probe,)
        )
        try:
            with interrupts_held(), _ctrl_c_blocked():
                futures = {pool.submit(_measure, mix): mix for mix in mixes}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as err:
            raise EngineError(
                "a local search process died", hint="it may have run out of memory: use fewer --jobs"
            ) from err
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class DaskWorkers:
    """Measures on the workers of a Dask cluster, which need aigc-export of the same version.

    Args:
        address: of the scheduler.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def noises(self, probe: Probe, mixes: Sequence[Mix]) -> Iterator[tuple[Mix, float]]:
        """See `Workers.noises`."""
        if not mixes:
            return
        try:
            distributed: Any = import_module("distributed")
        except ImportError as err:
            raise EngineMissingError(
                "a search on a cluster needs Dask, which is not installed", hint="pip install 'aigc-export[dask]'"
            ) from err
        try:
            client = distributed.Client(self.address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as err:
            raise EngineError(
                f"no Dask scheduler answers at {self.address!r}: {err}",
                hint="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
            ) from err
        try:
            if not client.scheduler_info()["workers"]:
                raise EngineError(
                    f"the Dask scheduler at {self.address!r} has no workers",
                    hint=f"start some: `dask worker {self.address}`",
                )
            there = client.scatter(probe, broadcast=True)
            futures = {client.submit(measure_noise, there, mix, pure=False): mix for mix in mixes}
            for future in distributed.as_completed(list(futures), loop=client.loop):
                yield futures[future], _result(future)
        finally:
            client.close()


def _result(future: Any) -> float:
    try:
        return float(future.result())
    except Exception as err:  # whatever a worker raises, or the loss of the worker itself
        raise EngineError(
            f"a Dask worker failed: {type(err).__name__}: {err}",
            hint="its workers need the same aigc-export and onnxruntime as this machine; run again to go on",
        ) from err
