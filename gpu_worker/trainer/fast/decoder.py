"""A llama-shaped decoder on packed tokens: loss forward, adapter gradients backward, layer by layer.

Shapes: T packed tokens, L label tokens, d hidden size, H query heads, K key/value heads, m head size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.rotary import Rope, rotary_frequencies
from gpu_worker.trainer.fast.attention import SavedAttention, attend, attend_backward
from gpu_worker.trainer.fast.head import VocabularyHead
from gpu_worker.trainer.fast.kernels import FusedAttention, Kernels
from gpu_worker.trainer.fast.packing import PackedBatch
from gpu_worker.trainer.fast.products import Activations
from gpu_worker.trainer.fast.projection import AdaptedProjection
from gpu_worker.trainer.fast.support import DecoderShape
from gpu_worker.trainer.fast.weights import FrozenProjection, LayerWeights


@dataclass(frozen=True)
class Layer:
    """One decoder layer: its rotation, two norms' weights (d,), four stacks of projections.

    In some families norms of heads (m,), and of what attention and feed-forward give before it is added (d,).
    """

    rope: Rope
    attention_norm: Tensor
    mlp_norm: Tensor
    qkv: AdaptedProjection
    output: AdaptedProjection
    gate_up: AdaptedProjection
    down: AdaptedProjection
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None
    attention_out_norm: Tensor | None = None
    mlp_out_norm: Tensor | None = None

    @classmethod
    def of(
        cls, frozen: LayerWeights, rope: Rope, projection: Callable[[str, FrozenProjection], AdaptedProjection]
    ) -> "Layer":
        """Return the layer of these weights; `projection` makes one out of a stack's name and its weights."""
        return cls(
            rope=rope,
            attention_norm=frozen.attention_norm,
            mlp_norm=frozen.mlp_norm,
            qkv=projection("qkv", frozen.qkv),
            output=projection("output", frozen.output),
            gate_up=projection("gate_up", frozen.gate_up),
            down=projection("down", frozen.down),
            query_norm=frozen.query_norm,
            key_norm=frozen.key_norm,
            attention_out_norm=frozen.attention_out_norm,
            mlp_out_norm=frozen.mlp_out_norm,
        )


@dataclass(frozen=True)
class SavedNorm:
    """What the backward pass of a norm needs; of heads (T·heads, m), (T·heads, 1), (T·heads, m), (m,)."""

    rows: Tensor
    inverse: Tensor
    normed: Tensor
    weight: Tensor


@dataclass(frozen=True)
class SavedFusedAttention:
    """What the backward pass needs of attention in one pass: see `FusedAttention`."""

    stacked: Tensor
    weights: Tensor


@dataclass(frozen=True)
class SavedLayer:
    """What a layer's backward pass needs; `low_…` are low-rank activations of its stacks.

    In the last layer everything from `mixed` on has L rows instead of T. The gated activations are not kept: they
    are the widest tensor of all and cost one cheap product to make again.
    """

    hidden: Tensor
    inverse: Tensor
    normed: Tensor
    low_qkv: Tensor | None
    head_norms: list[SavedNorm]
    attention: list[SavedAttention] | SavedFusedAttention
    mixed: Tensor
    low_output: Tensor | None
    attention_out: SavedNorm | None
    middle: Tensor
    middle_inverse: Tensor
    middle_normed: Tensor
    gate_up: Tensor
    low_gate_up: Tensor | None
    low_down: Tensor | None
    mlp_out: SavedNorm | None


@dataclass(frozen=True)
class Angles:
    """Cosines and sines of the packed tokens' rotations, (T, 1, m / 2) each."""

    cosine: Tensor
    sine: Tensor


@dataclass(frozen=True)
class Places:
    """What all layers know of the packed tokens: how they turn, and how their rows attend, if that goes in one pass."""

    angles: Mapping[Rope, Angles]
    fused: FusedAttention | None


