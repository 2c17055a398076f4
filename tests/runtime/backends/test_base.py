"""What most back-ends do: an engine that runs anywhere, whose state is its own."""

from __future__ import annotations

import pytest

from aigc_runtime.backends.base import Backend, EngineFacts, EngineFiles, EngineProof, NoBuild
from aigc_runtime.core.session import Session
from aigc_runtime.device.probe import probe_device
from aigc_runtime.errors import ConfigError


def opened(_files: EngineFiles, _threads: int | None) -> Session:
    raise NotImplementedError


def test_a_backend_states_only_what_differs() -> None:
    plain = Backend(kind="plain", open=opened)
    facts = EngineFacts(program="toy", precision="fp32", build=plain.build(), proof=EngineProof())
    found = plain.check(facts, probe_device())
    assert (found.runs, found.findings, found.gpu) == (True, (), None)
    assert plain.build is NoBuild
    assert plain.on_cpu(facts.build)
    assert plain.state_place(facts.build) is None
    assert plain.describe(facts.build) == ()


def test_an_engine_that_was_not_run_is_proven_on_no_processor() -> None:
    with pytest.raises(ConfigError, match="was not run is proven on avx2"):
        EngineProof(parity="graph", proven_on=("avx2",))
