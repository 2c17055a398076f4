"""CUDA graphs of an engine, one per set of shapes and addresses.

A captured graph replays a run at the cost of one launch. It holds the addresses that it was captured with, and the
execution context that it was captured from must not change any more: so every graph has a context of its own, which has
run once with its shapes before the capture (TensorRT defers work to the first run), and a key of everything that it
depends on. A key is captured when it is met for the second time.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from aigc_runtime.backends.trt.cuda import Cuda, CudaError
from aigc_runtime.backends.trt.engine import TrtEngine
from aigc_runtime.core.closing import close_all

__all__ = ["MOST_GRAPHS", "GraphStore"]

MOST_GRAPHS = 16
_MOST_MET = 256


class GraphStore:
    """The graphs of one stream; the one that was unused for longest goes when there are too many.

    Attributes:
        refused: why this engine cannot be captured; empty as long as it can. It runs without graphs then.
    """

    def __init__(self, engine: TrtEngine, cuda: Cuda, stream: int) -> None:
        self._engine, self._cuda, self._stream = engine, cuda, stream
        self._graphs: OrderedDict[Hashable, tuple[Any, Any]] = OrderedDict()
        self._met: OrderedDict[Hashable, None] = OrderedDict()
        self.refused = ""

    def __len__(self) -> int:
        return len(self._graphs)

    def launch(self, key: Hashable) -> bool:
        """Queue the graph of `key`; False if there is none."""
        if key not in self._graphs:
            return False
        self._graphs.move_to_end(key)
        self._cuda.launch(self._graphs[key][1], self._stream)
        return True

    def wants(self, key: Hashable) -> bool:
        """Whether `key` was met before, so that it is worth a capture."""
        if self.refused:
            return False
        again = key in self._met
        self._met[key] = None
        self._met.move_to_end(key)
        if len(self._met) > _MOST_MET:
            self._met.popitem(last=False)
        return again

    def capture(self, key: Hashable, run: Callable[[Any], None]) -> None:
        """Run once with a context of its own and capture a second run, which is only recorded.

        Args:
            key: shapes and addresses.
            run: prepares the context if need be and queues the engine.

        Raises:
            EngineError: the run failed. An engine that runs and cannot be captured is not an error: see `refused`.
        """
        context = self._engine.make_context()
        run(context)
        self._cuda.synchronize(self._stream)
        graph = self._record(context)
        if graph is None:
            return
        self._graphs[key] = (context, graph)
        while len(self._graphs) > MOST_GRAPHS:
            _, (_, oldest) = self._graphs.popitem(last=False)
            self._cuda.destroy_graph(oldest)

    def _record(self, context: Any) -> Any:
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(self._stream):
            self.refused = "TensorRT cannot capture this engine"
            return None
        self._cuda.begin_capture(self._stream)
        try:
            queued = context.execute_async_v3(self._stream)
        except BaseException:
            with contextlib.suppress(CudaError):
                self._cuda.destroy_recorded(self._cuda.end_capture(self._stream))
            raise
        try:
            graph = self._cuda.end_capture(self._stream)
        except CudaError as err:
            if not err.name.startswith("cudaErrorStreamCapture"):
                raise
            self.refused = err.message
            return None
        ready = self._cuda.instantiate(graph)
        if not queued:
            self.refused = self._engine.library.log.take()
            self._cuda.destroy_graph(ready)
            return None
        return ready

    def clear(self) -> None:
        """Destroy all graphs: some address that they hold is about to become invalid."""
        graphs, self._graphs = self._graphs, OrderedDict()
        self._met.clear()
        close_all([partial(self._cuda.destroy_graph, graph) for _, graph in graphs.values()])
