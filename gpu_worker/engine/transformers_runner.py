"""The slow, general runner: any causal language model that transformers and PEFT know.

One row at a time, each sequence with transformers' own cache; so nothing about the architecture has to be known here,
at the price that a step reads the weights once per row. For base models that are not llama-shaped, and for those whose
fast answers differ from transformers'.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from gpu_worker.engine.adapter_folder import AdapterFolder, LoadedAdapter
from gpu_worker.engine.block_pool import BLOCK_SIZE
from gpu_worker.engine.errors import BadAdapter, UnsupportedModel
from gpu_worker.engine.runner import StepRow
from gpu_worker.engine.sequence import AdapterRef

DEFAULT_POSITIONS = 2048


class TransformersRunner:
    """Runs steps through transformers' forward, with PEFT's adapters switched between rows."""

    reuses_prefixes = False
    accepts_drafts = False

    def __init__(self, model: Any, *, device: torch.device) -> None:
        """`model`: a causal language model of transformers, in evaluation mode. Its classes are not typed."""
        self._model = model
        self._device = device
        config = model.config.get_text_config()
        self._config = config
        self.vocabulary = int(config.vocab_size)
        self.max_positions = int(getattr(config, "max_position_embeddings", None) or DEFAULT_POSITIONS)
        self._peft: Any = None
        self._caches: dict[str, DynamicCache] = {}

    @classmethod
    def load(cls, model_dir: Path, *, device: torch.device) -> "TransformersRunner":
        """Load a base model folder in float32. Raises: UnsupportedModel if transformers cannot."""
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                model_dir, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise UnsupportedModel(f"transformers cannot load it: {error}") from error
        return cls(model.to(device).eval(), device=device)

    def blocks_for(self, cache_bytes: int) -> int:
        """Return how many blocks of tokens fit into so much memory, the padding block included."""
        config = self._config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token_bytes = 2 * config.num_hidden_layers * heads * head_dim * torch.float32.itemsize
        return 1 + max(1, int(cache_bytes // (token_bytes * BLOCK_SIZE)))

    def read_adapter(self, folder: AdapterFolder) -> LoadedAdapter:
        """Return the checked folder: PEFT reads the weights itself."""
        return LoadedAdapter(folder, {})

    def add_adapter(self, adapter: AdapterRef, loaded: LoadedAdapter) -> None:
        """Let PEFT load the adapter. Raises: BadAdapter if it does not fit this base model."""
        name, path = str(adapter.uid), loaded.folder.path
        try:
            if self._peft is None:
                self._peft = PeftModel(self._model, PeftConfig.from_pretrained(str(path)), adapter_name=name)
            self._peft.load_adapter(path, adapter_name=name)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            # PEFT has changed the base model's layers by then; a half-loaded adapter must not stay in them
            if self._peft is not None and name in self._peft.peft_config:
                self.remove_adapter(adapter)
            raise BadAdapter("The adapter does not fit this base model.") from error
        self._peft.eval()

    def remove_adapter(self, adapter: AdapterRef) -> None:
        """Let PEFT drop the adapter; after the last one the base model is unwrapped again."""
        if len(self._peft.peft_config) == 1:
            self._model = self._peft.unload()
            self._peft = None
        else:
            self._peft.delete_adapter(str(adapter.uid))

    def release(self, sequence_id: str) -> None:
        """Drop the cache of an ended sequence."""
        self._caches.pop(sequence_id, None)

    def copy_block(self, source: int, target: int) -> None:
        """Nothing to do: the cache is kept by sequence, not in blocks."""

    def scrub(self, blocks: Sequence[int]) -> None:
        """Nothing to do: no two sequences ever share a cache."""

    @torch.inference_mode()
    def forward(self, rows: Sequence[StepRow]) -> Tensor:
        """Compute the rows one by one, those of one adapter together; see `Runner.forward`."""
        logits: dict[int, Tensor] = {}
        for uid in sorted({row.adapter_uid for row in rows}, key=lambda uid: uid or 0):
            with self._adapter(uid) as model:
                for index, row in enumerate(rows):
                    if row.adapter_uid == uid:
                        logits[index] = self._row(model, row)
        return torch.cat([logits[index] for index in range(len(rows))])

    def _row(self, model: Any, row: StepRow) -> Tensor:
        cache = self._caches.setdefault(row.sequence_id, DynamicCache(config=self._config))
        ids = torch.tensor([row.token_ids], device=self._device)
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        return torch.Tensor(out.logits[0, ids.shape[1] - row.logit_count :].float().cpu())

    @contextlib.contextmanager
    def _adapter(self, uid: int | None) -> Iterator[Any]:
        """Lend the model with one adapter active, or with none."""
        if self._peft is None:
            yield self._model
        elif uid is None:
            with self._peft.disable_adapter():
                yield self._peft
        else:
            self._peft.set_adapter(str(uid))
            yield self._peft
