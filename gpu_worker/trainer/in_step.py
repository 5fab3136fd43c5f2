"""Memory that runs out in one process, where several hold a part of the base model each.

All of them fetch every layer at the same time, once forward and once backward. Who breaks off in the middle would leave
the others waiting for ever, so a process that cannot compute a micro-batch goes on fetching: its layers give back what
they are given, and nothing is learned. When the pass is over the error is raised, and all agree on what to do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpu_worker.trainer.learner import is_out_of_memory

_OUT_OF_MEMORY = (RuntimeError, MemoryError)  # as far as `is_out_of_memory` says so


class InStep:
    """The divided layers of a decoder, which pass on what comes where memory has run out."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """Stand in for the layers' own computation, inside of what fetches their weights."""
        self.error: BaseException | None = None
        self._last: Tensor | None = None  # the newest layer's result
        self._has_turned = False  # whether a layer's backward pass has begun
        for layer in layers:
            layer.forward = _Guarded(self, layer.forward)

    def compute(self, rows: Any, loss_of: Callable[[Any], Tensor], few: Any, scale: float) -> float:
        """Return the loss of rows and add the gradient of scale · loss, as all others do at the same time.

        `few`: rows that always fit. Raises, when the others are through as well: what memory ran out with.
        """
        loss = self._forward(rows, loss_of, few)
        try:
            (loss * scale).backward()  # type: ignore[no-untyped-call]
        except _OUT_OF_MEMORY as error:
            self._note(error)
            if not self._has_turned:
                self._nothing().backward()  # type: ignore[no-untyped-call]
        found = float(loss.detach())
        self._raise_noted()
        return found

    def look(self, rows: Any, loss_of: Callable[[Any], Tensor], few: Any) -> Tensor:
        """Return the loss of rows without a backward pass. Raises as `compute` does."""
        loss = self._forward(rows, loss_of, few)
        self._raise_noted()
        return loss

    def _forward(self, rows: Any, loss_of: Callable[[Any], Tensor], few: Any) -> Tensor:
        self._begin()
        try:
            loss = loss_of(rows)
        except _OUT_OF_MEMORY as error:
            self._note(error)
            if self._last is None:  # before the first layer
                loss_of(few)
        return loss if self.error is None else self._nothing()

    def _begin(self) -> None:
        self.error, self._last, self._has_turned = None, None, False

    def _nothing(self) -> Tensor:
        """Return a loss from which nothing is learned, whose backward pass goes through every layer."""
        assert self._last is not None
        return self._last.float().sum() * 0

    def _note(self, error: BaseException) -> None:
        """Raises: the error itself unless it says that memory ran out."""
        if not is_out_of_memory(error):
            raise error
        self.error = self.error or error.with_traceback(None)  # its frames would keep what is to be freed

    def _raise_noted(self) -> None:
        self._last = None
        if self.error is not None:
            raise self.error

    # --- called by the layers ------------------------------------------------------------------------------------

    def attempt(self, work: Callable[[], Any]) -> Any:
        """Return what the work gives, None where memory has run out."""
        if self.error is not None:
            return None
        try:
            return work()
        except _OUT_OF_MEMORY as error:
            self._note(error)
            return None

    def passed(self, result: Tensor) -> Tensor:
        """Remember a layer's result."""
        self._last = result
        return result

    def turn(self) -> None:
        """Remember that the backward pass has come to a layer."""
        self._has_turned = True


class _Guarded:
    """A layer's forward function that gives back its input where memory has run out."""

    def __init__(self, in_step: InStep, forward: Callable[..., Any]) -> None:
        self._in_step = in_step
        self._forward = forward
        self._gives_tensor = False  # known after the first look without a gradient

    def __call__(self, hidden: Tensor, *given: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and self._gives_tensor:

            def run(inner: Tensor) -> Any:
                return self._forward(inner, *given, **named)

            start = torch.empty(0, requires_grad=True)  # a first layer's input needs no gradient, its adapter does
            return self._in_step.passed(_Layer.apply(self._in_step, run, start, hidden))  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():
            return self._forward(hidden, *given, **named)
        found = self._in_step.attempt(lambda: self._forward(hidden, *given, **named))
        self._gives_tensor = self._gives_tensor or isinstance(found, Tensor)
        return self._in_step.passed(hidden) if found is None else self._in_step.passed(found)


class _Layer(torch.autograd.Function):
    """One layer with a graph of its own, so that its backward pass can be left out alone."""

    @staticmethod
    def forward(ctx: Any, in_step: InStep, run: Callable[[Tensor], Tensor], _start: Tensor, hidden: Tensor) -> Tensor:
        ctx.in_step, ctx.inner, ctx.result = in_step, hidden.detach().requires_grad_(hidden.requires_grad), None
        with torch.enable_grad():
            ctx.result = in_step.attempt(lambda: run(ctx.inner))
        return hidden.view_as(hidden) if ctx.result is None else ctx.result.detach()

    @staticmethod
    def backward(ctx: Any, *d_result: Tensor) -> tuple[None, None, None, Tensor | None]:
        ctx.in_step.turn()
        if ctx.result is not None:
            ctx.in_step.attempt(lambda: torch.autograd.backward(ctx.result, d_result[0]))
        d_hidden = d_result[0] if ctx.inner.grad is None else ctx.inner.grad
        ctx.result = ctx.inner = None
        return None, None, None, d_hidden
