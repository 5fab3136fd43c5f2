"""Base model weights from safetensors, fused and laid out for the decoder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gpu_worker.engine.errors import UnsupportedModel
from gpu_worker.engine.linear import Linear, Quantise, make_linear, quantised
from gpu_worker.engine.model_shape import ModelShape
from gpu_worker.families import norms_of


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Outputs of `qkv` are queries, keys, values side by side; of `gate_up` gates, then ups.

    Where the family has them: `head_norms` (heads + kv_heads, head_dim), weights of norms of queries and keys, and
    those of what attention and feed-forward give.
    """

    attention_norm: Tensor
    qkv: Linear
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    head_norms: Tensor | None = None
    attention_out_norm: Tensor | None = None
    mlp_out_norm: Tensor | None = None


@dataclass(frozen=True)
class DecoderWeights:
    """A whole decoder. Shapes: embedding (vocabulary, hidden), in whatever type its file has."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor
    head: Linear


class TensorFolder:
    """Named tensors of a base model folder: one safetensors file, or shards with an index."""

    def __init__(self, model_dir: Path) -> None:
        self._dir = model_dir
        index = model_dir / "model.safetensors.index.json"
        self._files: dict[str, str] | None = None
        if index.exists():
            self._files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]

    def mapped(self, name: str) -> Tensor:
        """Return one tensor whose mapping stays: of its memory only what is read becomes resident."""
        with safe_open(self._dir / self._file_of(name), framework="pt") as file:
            found: Tensor = file.get_tensor(name)
        return found

    @contextmanager
    def tensors(self, *names: str) -> Iterator[tuple[Tensor, ...]]:
        """Lend memory-mapped tensors. Copy what is to be kept: the mapping must not outlive the block.

        A mapping that stayed open would keep a second copy of the model in resident memory.
        """
        found = {}
        for file_name in {self._file_of(name) for name in names}:
            with safe_open(self._dir / file_name, framework="pt") as file:
                present = set(file.keys())
                for name in names:
                    if self._file_of(name) == file_name:
                        if name not in present:
                            raise UnsupportedModel(f"the weights have no tensor {name}")
                        found[name] = file.get_tensor(name)
        yield tuple(found[name] for name in names)

    def _file_of(self, name: str) -> str:
        if self._files is None:
            return "model.safetensors"
        if name not in self._files:
            raise UnsupportedModel(f"the weights have no tensor {name}")
        return self._files[name]


def interleave_pairs(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder the output rows of a query or key projection so that each rotated pair is adjacent.

    The published layout rotates feature i with feature i + head_dim/2; adjacent pairs can be rotated as complex
    numbers, in one operation. Scores do not change, since queries and keys are reordered alike.
    Shapes: rows (heads * head_dim, ...), result the same.
    """
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return halves.transpose(1, 2).flatten(0, 2)


@dataclass(frozen=True)
class Placing:
    """Where the weights go, and in which arithmetic they are used."""

    device: torch.device
    dtype: torch.dtype
    eight_bit: bool = False
    quantise: Quantise = quantised
    """With `eight_bit`: what brings activations to 8 bits."""

    def vector(self, tensor: Tensor) -> Tensor:
        """Return a copy of a bias."""
        return tensor.to(self.device, self.dtype, copy=True)

    def norm(self, tensor: Tensor, offset: float) -> Tensor:
        """Return the weights of a norm, to which the family adds `offset`."""
        return self.vector(tensor.float() + offset)

    def linear(self, matrix: Tensor, bias: Tensor | None = None) -> Linear:
        """Return a matrix ready for multiplication; the given one may be memory-mapped."""
        return make_linear(
            matrix.to(self.device, self.dtype, copy=True), bias, eight_bit=self.eight_bit, quantise=self.quantise
        )


def load_weights(model_dir: Path, shape: ModelShape, placing: Placing) -> DecoderWeights:
    """Read, check and fuse the weights of a base model folder. Raises: UnsupportedModel with the reason."""
    folder = TensorFolder(model_dir)
    head_name = "model.embed_tokens.weight" if shape.tied_head else "lm_head.weight"
    with folder.tensors("model.norm.weight", head_name) as (norm, matrix):
        _check("the head", matrix, (shape.vocabulary, shape.hidden))
        final_norm, head = placing.norm(norm, shape.family.norm_offset), placing.linear(matrix)
    embedding = folder.mapped("model.embed_tokens.weight")
    _check("the embedding", embedding, (shape.vocabulary, shape.hidden))
    if placing.device.type != "cpu":
        embedding = embedding.to(placing.device, placing.dtype)
    layers = tuple(_load_layer(folder, index, shape, placing) for index in range(shape.layers))
    return DecoderWeights(embedding, layers, final_norm, head)


def _load_layer(folder: TensorFolder, index: int, shape: ModelShape, placing: Placing) -> LayerWeights:
    prefix = f"model.layers.{index}."
    names = [
        *(f"self_attn.{part}_proj" for part in "qkvo"),
        *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    ]

    def keep(name: str, matrix: Tensor, width_out: int, width_in: int, bias: Tensor | None = None) -> Linear:
        _check(f"{prefix}{name}", matrix, (width_out, width_in))
        return placing.linear(matrix, bias)

    bias = _load_qkv_bias(folder, prefix, shape, placing) if shape.qkv_bias else None
    with folder.tensors(*(f"{prefix}{name}.weight" for name in names)) as (q, k, v, o, gate, up, down):
        qkv = torch.cat([interleave_pairs(q, shape.head_dim), interleave_pairs(k, shape.head_dim), v])
        return LayerWeights(
            **_load_norms(folder, prefix, shape, placing),
            qkv=keep("qkv", qkv, shape.qkv_width, shape.hidden, bias),
            output=keep("output", o, shape.hidden, shape.query_width),
            gate_up=keep("gate_up", torch.cat([gate, up]), 2 * shape.intermediate, shape.hidden),
            down=keep("down", down, shape.hidden, shape.intermediate),
        )


def _load_norms(folder: TensorFolder, prefix: str, shape: ModelShape, placing: Placing) -> dict[str, Tensor]:
    """Return a layer's norms under the names of `LayerWeights`."""
    names = norms_of(shape.family)
    with folder.tensors(*(f"{prefix}{name}.weight" for name in names.values())) as tensors:
        found = dict(zip(names, tensors, strict=True))
        for name, norm in found.items():
            _check(f"{prefix}{name}", norm, (shape.head_dim if name in ("query_norm", "key_norm") else shape.hidden,))
        if shape.family.head_norms:
            query, key = (interleave_pairs(found.pop(name), shape.head_dim) for name in ("query_norm", "key_norm"))
            found["head_norms"] = torch.cat([query.expand(shape.heads, -1), key.expand(shape.kv_heads, -1)])
        return {name: placing.norm(norm, shape.family.norm_offset) for name, norm in found.items()}


def _load_qkv_bias(folder: TensorFolder, prefix: str, shape: ModelShape, placing: Placing) -> Tensor:
    with folder.tensors(*(f"{prefix}self_attn.{part}_proj.bias" for part in "qkv")) as (q, k, v):
        rows = [interleave_pairs(q, shape.head_dim), interleave_pairs(k, shape.head_dim), v]
        return placing.vector(torch.cat(rows))


def _check(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    found = tuple(tensor.shape)
    if found != expected:
        raise UnsupportedModel(f"{name} has the shape {found} where {expected} is expected")
