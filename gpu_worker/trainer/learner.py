"""What a way of learning must offer to the loop, and the choice between the two ways there are."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from datasets_app.learned_rows import EncodedRow
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.parameters import AdapterParameters
from gpu_worker.trainer.spec import TrainSpec


class Outcome(Protocol):
    """Turns trained tensors into the adapter that is kept, a plain LoRA adapter in PEFT's format."""

    def tensors(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of `adapter_model.safetensors`."""
        ...

    def config(self) -> dict[str, object]:
        """Return the content of `adapter_config.json`."""
        ...

    def remark(self) -> str:
        """Return what people should know about how it was kept, or nothing."""
        ...


class Learner(Protocol):
    """A base model with an adapter, able to say how wrong it is and in which direction to move.

    Losses are sums over label tokens, in nats; the caller divides by the label tokens of the whole batch, because a
    mean of means would let short answers weigh more than long ones.
    """

    parameters: AdapterParameters
    outcome: Outcome
    path: Literal["fast", "general"]
    why: str
    device: str
    arithmetic: dict[str, str]  # in words: number format and kind of attention
    token_limit: int | None  # most tokens of a micro-batch, padding included; None: nobody has looked yet
    is_divided: bool  # among processes: then all of them have to compute equally many micro-batches

    def make_room(self, longest: EncodedRow) -> str:
        """Choose `token_limit` by the memory that is free and what the longest row takes; return words for the log."""
        ...

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        """Return how many tokens a micro-batch of rows of these lengths costs, padding included."""
        ...

    def accumulate(self, rows: Sequence[EncodedRow], scale: float) -> float:
        """Add the gradient of scale · loss to `parameters.gradients` and return the summed loss."""
        ...

    def loss_sum(self, rows: Sequence[EncodedRow]) -> float:
        """Return the summed loss without dropout and without gradient."""
        ...


@runtime_checkable
class LendsModel(Protocol):
    """A learner whose model is one of transformers, which can write answers between two steps."""

    def lend_model(self) -> AbstractContextManager[Any]:
        """Lend the causal language model as it has learned so far: no dropout, no gradient."""
        ...


def choose_device() -> str:
    """Return "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def make_learner(spec: TrainSpec, *, longest_row: int, rows: Sequence[EncodedRow] = ()) -> Learner:
    """Return the fastest learner that computes exactly what was ordered; its `why` gives the reason.

    `longest_row`: tokens of the longest row, since some models attend differently beyond a certain length. `rows`: what
    is going to be learned, if it may be looked at beforehand.
    Raises: TrainingError (bad_base_model, bad_settings).
    """
    from gpu_worker.trainer.fast.support import reason_against, require_eight_bit

    device = choose_device()
    against = reason_against(spec, device=device, longest_row=longest_row)
    require_eight_bit(spec, device=device, against=against)
    # Each way imports what it needs: transformers and peft alone take five seconds, which the fast way does without.
    if against is None:
        from gpu_worker.trainer.fast.learner import FastLearner

        return FastLearner(spec, rows)
    from gpu_worker.trainer.general import GeneralLearner

    return GeneralLearner(spec, device=device, why=against)


def unusable_base_model(reason: str) -> TrainingError:
    """Return the error for a base model folder that cannot be trained."""
    return TrainingError(
        "bad_base_model", f"The base model cannot be used: {reason}. Choose another one or ask a platform admin."
    )


def require_layers(named: Collection[str], known: Collection[str]) -> None:
    """Refuse names of layers that the base model does not have. Raises: TrainingError (bad_settings)."""
    if missing := sorted(set(named) - set(known)):
        raise TrainingError(
            "bad_settings",
            f"The base model has no linear layer '{missing[0]}'. Its layers are: {', '.join(sorted(known))}. "
            "Name some of these as adapted layers and start the run again.",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or on a CPU."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )
