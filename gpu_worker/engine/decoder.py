"""The llama-shaped decoder: plain torch operations over a flat batch of tokens and a blocked key/value cache."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gpu_worker.compiled import CACHE_VARIABLE, NativeUnavailable
from gpu_worker.engine.adapter_folder import AdapterFolder, LoadedAdapter, read_lora_weights
from gpu_worker.engine.attention import CachedAttention, capped
from gpu_worker.engine.block_pool import BLOCK_SIZE
from gpu_worker.engine.config import EngineConfig, Precision
from gpu_worker.engine.errors import UnsupportedModel
from gpu_worker.engine.kernels import Kernels, NativeKernels
from gpu_worker.engine.linear import Linear
from gpu_worker.engine.lora_bank import DOWN, GATE_UP, OUTPUT, QKV, FusedProjection, LoraBank, LoraPlan
from gpu_worker.engine.memory import untouched_zeros
from gpu_worker.engine.model_shape import ModelShape, read_model_shape
from gpu_worker.engine.runner import StepRow
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.engine.step_layout import StepLayout, lay_out
from gpu_worker.engine.weights import DecoderWeights, Placing, load_weights
from gpu_worker.rotary import Rope, rotary_frequencies

logger = logging.getLogger(__name__)


def block_bytes(shape: ModelShape, dtype: torch.dtype) -> int:
    """Return the memory of one cache block: keys and values of BLOCK_SIZE tokens in all layers."""
    return shape.layers * BLOCK_SIZE * 2 * shape.kv_width * dtype.itemsize


@dataclass(frozen=True)
class _Step:
    """What every layer of one step needs besides its own weights.

    Shape: rotations (N, 1, head_dim / 2), complex, for each way in which positions turn.
    """

    layout: StepLayout
    rotations: Mapping[Rope, Tensor]
    lora: LoraPlan


def _placing(precision: Precision, device: torch.device) -> Placing:
    if precision == "int8" and device.type != "cpu":
        raise UnsupportedModel("8-bit weights are for processors only")
    return Placing(device, torch.bfloat16 if precision == "bf16" else torch.float32, precision == "int8")


def _kernels(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> Kernels:
    # without a place to keep them they would be compiled at every start
    if device.type == "cpu" and dtype == torch.float32 and os.environ.get(CACHE_VARIABLE):
        try:
            return NativeKernels(shape)
        except NativeUnavailable as reason:
            logger.info("steps are made of plain operations: %s", reason)
    return Kernels(shape)


class DecoderRunner:
    """Runs steps of a llama-shaped base model with any mix of its loaded adapters."""

    reuses_prefixes = True
    accepts_drafts = True

    def __init__(
        self,
        shape: ModelShape,
        weights: DecoderWeights,
        *,
        blocks: int,
        lora_rank_budget: int,
        kernels: Kernels,
    ) -> None:
        """`blocks`: size of the key/value cache, the padding block included."""
        self.shape = shape
        self.max_positions = shape.max_positions
        self.vocabulary = shape.vocabulary
        self._weights = weights
        self._device, self._dtype = weights.final_norm.device, weights.final_norm.dtype
        # a row is one token: its keys, then its values, exactly as the fused projection puts them side by side
        cache_size = (blocks * BLOCK_SIZE, 2 * shape.kv_width)
        self._cache = [untouched_zeros(cache_size, self._device, self._dtype) for _ in range(shape.layers)]
        self._frequencies = {
            rope: rotary_frequencies(rope, shape.head_dim).to(self._device) for rope in dict.fromkeys(shape.ropes)
        }
        scale = shape.hidden**0.5 if shape.family.scaled_embedding else 1.0
        self._embedding_scale = torch.tensor(scale, dtype=self._dtype, device=self._device)
        self._kernels = kernels
        self._attention = CachedAttention(shape, kernels, self._cache)
        self._lora = LoraBank(
            shape,
            rank_budget=lora_rank_budget,
            device=self._device,
            dtype=self._dtype,
            kernels=self._kernels if isinstance(self._kernels, NativeKernels) else None,
        )

    @classmethod
    def load(
        cls,
        model_dir: Path,
        config: EngineConfig,
        *,
        device: torch.device | None = None,
    ) -> "DecoderRunner":
        """Load a base model folder. Raises: UnsupportedModel if it is not llama-shaped, or not to be had so here."""
        shape = read_model_shape(model_dir)
        placing = _placing(config.weights, device or torch.device("cpu"))
        dtype, kernels = placing.dtype, _kernels(shape, placing.device, placing.dtype)
        weights = load_weights(model_dir, shape, replace(placing, quantise=kernels.quantise))
        blocks = 1 + max(1, config.kv_cache_bytes // block_bytes(shape, dtype))
        return cls(shape, weights, blocks=blocks, lora_rank_budget=config.lora_rank_budget, kernels=kernels)

    @property
    def blocks(self) -> int:
        """Blocks of the cache, the padding block included."""
        return self._cache[0].shape[0] // BLOCK_SIZE

    def read_adapter(self, folder: AdapterFolder) -> LoadedAdapter:
        """Read an adapter's weights and check them against the base model. Raises: BadAdapter."""
        return LoadedAdapter(folder, read_lora_weights(folder, self.shape))

    def add_adapter(self, adapter: AdapterRef, loaded: LoadedAdapter) -> None:
        """Copy an adapter's weights into the bank. Raises: BadAdapter if there is no room."""
        self._lora.add(adapter.uid, loaded.folder.config.rank, loaded.weights)

    def remove_adapter(self, adapter: AdapterRef) -> None:
        """Free an adapter's place in the bank."""
        self._lora.remove(adapter.uid)

    def release(self, sequence_id: str) -> None:
        """Nothing is kept per sequence: the cache blocks belong to the scheduler."""

    def copy_block(self, source: int, target: int) -> None:
        """Copy the content of a cache block."""
        for cache in self._cache:
            blocks = cache.view(-1, BLOCK_SIZE, cache.shape[1])
            blocks[target] = blocks[source]

    def scrub(self, blocks: Sequence[int]) -> None:
        """Zero cache blocks that may hold infinities, which masking alone would not keep from a later owner."""
        for cache in self._cache:
            cache.view(-1, BLOCK_SIZE, cache.shape[1])[list(blocks)] = 0

    @torch.inference_mode()
    def forward(self, rows: Sequence[StepRow]) -> Tensor:
        """Compute the rows together; see `Runner.forward`."""
        groups = self.shape.heads // self.shape.kv_heads
        direct = self._kernels.is_native
        layout = lay_out(
            rows,
            query_groups=groups,
            device=self._device,
            dtype=self._dtype,
            direct=direct,
            window=self.shape.window,
        )
        step = _Step(
            layout=layout,
            rotations={rope: _turned(layout.positions, each) for rope, each in self._frequencies.items()},
            lora=self._lora.plan(layout.adapter_uids),
        )
        x = self._weights.embedding[layout.token_ids].to(self._dtype)
        if self.shape.family.scaled_embedding:
            x = x * self._embedding_scale
        for layer in range(self.shape.layers):
            x = self._attend(step, layer, x)
            x = self._feed_forward(step, layer, x)
        x = self._kernels.rms_norm(x[layout.logit_index], self._weights.final_norm)
        logits = self._weights.head(x).float()
        return capped(logits, self.shape.logit_cap).cpu()

    def _attend(self, step: _Step, layer: int, x: Tensor) -> Tensor:
        """Add the attention block to the residual stream. Shapes: x (N, hidden)."""
        weights = self._weights.layers[layer]
        h = self._kernels.rms_norm(x, weights.attention_norm)
        qkv = weights.qkv(h)
        self._lora.apply(step.lora, layer, QKV, h, qkv)
        if weights.head_norms is not None:
            self._norm_heads(qkv, weights.head_norms)
        if self.shape.query_scale != 1.0:
            qkv[:, : self.shape.query_width] *= self.shape.query_scale
        rotation = step.rotations[self.shape.ropes[layer]]
        self._kernels.rotate_and_store(qkv, rotation, step.layout.slots, self._cache[layer])
        attended = self._attention.of(step.layout, layer, qkv)
        return self._added(step, layer, x, attended, weights.output, OUTPUT, weights.attention_out_norm)

    def _added(
        self,
        step: _Step,
        layer: int,
        x: Tensor,
        inner: Tensor,
        linear: Linear,
        projection: FusedProjection,
        norm: Tensor | None,
    ) -> Tensor:
        """Return the residual stream with a block's result, normed in families that do so. Shapes: x (N, hidden)."""
        out = linear.add_to(x, inner) if norm is None else linear(inner)
        self._lora.apply(step.lora, layer, projection, inner, out)
        return out if norm is None else self._kernels.rms_norm(out, norm).add_(x)

    def _norm_heads(self, qkv: Tensor, weight: Tensor) -> None:
        """Norm queries and keys in place, head by head (Qwen3: arXiv:2505.09388).

        Shapes: qkv (N, qkv_width); weight (heads + kv_heads, head_dim).
        """
        heads = qkv[:, : weight.numel()].view(len(qkv), *weight.shape)
        squares = heads.float().square().mean(dim=-1, keepdim=True)
        normed = heads.float() * (squares + self.shape.rms_eps).rsqrt()
        heads.copy_(normed.to(heads.dtype).mul_(weight))

    def _feed_forward(self, step: _Step, layer: int, x: Tensor) -> Tensor:
        """Add the gated feed-forward block to the residual stream. Shapes: x (N, hidden)."""
        weights = self._weights.layers[layer]
        h = self._kernels.rms_norm(x, weights.mlp_norm)
        gate_up = weights.gate_up(h)
        self._lora.apply(step.lora, layer, GATE_UP, h, gate_up)
        inner = self._kernels.gated(gate_up)
        return self._added(step, layer, x, inner, weights.down, DOWN, weights.mlp_out_norm)


def _turned(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Return by what each position is rotated. Shapes: positions (N,); result (N, 1, head_dim / 2), complex."""
    angles = positions[:, None].float() * frequencies[None, :]
    return torch.polar(torch.ones_like(angles), angles)[:, None, :]
