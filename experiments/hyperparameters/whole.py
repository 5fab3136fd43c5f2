"""All that a person may choose about a training run, and the arithmetic that follows from it alone."""

import math

from experiments.hyperparameters.checks import ChecksGroup
from experiments.hyperparameters.hardware import HardwareGroup
from experiments.hyperparameters.learning import LearningGroup
from experiments.hyperparameters.length import LengthGroup
from experiments.hyperparameters.lora import LoraGroup
from experiments.hyperparameters.problem import ProblemGroup
from experiments.hyperparameters.text import TextGroup


# pydantic takes the fields of the last base first: read from the bottom, this is the order of the form.
class Hyperparameters(
    ChecksGroup,
    HardwareGroup,
    TextGroup,
    LoraGroup,
    LearningGroup,
    LengthGroup,
    ProblemGroup,
):
    """What a run is trained with; frozen, complete and within range by construction.

    Raises: pydantic.ValidationError naming each field that is unknown, of a wrong type, out of range, NaN or infinite.
    """

    def steps_per_epoch(self, rows: int) -> int:
        """Return how many optimizer steps read `rows` rows once."""
        return math.ceil(rows / self.batch_size)

    def total_steps(self, rows: int) -> int:
        """Return how many optimizer steps a run over `rows` training rows takes, if nothing ends it early."""
        steps = max(1, round(self.epochs * self.steps_per_epoch(rows)))
        return min(steps, self.max_steps or steps)
