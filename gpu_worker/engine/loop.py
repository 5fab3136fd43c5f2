"""The engine core in a thread of its own: other threads hand it work between two steps and get outputs by callback."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from gpu_worker.engine.adapter_folder import LoadedAdapter
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.errors import Overloaded
from gpu_worker.engine.memory import return_freed_memory
from gpu_worker.engine.sequence import FinishReason, Sequence, SequenceOutput

logger = logging.getLogger(__name__)

T = TypeVar("T")
Sink = Callable[[SequenceOutput], None]

MAX_FAILED_STEPS = 3
"""Steps that may break off one after the other before the engine calls itself unhealthy."""
TIDY_S = 5.0
"""Freed memory goes back this often while there is work, and when it ends: a crowd leaves gaps that nobody fills."""


class EngineLoop:
    """Runs steps while there is work, sleeps while there is none."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._failed_steps = 0
        self._tidied = time.monotonic()
        self._sinks: dict[str, Sink] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def healthy(self) -> bool:
        """Whether the thread runs and its steps succeed."""
        return self._thread.is_alive() and self._failed_steps < MAX_FAILED_STEPS

    def start(self) -> None:
        """Start stepping."""
        self._thread.start()

    def give_up(self) -> None:
        """End every sequence with an error that says to try again: the time to finish them is over."""

        def order(core: EngineCore) -> None:
            core.abort("the engine shuts down")
            for sequence_id in list(self._sinks):
                self._deliver(_failure(sequence_id, "The engine is shutting down.", retry_after_s=1))

        try:
            self.call(order)
        except Overloaded:
            logger.debug("nothing to give up: the engine has stopped")

    def stop(self) -> None:
        """Stop after the present step; sequences that have not ended stay without further output."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def read_adapter(self, path: Path) -> LoadedAdapter:
        """Read and check an adapter folder in the caller's thread. Raises: BadAdapter."""
        return self._core.read_adapter(path)

    def call(self, order: Callable[[EngineCore], T]) -> "Future[T]":
        """Run a function on the core between two steps; its result or exception arrives in the future."""
        future: Future[T] = Future()

        def execute() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(order(self._core))
            except BaseException as error:  # noqa: BLE001 -- whatever it is, it belongs to the caller
                future.set_exception(error)

        with self._wake:
            if self._stopping:
                raise Overloaded("The engine is shutting down.")
            self._orders.append(execute)
            self._wake.notify()
        return future

    def submit(self, sequences: list[Sequence], sink: Sink) -> "Future[None]":
        """Queue the sequences of one request; the sink is called in the engine's thread for everything they add."""

        def order(core: EngineCore) -> None:
            core.submit(sequences)
            self._sinks.update({sequence.id: sink for sequence in sequences})

        return self.call(order)

    def cancel(self, sequence_ids: list[str]) -> None:
        """End sequences before the next step, without further output."""

        def order(core: EngineCore) -> None:
            for sequence_id in sequence_ids:
                self._sinks.pop(sequence_id, None)
                core.cancel(sequence_id)

        try:
            self.call(order)
        except Overloaded:
            logger.debug("nothing to cancel: the engine has stopped")

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._orders or self._stopping or self._core.busy):
                    self._wake.wait()
                if self._stopping:
                    return
                orders, self._orders = self._orders, deque()
            for execute in orders:
                execute()
            for output in self._step():
                self._deliver(output)
            self._tidy()

    def _tidy(self) -> None:
        now = time.monotonic()
        if now - self._tidied > (TIDY_S if self._core.busy else 0.1 * TIDY_S):
            return_freed_memory()
            self._tidied = now

    def _step(self) -> list[SequenceOutput]:
        try:
            outputs = self._core.step()
        except Exception:
            # a bug or exhausted memory: this step's answers are lost, the next requests get their chance
            logger.exception("an engine step failed")
            self._failed_steps += 1
            self._core.abort("a step broke off")
            # also those that had ended in the broken step and whose last output was lost with it
            message = "The engine failed while it computed this answer."
            return [_failure(sequence_id, message) for sequence_id in self._sinks]
        self._failed_steps = 0
        return outputs

    def _deliver(self, output: SequenceOutput) -> None:
        sink = self._sinks.get(output.sequence_id)
        if sink is None:
            return
        if output.finish_reason is not None:
            del self._sinks[output.sequence_id]
        sink(output)


def _failure(sequence_id: str, message: str, *, retry_after_s: int | None = None) -> SequenceOutput:
    return SequenceOutput(sequence_id, (), "", (), FinishReason.ERROR, 0, error=message, retry_after_s=retry_after_s)
