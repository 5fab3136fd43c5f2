"""Encoded rows kept for the next run over the same rows: rendering ten thousand takes longer than loading the model.

A file is named by a hash of everything that decides its content: rows, tokenizer, chat template, what was chosen
about lengths, and the code that renders. So it is never wrong, only found or not. The supervisor brings the files of
earlier runs of the same dataset version into the job folder, and keeps new ones with that version.
"""

import hashlib
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from datasets_app import learned_rows, rendering
from datasets_app.learned_rows import EncodedRow
from gpu_worker.trainer import problems, rows
from gpu_worker.trainer.rows import EncodedRows
from gpu_worker.trainer.spec import TrainSpec
from gpu_worker.trainer.storage import disk_full_is_an_error_of_ours, sha256_of

# What of a person's choices decides the tokens.
_CHOICES = ("problem_type", "max_length", "truncation", "long_answers", "learned_turns", "train_on_prompt")
_BASE_MODEL_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def key(path: Path, spec: TrainSpec, at_most: int | None) -> str:
    """Return the name under which the encoded rows of a file are kept. Raises: OSError."""
    modules = [Path(rendering.__file__), Path(learned_rows.__file__), Path(rows.__file__)]
    code = [*modules, *sorted(Path(problems.__file__).parent.glob("*.py"))]
    model = [spec.base_model.path / name for name in _BASE_MODEL_FILES]
    content = {
        "rows": sha256_of(path),
        "at_most": at_most,
        "base_model": [spec.base_model.slug, spec.base_model.revision],
        "files": [sha256_of(file) for file in (*model, *code) if file.exists()],
        "choices": spec.hyperparameters.model_dump(mode="json", include=set(_CHOICES)),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def cached(folder: Path, name: str, encode: Callable[[], EncodedRows]) -> EncodedRows:
    """Return the rows kept in `folder` under `name`, or encode and keep them. Raises: what `encode` raises."""
    path = folder / f"{name}.safetensors"
    found = _read(path)
    if found is None:
        found = encode()
        _write(path, found)
    return found


def _read(path: Path) -> EncodedRows | None:
    """Return what a file holds, None if it is missing or damaged."""
    try:
        with safe_open(str(path), "pt") as file:
            tokens = file.get_tensor("token_ids").tolist()
            lengths, prompts = file.get_tensor("lengths").tolist(), file.get_tensor("prompt_lengths").tolist()
            given, stretches = file.get_tensor("given").tolist(), file.get_tensor("given_counts").tolist()
            rejected, worse = file.get_tensor("rejected_ids").tolist(), file.get_tensor("rejected_lengths").tolist()
            counts = file.metadata() or {}
            truncated, skipped = int(counts["truncated"]), int(counts["skipped"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    sums = ((lengths, tokens), (worse, rejected), (stretches, given))
    if any(sum(counts) != len(values) or len(counts) != len(prompts) for counts, values in sums):
        return None
    tokens_left, rejected_left, given_left = iter(tokens), iter(rejected), iter(given)
    encoded = [
        EncodedRow(
            tuple(islice(tokens_left, length)),
            prompt,
            tuple(islice(rejected_left, other)),
            tuple((start, end) for start, end in islice(given_left, count)),
        )
        for length, prompt, other, count in zip(lengths, prompts, worse, stretches, strict=True)
    ]
    return EncodedRows(tuple(encoded), truncated, skipped)


def _write(path: Path, encoded: EncodedRows) -> None:
    """Write aside and rename, so that nobody ever reads half a file."""
    tensors = {
        "token_ids": torch.tensor([token for row in encoded.rows for token in row.token_ids], dtype=torch.int32),
        "lengths": torch.tensor([len(row.token_ids) for row in encoded.rows], dtype=torch.int32),
        "rejected_ids": torch.tensor([token for row in encoded.rows for token in row.rejected_ids], dtype=torch.int32),
        "rejected_lengths": torch.tensor([len(row.rejected_ids) for row in encoded.rows], dtype=torch.int32),
        "given": torch.tensor([pair for row in encoded.rows for pair in row.given], dtype=torch.int32).view(-1, 2),
        "given_counts": torch.tensor([len(row.given) for row in encoded.rows], dtype=torch.int32),
        "prompt_lengths": torch.tensor([row.prompt_length for row in encoded.rows], dtype=torch.int32),
    }
    aside = path.with_name(f".{path.name}.new")
    with disk_full_is_an_error_of_ours():
        path.parent.mkdir(exist_ok=True)
        save_file(tensors, str(aside), {"truncated": str(encoded.truncated), "skipped": str(encoded.skipped)})
        aside.replace(path)