class FastDecoder:
    """The decoder with its adapters; `loss` measures, `accumulate` learns."""

    def __init__(
        self,
        *,
        shape: DecoderShape,
        embedding: Tensor,
        layers: list[Layer],
        final_norm: Tensor,
        head: Tensor,
        kernels: Kernels,
    ) -> None:
        self._shape = shape
        self._kernels = kernels
        self._embedding = embedding
        self._layers = layers
        self._final_norm = final_norm
        self._head = VocabularyHead(head, kernels)
        self._frequencies = {rope: rotary_frequencies(rope, shape.head_size) for rope in set(shape.ropes)}
        self._embedding_scale = shape.hidden**0.5 if shape.family.scaled_embedding else 1.0

    def loss(self, batch: PackedBatch) -> float:
        """Return the summed loss of the batch's label tokens."""
        with torch.inference_mode():
            hidden, places = self._embed(batch), self._places(batch)
            for layer in self._layers:
                hidden, _saved = self._layer_forward(layer, hidden, batch, places)
            normed, _inverse = self._kernels.rms_norm(hidden, self._final_norm, self._shape.norm_epsilon)
            return self._head.loss(normed.exact, batch.labels)

    def accumulate(self, batch: PackedBatch, scale: float) -> float:
        """Add the gradient of scale · loss to the adapters' gradients and return the summed loss."""
        with torch.inference_mode():
            hidden, places = self._embed(batch), self._places(batch)
            saved: list[SavedLayer] = []
            for layer in self._layers:
                hidden, kept = self._layer_forward(layer, hidden, batch, places)
                saved.append(kept)
            loss, d_hidden = self._head_backward(hidden, batch, scale)
            for layer in reversed(self._layers):
                # popped, so that a layer's activations are freed as soon as its gradients are made
                d_hidden = self._layer_backward(layer, d_hidden, saved.pop(), batch, places)
            return loss

    def _embed(self, batch: PackedBatch) -> Tensor:
        embedded = self._embedding.index_select(0, batch.token_ids)
        return embedded if self._embedding_scale == 1.0 else embedded.mul_(self._embedding_scale)

    def _places(self, batch: PackedBatch) -> Places:
        turns = {rope: batch.positions[:, None, None] * each for rope, each in self._frequencies.items()}
        shape = self._shape
        fused = self._kernels.attention(
            batch.spans, heads=shape.heads, key_value_heads=shape.key_value_heads, head_size=shape.head_size
        )
        return Places({rope: Angles(angles.cos(), angles.sin()) for rope, angles in turns.items()}, fused)

    def _head_backward(self, hidden: Tensor, batch: PackedBatch, scale: float) -> tuple[float, Activations]:
        """Return the summed loss and d_hidden (L, d) of scale · loss."""
        normed, inverse = self._kernels.rms_norm(hidden, self._final_norm, self._shape.norm_epsilon)
        d_normed = torch.empty_like(normed.exact)
        loss = self._head.loss(normed.exact, batch.labels, d_normed)
        d_normed.mul_(scale)
        return loss, self._kernels.rms_norm_backward(d_normed, hidden, inverse, normed.exact, self._final_norm, None)

    def _layer_forward(
        self, layer: Layer, hidden: Tensor, batch: PackedBatch, places: Places
    ) -> tuple[Tensor, SavedLayer]:
        """Return the layer's output, (T, d), or (L, d) in the last layer, where only predictions are read."""
        epsilon, kernels = self._shape.norm_epsilon, self._kernels
        normed, inverse = kernels.rms_norm(hidden, layer.attention_norm, epsilon, layer.qkv.smoothing)
        qkv, low_qkv = layer.qkv.forward(normed)
        head_norms = self._norm_heads(layer, qkv)
        mixed, attention = self._attend(qkv, batch, places, layer.rope)
        residual = hidden
        if layer is self._layers[-1]:
            mixed, residual = mixed.index_select(0, batch.predicting), hidden.index_select(0, batch.predicting)
        middle, low_output, attention_out = self._added(
            layer.output, kernels.activations(mixed, layer.output.smoothing), layer.attention_out_norm, residual
        )
        middle_normed, middle_inverse = kernels.rms_norm(middle, layer.mlp_norm, epsilon, layer.gate_up.smoothing)
        gate_up, low_gate_up = layer.gate_up.forward(middle_normed)
        gated = kernels.gated(gate_up, layer.down.smoothing)
        out, low_down, mlp_out = self._added(layer.down, gated, layer.mlp_out_norm, middle)
        return out, SavedLayer(
            hidden=hidden,
            inverse=inverse,
            normed=normed.exact,
            low_qkv=low_qkv,
            head_norms=head_norms,
            attention=attention,
            mixed=mixed,
            low_output=low_output,
            attention_out=attention_out,
            middle=middle,
            middle_inverse=middle_inverse,
            middle_normed=middle_normed.exact,
            gate_up=gate_up,
            low_gate_up=low_gate_up,
            low_down=low_down,
            mlp_out=mlp_out,
        )

    def _added(
        self, projection: AdaptedProjection, x: Activations, norm: Tensor | None, residual: Tensor
    ) -> tuple[Tensor, Tensor | None, SavedNorm | None]:
        """Return residual + projection of x, normed before where the family does so, and what the way back needs."""
        if norm is None:
            return *projection.forward(x, residual), None
        y, low = projection.forward(x)
        normed, inverse = self._kernels.rms_norm(y, norm, self._shape.norm_epsilon)
        return residual + normed.exact, low, SavedNorm(y, inverse, normed.exact, norm)

    def _before_norm(self, d_normed: Activations, saved: SavedNorm | None) -> Activations:
        """Return the gradient by what was normed, the same where nothing was."""
        if saved is None:
            return d_normed
        return self._kernels.rms_norm_backward(
            d_normed.exact, saved.rows, saved.inverse, saved.normed, saved.weight, None
        )

    def _layer_backward(
        self, layer: Layer, d_out: Activations, saved: SavedLayer, batch: PackedBatch, places: Places
    ) -> Activations:
        """Add the layer's adapter gradients and return the gradient by its input, (T, d)."""
        kernels = self._kernels
        d_gated, d_low = layer.down.backward(self._before_norm(d_out, saved.mlp_out), saved.low_down)
        d_gate_up, gated = kernels.gated_backward(d_gated, saved.gate_up)
        layer.down.add_down_gradients(d_low, gated)
        d_normed, d_low = layer.gate_up.backward(d_gate_up, saved.low_gate_up)
        layer.gate_up.add_down_gradients(d_low, saved.middle_normed)
        d_middle = kernels.rms_norm_backward(
            d_normed, saved.middle, saved.middle_inverse, saved.middle_normed, layer.mlp_norm, d_out.exact
        )
        d_attended = self._before_norm(d_middle, saved.attention_out)
        d_mixed, d_low = layer.output.backward(d_attended, saved.low_output)
        layer.output.add_down_gradients(d_low, saved.mixed)
        d_residual = d_middle.exact
        if layer is self._layers[-1]:
            d_mixed, d_residual = self._to_all_tokens(d_mixed, batch), self._to_all_tokens(d_residual, batch)
        d_qkv = self._attend_backward(d_mixed, saved.attention, batch, places, layer.rope)
        self._norm_heads_backward(saved.head_norms, d_qkv)
        if layer is self._layers[0]:  # below lie only frozen embeddings
            layer.qkv.add_down_gradients(layer.qkv.add_up_gradients(d_qkv, saved.low_qkv), saved.normed)
            return Activations(d_residual)
        d_normed, d_low = layer.qkv.backward(kernels.activations(d_qkv), saved.low_qkv)
        layer.qkv.add_down_gradients(d_low, saved.normed)
        return kernels.rms_norm_backward(
            d_normed, saved.hidden, saved.inverse, saved.normed, layer.attention_norm, d_residual
        )

    def _attend(
        self, qkv: Tensor, batch: PackedBatch, places: Places, rope: Rope
    ) -> tuple[Tensor, list[SavedAttention] | SavedFusedAttention]:
        """Return attention's output (T, H·m) from stacked queries, keys and values (T, (H + 2K)·m)."""
        heads, rotating = self._heads(qkv)
        angles = places.angles[rope]
        if places.fused is not None:
            turning = heads[:, :rotating]
            self._kernels.rotate(turning, angles.cosine, angles.sine, turning)  # nobody wants the others any more
            mixed, weights = places.fused.forward(qkv)
            return mixed, SavedFusedAttention(qkv, weights)
        rotated = self._kernels.rotate(heads[:, :rotating], angles.cosine, angles.sine)
        mixed = torch.empty(len(qkv), self._shape.heads * self._shape.head_size)
        saved = []
        for block in batch.blocks:
            mixed[block.first : block.end], kept = attend(rotated, heads, block)
            saved.append(kept)
        return mixed, saved

    def _attend_backward(
        self,
        d_mixed: Tensor,
        saved: list[SavedAttention] | SavedFusedAttention,
        batch: PackedBatch,
        places: Places,
        rope: Rope,
    ) -> Tensor:
        """Return the gradient by stacked queries, keys and values, (T, (H + 2K)·m)."""
        shape, angles = self._shape, places.angles[rope]
        if isinstance(saved, SavedFusedAttention):
            assert places.fused is not None
            d_qkv = places.fused.backward(d_mixed, saved.stacked, saved.weights)
            d_heads, rotating = self._heads(d_qkv)
            turning = d_heads[:, :rotating]
            self._kernels.rotate(turning, angles.cosine, angles.sine, turning, back=True)
            return d_qkv
        d_qkv = torch.empty(len(d_mixed), (shape.heads + 2 * shape.key_value_heads) * shape.head_size)
        d_heads, rotating = self._heads(d_qkv)
        d_rotated = torch.empty(len(d_mixed), rotating, shape.head_size)
        for block, kept in zip(batch.blocks, saved, strict=True):
            attend_backward(d_mixed[block.first : block.end], kept, block, d_rotated, d_heads, self._kernels)
        self._kernels.rotate(d_rotated, angles.cosine, angles.sine, d_heads[:, :rotating], back=True)
        return d_qkv

    def _norm_heads(self, layer: Layer, qkv: Tensor) -> list[SavedNorm]:
        """Norm queries and keys in place, head by head, where the family does so (Qwen3: arXiv:2505.09388)."""
        saved = []
        for part, weight in zip(self._query_and_key_heads(qkv), (layer.query_norm, layer.key_norm), strict=True):
            if weight is not None:
                heads = part.reshape(-1, self._shape.head_size)  # a copy, since values lie between the rows
                normed, inverse = self._kernels.rms_norm(heads, weight, self._shape.norm_epsilon)
                part.copy_(normed.exact.view(part.shape))
                saved.append(SavedNorm(heads, inverse, normed.exact, weight))
        return saved

    def _norm_heads_backward(self, saved: list[SavedNorm], d_qkv: Tensor) -> None:
        """Turn the gradients by normed queries and keys, in place, into those by what was normed."""
        for part, kept in zip(self._query_and_key_heads(d_qkv), saved, strict=False):
            d_normed = part.reshape(-1, self._shape.head_size)
            d_heads = self._before_norm(Activations(d_normed), kept)
            part.copy_(d_heads.exact.view(part.shape))

    def _query_and_key_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Return views (T, H, m) and (T, K, m) of stacked queries, keys and values."""
        heads, rotating = self._heads(qkv)
        return heads[:, : self._shape.heads], heads[:, self._shape.heads : rotating]

    def _heads(self, qkv: Tensor) -> tuple[Tensor, int]:
        """Return (T, H + 2K, m) and how many of these heads, the queries' and keys', are rotated."""
        return qkv.view(len(qkv), -1, self._shape.head_size), self._shape.heads + self._shape.key_value_heads

    def _to_all_tokens(self, of_predicting: Tensor, batch: PackedBatch) -> Tensor:
        """(L, n) → (T, n), zero where nothing is predicted."""
        whole = torch.zeros(len(batch.token_ids), of_predicting.shape[1])
        return whole.index_copy_(0, batch.predicting, of_predicting)
