"""Learning for any causal language model that transformers and peft know, on CPU or GPU.

Faster and leaner than a stock training loop in two exact ways: the vocabulary head, the largest matrix of a small
model, is computed only where an answer token is predicted, a piece at a time, and rows of similar length share a
micro-batch.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from datasets_app.learned_rows import EncodedRow
from gpu_worker.trainer.adapter import saved_name
from gpu_worker.trainer.answer_head import AnswerHead
from gpu_worker.trainer.attach import (
    FactoredOutcome,
    MovedOutcome,
    PlainOutcome,
    free_linear_layers,
    use_checkpointing,
    with_adapter,
)
from gpu_worker.trainer.base_loading import load_base
from gpu_worker.trainer.compiling import CompiledForward
from gpu_worker.trainer.divided import divide, divides, processes
from gpu_worker.trainer.in_step import InStep
from gpu_worker.trainer.layouts import Packing, packed, padded, positions_of
from gpu_worker.trainer.learner import Outcome, is_out_of_memory
from gpu_worker.trainer.noise import InputNoise
from gpu_worker.trainer.parameters import AdapterParameters, Slot
from gpu_worker.trainer.problems.preference import PreferenceLoss
from gpu_worker.trainer.room import Remembered, tokens_that_fit
from gpu_worker.trainer.spec import TrainSpec


class GeneralLearner:
    """A transformers model with PEFT's LoRA layers, differentiated by autograd."""

    path: Literal["fast", "general"] = "general"

    def __init__(self, spec: TrainSpec, *, device: str, why: str) -> None:
        """Load the base model and attach a fresh adapter. Raises: TrainingError (bad_base_model)."""
        self.why = why
        self.device = device
        self._bf16 = uses_bf16(spec, device)
        self.is_divided = divides(spec, device)
        self._in_step: InStep | None = None
        # What is to be divided is never whole on a GPU.
        base = load_base(spec, device="cpu" if self.is_divided else device, bf16=self._bf16)
        self._model, self._causal_lm = _made_trainable(base, spec)
        if self.is_divided:
            self._in_step = divide(self._model, self._causal_lm, device)
            self.why += f", its layers divided among {processes()} processes (FSDP2)"
        self.parameters = _adopt_parameters(self._model, device)
        attention = str(getattr(base.config, "_attn_implementation", "") or "unknown")
        self.arithmetic = {"precision": "bf16" if self._bf16 else "fp32", "attention": attention}
        self.outcome: Outcome = _outcome(self._model, self.parameters, spec)
        self._noise = InputNoise(self._causal_lm, spec.hyperparameters.neftune_alpha)
        self._preferences = PreferenceLoss(spec.hyperparameters)
        self._checkpointing = spec.hyperparameters.gradient_checkpointing
        self.token_limit: int | None = None
        self._head = AnswerHead.of(self._causal_lm, device)
        self._packing = Packing.of(self._causal_lm, device) if not spec.hyperparameters.neftune_alpha else None
        self._compiled = self._compiled_forward(spec)

    def make_room(self, longest: EncodedRow) -> str:
        """Choose `token_limit` by what one pass over the longest row makes autograd remember.

        If not even that row fits, layers are computed again in the backward pass instead of remembered. Of a divided
        model that has to be chosen, since its processes might not agree.
        """
        most = self._remembered_by(longest)
        fitting = tokens_that_fit(most / longest.tokens, self.device)
        said = ""
        if fitting < longest.tokens and not (self._checkpointing or self.is_divided):
            use_checkpointing(self._causal_lm)
            self._checkpointing = True
            fitting = tokens_that_fit(self._remembered_by(longest) / longest.tokens, self.device)
            said = "The longest row would not fit into memory, so gradient checkpointing is switched on. "
        self.token_limit = max(longest.tokens, fitting)
        if self._compiled is not None:
            self._try_compiled(longest)
        return f"{said}Up to {self.token_limit:,} tokens are computed at once." if said else ""

    def _remembered_by(self, row: EncodedRow) -> float:
        """Return the bytes that autograd keeps of a row between forward and backward pass."""
        known = (*self._model.parameters(), *self._model.buffers())
        self._model.train()
        try:
            with self._uncompiled(), Remembered(known) as remembered:
                self._looked_at([row])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return float("inf")
        return remembered.bytes

    def _compiled_forward(self, spec: TrainSpec) -> CompiledForward | None:
        """Return what computes hidden states, or logits, in steps; None where nothing is compiled."""
        if not spec.hyperparameters.torch_compile:
            return None
        if self.is_divided or spec.hyperparameters.neftune_alpha:
            self.why += ", not compiled: " + ("its layers are divided" if self.is_divided else "its input is noisy")
            return None
        return CompiledForward(self._causal_lm.get_decoder() if self._head else self._causal_lm)

    def _try_compiled(self, row: EncodedRow) -> None:
        """Compile forward and backward pass now, so that what cannot be compiled is known before the first step."""
        assert self._compiled is not None
        try:
            self.accumulate([row], 0.0)
            self.why += ", compiled by torch"
        except Exception as error:  # noqa: BLE001 -- compilers fail in many ways, and the run can do without
            self._compiled.give_up()
            self.why += f", not compiled: {type(error).__name__}"
        self.parameters.gradients.zero_()

    def _uncompiled(self) -> contextlib.AbstractContextManager[None]:
        return self._compiled.as_it_is() if self._compiled is not None else contextlib.nullcontext()

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        """Return how many tokens a micro-batch of rows of these lengths costs, padding included."""
        packs = self._packing is not None and self._packing.pays(lengths)
        return sum(lengths) if packs else len(lengths) * max(lengths)

    def accumulate(self, rows: Sequence[EncodedRow], scale: float) -> float:
        """Add the gradient of scale · loss to `parameters.gradients` and return the summed loss."""
        self._model.train()
        if self._in_step is not None:
            return self._in_step.compute(rows, self._loss, _few(rows), scale)
        loss = self._loss(rows)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def loss_sum(self, rows: Sequence[EncodedRow]) -> float:
        """Return the summed loss without dropout and without gradient."""
        self._stop_training()
        with torch.no_grad():
            return float(self._looked_at(rows))

    @contextlib.contextmanager
    def lend_model(self) -> Iterator[Any]:
        """Lend the causal language model as it has learned so far: no dropout, no gradient."""
        self._stop_training()
        with torch.no_grad(), self._autocast():
            yield self._causal_lm

    def _stop_training(self) -> None:
        self._model.train()  # DoRA keeps lengths of weights while it does not train: they may be of an older state
        self._model.eval()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16) if self._bf16 else contextlib.nullcontext()

    def _looked_at(self, rows: Sequence[EncodedRow]) -> Tensor:
        return self._in_step.look(rows, self._loss, _few(rows)) if self._in_step is not None else self._loss(rows)

    def _loss(self, rows: Sequence[EncodedRow]) -> Tensor:
        if rows[0].rejected_ids:
            return self._preferences.summed(rows, self._answer_logprobs, self._reference_logprobs)
        return -self._answer_logprobs(rows).sum()

    def _reference_logprobs(self, rows: Sequence[EncodedRow]) -> Tensor:
        """Return what `_answer_logprobs` gives without adapter, dropout and gradient."""
        was_training = self._model.training
        self._model.eval()
        with torch.no_grad(), self._model.disable_adapter():
            found = self._answer_logprobs(rows)
        self._model.train(was_training)
        return found

    def _answer_logprobs(self, rows: Sequence[EncodedRow]) -> Tensor:
        """Return the summed log probability of each row's label tokens. Shapes: result (rows,)."""
        self._noise.lengths = [len(row.token_ids) for row in rows]
        lengths = [len(row.token_ids) for row in rows]
        packs = self._packing is not None and self._packing.pays(lengths)
        token_ids, predicting, labels = (tensor.to(self.device) for tensor in (packed if packs else padded)(rows))
        positions = positions_of(lengths).to(self.device) if packs else None
        with self._autocast():
            each = self._label_logprobs(token_ids, predicting, labels, positions)
        counts = torch.tensor([row.answer_tokens for row in rows], device=self.device)
        owner = torch.arange(len(rows), device=self.device).repeat_interleave(counts)
        return torch.zeros(len(rows), device=self.device).index_add(0, owner, each)

    def _label_logprobs(
        self, token_ids: Tensor, predicting: Tensor, labels: Tensor, positions: Tensor | None
    ) -> Tensor:
        """Return log probabilities of labels (L,) at the flat positions `predicting` of token_ids (rows, length).

        `positions`: of packed rows, (1, tokens); where they begin anew, another row begins.
        """
        given: dict[str, Any] = {"input_ids": token_ids, "use_cache": False}
        if positions is not None:
            given["position_ids"] = positions
        if self._head is None:
            logits: Tensor = (self._compiled or self._causal_lm)(**given).logits
            return -functional.cross_entropy(logits.flatten(0, 1)[predicting].float(), labels, reduction="none")
        # No attention mask: padding stands behind every real token, where a causal model cannot see it.
        hidden: Tensor = (self._compiled or self._causal_lm.get_decoder())(**given).last_hidden_state
        return self._head.logprobs(hidden.flatten(0, 1)[predicting], labels)


