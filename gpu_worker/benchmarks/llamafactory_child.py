"""Runs inside LLaMA-Factory's environment: trains one of our job folders with it and prints our kind of events.

Same rows in the same order, same settings; the initial adapter is its own draw, so losses agree only roughly.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

FORMAT = {
    "rows": {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
}  # fmt: skip


def settings(job: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Return its settings for what our spec orders."""
    chosen = spec["hyperparameters"]
    return {
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_target": "all", "lora_rank": 16,
        "lora_alpha": 32, "lora_dropout": 0.0, "model_name_or_path": spec["base_model"]["path"], "template": "chatml",
        "dataset": "rows", "dataset_dir": str(job / "peer"), "output_dir": str(job / "peer" / "out"),
        "per_device_train_batch_size": chosen["batch_size"], "gradient_accumulation_steps": 1,
        "learning_rate": chosen["learning_rate"], "lr_scheduler_type": "constant", "num_train_epochs": 1.0,
        "max_grad_norm": 1.0, "cutoff_len": 1024, "disable_shuffling": True, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "bf16": False, "fp16": False, "use_cpu": True, "overwrite_cache": True,
        "disable_gradient_checkpointing": True, "preprocessing_num_workers": 1, "disable_tqdm": True,
        "overwrite_output_dir": True,
    }  # fmt: skip


def main(job: Path) -> None:
    """Train and report."""
    spec = json.loads((job / "spec.json").read_text(encoding="utf-8"))
    order = json.loads((job / "order.json").read_text(encoding="utf-8"))
    (job / "peer").mkdir()
    lines = (job / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{"messages": json.loads(lines[row])["messages"]} for batch in order["batches"] for row in batch]
    (job / "peer" / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (job / "peer" / "dataset_info.json").write_text(json.dumps(FORMAT), encoding="utf-8")

    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        """Reports each step with its speed in useful tokens, as we count them."""

        last = 0.0

        def on_train_begin(self, *_args: Any, **_named: Any) -> None:
            emit("phase", phase="training")
            self.last = time.perf_counter()

        def on_log(self, *args: Any, **named: Any) -> None:
            step, logs = args[1].global_step, named["logs"]
            if "loss" in logs:
                now = time.perf_counter()
                speed = order["tokens"][step - 1] / (now - self.last)
                emit("metric", step=step, loss=logs["loss"], tokens_per_s=speed)
                self.last = now

    run_exp(settings(job, spec), callbacks=[Reporter()])
    emit("finished", validation_loss=None, peak_memory_bytes=peak_memory_bytes())


def emit(event: str, **fields: Any) -> None:
    """Print an event on a line of its own."""
    sys.stdout.write("\n" + json.dumps({"event": event, "at": time.time(), **fields}) + "\n")
    sys.stdout.flush()


def peak_memory_bytes() -> int:
    """Return the most memory this process has ever occupied."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
