"""The adapter's trainable tensors in one flat buffer, and the optimizer that moves them.

One buffer means one kernel per operation instead of one per tensor (a 30-layer model has 420 of them), and a gradient
norm that is a single reduction. Both ways of learning share this file, so they share its arithmetic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Slot:
    """The place of one tensor: its name in PEFT files and its shape there.

    `transposed`: kept in memory the other way round, because the arithmetic wants it so.
    """

    name: str
    shape: tuple[int, int]
    transposed: bool = False


class AdapterParameters:
    """Named float32 tensors as views into one flat buffer, with gradients laid out alike."""

    def __init__(self, slots: Sequence[Slot], *, device: str = "cpu") -> None:
        """Slots lie one after the other in the given order; values and gradients start as zeros."""
        self.slots = tuple(slots)
        self.count = sum(slot.shape[0] * slot.shape[1] for slot in slots)
        self.values = torch.zeros(self.count, device=device)
        self.gradients = torch.zeros(self.count, device=device)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return {name: view into `flat`} in the in-memory orientation of each slot."""
        found, offset = {}, 0
        for slot in self.slots:
            rows, columns = slot.shape[::-1] if slot.transposed else slot.shape
            found[slot.name] = flat[offset : offset + rows * columns].view(rows, columns)
            offset += rows * columns
        return found

    def export(self, flat: Tensor) -> dict[str, Tensor]:
        """Return copies on the CPU, named and oriented as PEFT files have them."""
        views = self.views(flat)
        return {
            slot.name: (views[slot.name].t() if slot.transposed else views[slot.name]).cpu().clone().contiguous()
            for slot in self.slots
        }

    def load(self, flat: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors, named and oriented as PEFT files have them, into `flat`. Raises: KeyError, ValueError."""
        views = self.views(flat)
        for slot in self.slots:
            tensor = tensors[slot.name]
            if tuple(tensor.shape) != slot.shape:
                raise ValueError(f"{slot.name} has the shape {tuple(tensor.shape)}, expected {slot.shape}")
            views[slot.name].copy_(tensor.t() if slot.transposed else tensor)

    def initialise(self, seed: int) -> None:
        """Start as LoRA starts: A uniform in ± 1/√d_in, B zero, hence a fresh adapter changes nothing.

        The draw depends on seed and names only, so every way of learning starts from the same adapter.
        Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; the bound is PEFT's (Kaiming uniform with a = √5).
        """
        generator = torch.Generator().manual_seed(seed)
        start = {}
        for slot in sorted(self.slots, key=lambda slot: slot.name):
            bound = slot.shape[1] ** -0.5 if ".lora_A." in slot.name else 0.0
            start[slot.name] = torch.empty(slot.shape).uniform_(-bound, bound, generator=generator)
        self.load(self.values, start)


class AdamW:
    """Adam with decoupled weight decay over one flat tensor.

    Written out because it is eight lines on a flat buffer, and torch.optim imports its compiler for a second.
    Source: Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2.
    """

    def __init__(self, parameters: AdapterParameters, *, weight_decay: float) -> None:
        self._parameters = parameters
        self._weight_decay = weight_decay
        self.mean = torch.zeros_like(parameters.values)
        self.square = torch.zeros_like(parameters.values)
        self.updates = 0

    def clip(self, max_norm: float) -> float:
        """Scale the gradients to at most `max_norm` and return the norm they had."""
        gradients = self._parameters.gradients
        norm = float(torch.linalg.vector_norm(gradients))
        if norm > max_norm:
            gradients.mul_(max_norm / (norm + 1e-6))
        return norm

    def update(self, learning_rate: float) -> None:
        """Move the values one step against the gradients, then set the gradients to zero."""
        values, gradients = self._parameters.values, self._parameters.gradients
        self.updates += 1
        values.mul_(1 - learning_rate * self._weight_decay)
        self.mean.lerp_(gradients, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradients, gradients, value=1 - BETA2)
        root = (self.square / (1 - BETA2**self.updates)).sqrt_().add_(EPSILON)
        values.addcdiv_(self.mean, root, value=-learning_rate / (1 - BETA1**self.updates))
        gradients.zero_()