def _few(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    return [EncodedRow(rows[0].token_ids[:2], 1)]


def uses_bf16(spec: TrainSpec, device: str) -> bool:
    """Tell whether frozen weights and products are bfloat16; without bf16 hardware it is slower than float32."""
    if spec.hyperparameters.precision in ("auto", "fastest"):
        return device == "cuda" and torch.cuda.is_bf16_supported()
    return spec.hyperparameters.precision == "bf16"


# --- setting up ---------------------------------------------------------------------------------------------------


def _made_trainable(base: Any, spec: TrainSpec) -> tuple[Any, Any]:
    """Return the model to train and, inside of it, the causal language model."""
    if spec.hyperparameters.training_kind == "full":
        free_linear_layers(base, spec.hyperparameters)
        return base, base
    model = with_adapter(base, spec)
    return model, model.get_base_model()


def _outcome(model: Any, parameters: AdapterParameters, spec: TrainSpec) -> Outcome:
    """Give fresh adapters their start, and return how the result is kept."""
    chosen = spec.hyperparameters
    if chosen.training_kind == "full":
        return FactoredOutcome(parameters.export(parameters.values), spec.base_model.slug)
    if chosen.lora_init == "pissa" or chosen.lora_init == "olora":
        return MovedOutcome(model, parameters.export(parameters.values), chosen)
    parameters.initialise(chosen.seed, chosen.lora_init)
    return PlainOutcome(model)


def _adopt_parameters(model: Any, device: str) -> AdapterParameters:
    """Move the trainable tensors into one flat buffer, of which they become views."""
    trainable = {saved_name(name): tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    parameters = AdapterParameters([Slot(name, tuple(t.shape)) for name, t in trainable.items()], device=device)
    values, gradients = parameters.views(parameters.values), parameters.views(parameters.gradients)
    for name, tensor in trainable.items():
        values[name].copy_(tensor.data)
        tensor.data = values[name]
        tensor.grad = gradients[name]  # autograd adds into an existing gradient in place
    return parameters
