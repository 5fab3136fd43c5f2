"""What moves the trained tensors: AdamW over the flat buffer, in 32 bit by hand or in 8 bit by bitsandbytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.parameters import AdapterParameters


@dataclass(frozen=True)
class Moments:
    """How fast both moments forget, and what is added to the root of the second one."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @classmethod
    def of(cls, chosen: Hyperparameters) -> "Moments":
        """Return what was chosen."""
        return cls(chosen.adam_beta1, chosen.adam_beta2, chosen.adam_epsilon)


USUAL = Moments()


class Optimizer(Protocol):
    """Moves `parameters.values` against `parameters.gradients`; its whole state can be taken out and put back."""

    def clip(self, max_norm: float) -> float:
        """Scale the gradients to at most `max_norm` and return the norm they had."""
        ...

    def update(self, learning_rate: float) -> None:
        """Move the values one step against the gradients, then set the gradients to zero."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return copies of what it remembers, on the CPU, by a name that begins with a group of its own."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        """Put a state back as it was after so many updates. Raises: KeyError, ValueError, RuntimeError."""
        ...


def make_optimizer(parameters: AdapterParameters, chosen: Hyperparameters, *, device: str) -> Optimizer:
    """Return the chosen optimizer. Raises: TrainingError (bad_settings) if this machine cannot run it."""
    if chosen.optimizer == "adamw":
        return AdamW(parameters, Moments.of(chosen), weight_decay=chosen.weight_decay)
    if chosen.optimizer.startswith("paged") and device != "cuda":
        raise TrainingError(
            "bad_settings",
            "The paged optimizer needs a GPU, and this node has none. Choose AdamW, or AdamW with 8-bit memory.",
        )
    paged = chosen.optimizer.startswith("paged")
    return AdamW8bit(parameters, Moments.of(chosen), weight_decay=chosen.weight_decay, paged=paged)


def clip_gradients(parameters: AdapterParameters, max_norm: float) -> float:
    """Scale the gradients to at most `max_norm` and return the norm they had."""
    norm = float(torch.linalg.vector_norm(parameters.gradients))
    if norm > max_norm:
        parameters.gradients.mul_(max_norm / (norm + 1e-6))
    return norm


class AdamW:
    """Adam with decoupled weight decay over one flat tensor.

    torch's fused kernel, called without torch.optim, which imports its compiler for a second: one pass over the
    buffer, where single operations make ten.
    Source: Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2.
    """

    def __init__(self, parameters: AdapterParameters, moments: Moments = USUAL, *, weight_decay: float) -> None:
        self._parameters = parameters
        self._moments = moments
        self._weight_decay = weight_decay
        self.mean = torch.zeros_like(parameters.values)
        self.square = torch.zeros_like(parameters.values)
        self.updates = 0

    def clip(self, max_norm: float) -> float:
        """Scale the gradients to at most `max_norm` and return the norm they had."""
        return clip_gradients(self._parameters, max_norm)

    def update(self, learning_rate: float) -> None:
        """Move the values one step against the gradients, then set the gradients to zero."""
        values, gradients = self._parameters.values, self._parameters.gradients
        self.updates += 1
        steps = torch.full((), float(self.updates), device=values.device)  # CUDA's kernel reads it where it computes
        torch._fused_adamw_(
            [values], [gradients], [self.mean], [self.square], [], [steps],
            lr=learning_rate, beta1=self._moments.beta1, beta2=self._moments.beta2, eps=self._moments.epsilon,
            weight_decay=self._weight_decay, amsgrad=False, maximize=False,
        )  # fmt: skip
        gradients.zero_()

    def state(self) -> dict[str, Tensor]:
        """Return copies of both moments, named after the tensors they belong to."""
        moments = {"mean": self.mean, "square": self.square}
        return {
            f"{group}/{name}": tensor
            for group, flat in moments.items()
            for name, tensor in self._parameters.export(flat).items()
        }

    def load_state(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        """Put the moments back as they were after so many updates. Raises: KeyError, ValueError."""
        for group, flat in {"mean": self.mean, "square": self.square}.items():
            start = f"{group}/"
            found = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
            self._parameters.load(flat, found)
        self.updates = updates


class AdamW8bit:
    """AdamW whose moments are kept in 8 bit, in blocks of 256 numbers with a scale each.

    Source: Dettmers et al. 2021, arXiv:2110.02861, as implemented in bitsandbytes. Paged: the moments may move to the
    computer's memory when the GPU's is full.
    """

    def __init__(self, parameters: AdapterParameters, moments: Moments, *, weight_decay: float, paged: bool) -> None:
        """Raises: TrainingError (bad_settings) where bitsandbytes is missing."""
        try:
            import bitsandbytes
        except (ImportError, RuntimeError) as error:
            message = "8-bit optimizers need the package bitsandbytes, which this node lacks. Choose AdamW."
            raise TrainingError("bad_settings", message) from error
        self._parameters = parameters
        self._flat = torch.nn.Parameter(parameters.values)  # shares the buffer
        self._flat.grad = parameters.gradients
        optimizers: Any = bitsandbytes.optim
        kind = optimizers.PagedAdamW8bit if paged else optimizers.AdamW8bit
        betas = (moments.beta1, moments.beta2)
        self._optimizer: Any = kind([self._flat], betas=betas, eps=moments.epsilon, weight_decay=weight_decay)

    def clip(self, max_norm: float) -> float:
        """Scale the gradients to at most `max_norm` and return the norm they had."""
        return clip_gradients(self._parameters, max_norm)

    def update(self, learning_rate: float) -> None:
        """Move the values one step against the gradients, then set the gradients to zero."""
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        self._parameters.gradients.zero_()

    def state(self) -> dict[str, Tensor]:
        """Return copies of the quantized moments and their scales; nothing before the first update."""
        kept = self._optimizer.state[self._flat]
        return {f"adamw8bit/{name}": t.detach().cpu().clone() for name, t in kept.items() if isinstance(t, Tensor)}

    def load_state(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        """Put the moments back as they were after so many updates. Raises: KeyError, RuntimeError."""
        if not updates:
            return
        self._optimizer.check_overrides()
        self._optimizer.initialized = True
        self._optimizer.init_state(self._optimizer.param_groups[0], self._flat, 0, 0)
        kept = self._optimizer.state[self._flat]
        for name, tensor in kept.items():
            if isinstance(tensor, Tensor):
                tensor.copy_(tensors[f"adamw8bit/{name}"])
        kept["step"] = updates
