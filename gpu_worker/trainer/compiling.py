"""A model's forward pass compiled by torch, where a run asks for it: fewer small operations between the products."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class CompiledForward:
    """Calls a module as torch.compile made it where a gradient is wanted, else as it is.

    Checks and answers are few and of other shapes, so compiling for them would not pay.
    """

    def __init__(self, module: Any) -> None:
        """Nothing is compiled before the first call."""
        import torch._inductor.config as inductor

        inductor.compile_threads = 1  # its other processes would want sockets, which a trainer has not
        self._module = module
        self._compiled: Any = torch.compile(module, dynamic=True)

    def __call__(self, **given: Any) -> Any:
        """Return what the module returns."""
        if self._compiled is None or not torch.is_grad_enabled():
            return self._module(**given)
        return self._compiled(**given)

    @contextlib.contextmanager
    def as_it_is(self) -> Iterator[None]:
        """Call the module itself for a while."""
        kept, self._compiled = self._compiled, None
        try:
            yield
        finally:
            self._compiled = kept

    def give_up(self) -> None:
        """Call the module itself from now on."""
        self._compiled = None
