"""The trained tensors in one flat buffer.

One buffer means one kernel per operation instead of one per tensor (a 30-layer model has 420 of them), and a gradient
norm that is a single reduction. Both ways of learning share this file, so they share its arithmetic.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """The place of one tensor: its name in PEFT files and its shape there.

    `transposed`: a matrix that is kept in memory the other way round, because the arithmetic wants it so.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class AdapterParameters:
    """Named float32 tensors as views into one flat buffer, with gradients laid out alike."""

    def __init__(self, slots: Sequence[Slot], *, device: str = "cpu") -> None:
        """Slots lie one after the other in the given order; values and gradients start as zeros."""
        self.slots = tuple(slots)
        self.count = sum(slot.count for slot in slots)
        self.values = torch.zeros(self.count, device=device)
        self.gradients = torch.zeros(self.count, device=device)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return {name: view into `flat`} in the in-memory orientation of each slot."""
        found, offset = {}, 0
        for slot in self.slots:
            shape = slot.shape[::-1] if slot.transposed else slot.shape
            found[slot.name] = flat[offset : offset + slot.count].view(shape)
            offset += slot.count
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

    def initialise(self, seed: int, start: Literal["default", "gaussian"] = "default") -> None:
        """Start as LoRA starts: A random, B zero, hence a fresh adapter changes nothing; other tensors stay.

        A is uniform in ± 1/√d_in, or normal with deviation 1/r. The draw depends on seed and names only, so every way
        of learning starts from the same adapter.
        Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; the bounds are PEFT's (Kaiming uniform with a = √5).
        """
        generator = torch.Generator().manual_seed(seed)
        views = self.views(self.values)
        for slot in sorted(self.slots, key=lambda slot: slot.name):
            if not slot.name.endswith((".lora_A.weight", ".lora_B.weight")):
                continue
            is_down, drawn = ".lora_A." in slot.name, torch.empty(slot.shape)
            if start == "gaussian":
                drawn.normal_(0.0, is_down / slot.shape[0], generator=generator)
            else:
                bound = is_down * slot.shape[1] ** -0.5
                drawn.uniform_(-bound, bound, generator=generator)
            views[slot.name].copy_(drawn.t() if slot.transposed else drawn)
