"""The training baseline: transformers' Trainer with PEFT, rows padded, all logits, over one of our job folders.

`python -m gpu_worker.benchmarks.stock_training JOB_DIR` prints the trainer's kind of events. Initial adapter, order of
rows and evaluation are ours, so that only the loop differs.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from datasets_app.learned_rows import EncodedRow
from datasets_app.rendering import ChatRenderer
from gpu_worker.trainer.adapter import saved_name
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.limits import peak_memory_bytes
from gpu_worker.trainer.parameters import AdapterParameters, Slot
from gpu_worker.trainer.plan import TrainingPlan
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import JobFolder, TrainSpec, read_spec


def train(job: JobFolder, events: Events) -> None:
    """Train the job folder's rows once and report each step and the end."""
    spec = read_spec(job)
    chosen = spec.hyperparameters
    renderer = ChatRenderer.load(spec.base_model.path)
    rows = encode_file(job.train_rows, renderer, chosen).rows
    model = _model(spec)
    plan = TrainingPlan([len(row.token_ids) for row in rows], chosen)
    batches = [[rows[row] for row in plan.batch(step)] for step in range(plan.total_steps)]
    settings = TrainingArguments(
        output_dir=str(job.root / "stock"),
        per_device_train_batch_size=chosen.batch_size,
        max_steps=plan.total_steps,
        learning_rate=chosen.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=chosen.max_grad_norm,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=[row for batch in batches for row in batch],
        data_collator=_padded_batch,
        callbacks=[_Reporter(events, [sum(len(row.token_ids) for row in batch) for batch in batches])],
    )
    trainer.train()
    peak = peak_memory_bytes("cpu")  # before validation, whose padded logits are none of the loop's doing
    validation = encode_file(job.validation_rows, renderer, chosen).rows
    events.emit("finished", validation_loss=_validation_loss(model, validation), peak_memory_bytes=peak)


class _Reporter(TrainerCallback):
    """Reports each step with its speed in useful tokens."""

    def __init__(self, events: Events, tokens: Sequence[int]) -> None:
        self._events = events
        self._tokens = tokens
        self._last = 0.0

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self._events.phase("training")
        self._last = time.perf_counter()

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        step, logs = args[1].global_step, kwargs["logs"]
        if "loss" in logs:
            now = time.perf_counter()
            speed = self._tokens[step - 1] / (now - self._last)
            self._events.emit("metric", step=step, loss=logs["loss"], tokens_per_s=speed)
            self._last = now


def _model(spec: TrainSpec) -> Any:
    """Return the PEFT model with the same initial adapter as our own loops."""
    chosen = spec.hyperparameters
    base = AutoModelForCausalLM.from_pretrained(
        spec.base_model.path, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    config = LoraConfig(
        r=chosen.lora_r, lora_alpha=int(chosen.lora_alpha), target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model: Any = get_peft_model(base, config)
    trainable = {saved_name(name): tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    start = AdapterParameters([Slot(name, tuple(tensor.shape)) for name, tensor in trainable.items()])
    start.initialise(chosen.seed)
    for name, tensor in start.export(start.values).items():
        trainable[name].data.copy_(tensor)
    return model


def _padded_batch(rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
    """Return what a causal model's forward pass takes: everything padded to the longest row of the batch."""
    longest = max(len(row.token_ids) for row in rows)

    def padded(values: Iterator[list[int]], padding: int) -> torch.Tensor:
        return torch.tensor([one + [padding] * (longest - len(one)) for one in values])

    return {
        "input_ids": padded((list(row.token_ids) for row in rows), 0),
        "attention_mask": padded(([1] * len(row.token_ids) for row in rows), 0),
        "labels": padded((_labels(row) for row in rows), -100),
    }


def _labels(row: EncodedRow) -> list[int]:
    labels = [-100] * len(row.token_ids)
    for place in row.label_places:
        labels[place] = row.token_ids[place]
    return labels


def _validation_loss(model: Any, rows: Sequence[EncodedRow], size: int = 8) -> float:
    """Return the mean loss per label token."""
    model.eval()
    total = 0.0
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        with torch.no_grad():
            total += float(model(**_padded_batch(part)).loss) * sum(row.label_tokens for row in part)
    return total / sum(row.label_tokens for row in rows)


if __name__ == "__main__":
    train(JobFolder(Path(sys.argv[1])), Events.on_stdout())
