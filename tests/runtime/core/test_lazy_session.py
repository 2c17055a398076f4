"""A session that is opened when it is run, and closed when its work is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.lazy_session import LazySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.errors import ConfigError
from aigc_runtime.opening import open_pipeline, open_program

from .. import tensor_toys


class Counted:
    """Sessions that are open, and all that were."""

    def __init__(self) -> None:
        self.open, self.opened = 0, 0

    def __call__(self) -> Any:
        session: Any = tensor_toys.program().session("encoder")
        self.open += 1
        self.opened += 1
        close = session.close

        def closed() -> None:
            self.open -= 1
            close()

        session.close = closed
        return session


def test_an_engine_is_open_from_its_first_run_to_its_release() -> None:
    counted = Counted()
    interface = tensor_toys.INTERFACES["encoder"]
    feeds = {"image": tensor_toys.INPUTS["image"]}
    with OpenProgram({"encoder": LazySession(interface, counted)}) as program:
        assert (counted.open, program.engine_seconds) == (0, 0)
        first = program.session("encoder").run(feeds)
        program.session("encoder").run(feeds)
        assert (counted.open, counted.opened) == (1, 1)
        program.release("encoder")
        program.release("encoder")
        assert counted.open == 0
        assert program.engine_seconds > 0
        again = program.session("encoder").run(feeds)
        assert (counted.open, counted.opened) == (1, 2)
    assert counted.open == 0
    np.testing.assert_array_equal(first["code"], again["code"])


def test_a_session_that_is_always_open_is_not_released() -> None:
    program = tensor_toys.program()
    program.release("encoder")
    assert program.session("encoder").run({"image": tensor_toys.INPUTS["image"]})


def test_a_bundle_is_opened_engine_by_engine(tmp_path: Any) -> None:
    path = tensor_toys.write(tmp_path)
    with Bundle.open(path) as bundle:
        with open_program(bundle, low_memory=True) as program:
            assert {type(session) for session in program.sessions.values()} == {LazySession}
        with open_pipeline(bundle, low_memory=True) as lazy, open_pipeline(bundle) as whole:
            found, expected = lazy.generate(tensor_toys.INPUTS), whole.generate(tensor_toys.INPUTS)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ConfigError, match="low_memory with a path"):
        open_pipeline(path, low_memory=True)
