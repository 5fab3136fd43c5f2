"""The frozen weights of a llama-shaped decoder, read from safetensors, projections of the same input stacked."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

# Stacked projections: those in one group read the same input, so one product computes them all.
GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True)
class FrozenProjection:
    """Stacked weights: `weight` (sum of outputs, inputs), `bias` (sum of outputs) or None.

    `parts` holds (module path, first row, end row) of each projection in the stack.
    """

    weight: Tensor
    bias: Tensor | None
    parts: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer; the norms' weights have shape (hidden,), those of queries and keys (head size,).

    Norms of queries, keys, and of what attention and feed-forward give, are None in families without them.
    """

    attention_norm: Tensor
    mlp_norm: Tensor
    qkv: FrozenProjection
    output: FrozenProjection
    gate_up: FrozenProjection
    down: FrozenProjection
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None
    attention_out_norm: Tensor | None = None
    mlp_out_norm: Tensor | None = None


@dataclass(frozen=True)
class DecoderWeights:
    """All frozen weights; `embedding` and `head` (vocabulary, hidden) are one tensor in models that tie them."""

    embedding: Tensor
    layers: list[LayerWeights]
    final_norm: Tensor
    head: Tensor


def layer_tensor_names(layer: int, norms: Iterable[str]) -> set[str]:
    """Return every tensor name a llama-shaped layer with these norms may have, biases included."""
    prefix = f"model.layers.{layer}"
    modules = [module for group in GROUPS.values() for module in group]
    names = {f"{prefix}.{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    return names | {f"{prefix}.{norm}.weight" for norm in norms}


def tensor_files(model_dir: Path) -> dict[str, Path]:
    """Return {tensor name: file} of a model folder, one file or many. Raises: OSError, ValueError, KeyError."""
    index = model_dir / "model.safetensors.index.json"
    if index.exists():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # Only the last part of a path: an index must not lead out of the model's folder.
        return {name: model_dir / Path(file).name for name, file in names.items()}
    path = model_dir / "model.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: path for name in header if name != "__metadata__"}


def load_weights(
    model_dir: Path, *, layers: int, tied_head: bool, norms: Mapping[str, str], norm_offset: float
) -> DecoderWeights:
    """Read the weights as float32, copied out of the file's mapping so that it can be closed.

    `norms`: names of a layer's norms, here and in the files; `norm_offset` is added to the weights of all norms.
    Raises: OSError, KeyError, safetensors' SafetensorError.
    """
    with _TensorReader.of(model_dir) as reader:
        embedding = reader.read("model.embed_tokens.weight")
        return DecoderWeights(
            embedding=embedding,
            layers=[_read_layer(reader, f"model.layers.{layer}", norms, norm_offset) for layer in range(layers)],
            final_norm=reader.read("model.norm.weight").add_(norm_offset),
            head=embedding if tied_head else reader.read("lm_head.weight"),
        )


class _TensorReader:
    """Reads tensors by name from the open files of a model folder."""

    def __init__(self, files: dict[str, Path], handles: dict[Path, Any]) -> None:
        self._files = files
        self._handles = handles

    @classmethod
    @contextmanager
    def of(cls, model_dir: Path) -> "Iterator[_TensorReader]":
        files = tensor_files(model_dir)
        with ExitStack() as stack:
            handles = {path: stack.enter_context(safe_open(str(path), "pt")) for path in set(files.values())}
            yield cls(files, handles)

    def has(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """Return a float32 copy of a tensor."""
        tensor: Tensor = self._handles[self._files[name]].get_tensor(name)
        return tensor.to(torch.float32, copy=True)

    def shape(self, name: str) -> tuple[int, int]:
        rows, columns = self._handles[self._files[name]].get_slice(name).get_shape()
        return rows, columns


def _read_layer(reader: _TensorReader, prefix: str, norms: Mapping[str, str], norm_offset: float) -> LayerWeights:
    found: dict[str, Any] = {name: _read_stack(reader, prefix, modules) for name, modules in GROUPS.items()}
    found |= {name: reader.read(f"{prefix}.{norm}.weight").add_(norm_offset) for name, norm in norms.items()}
    return LayerWeights(**found)


def _read_stack(reader: _TensorReader, prefix: str, modules: tuple[str, ...]) -> FrozenProjection:
    paths = [f"{prefix}.{module}" for module in modules]
    shapes = [reader.shape(f"{path}.weight") for path in paths]
    weight = torch.empty(sum(rows for rows, _ in shapes), shapes[0][1])
    with_bias = any(reader.has(f"{path}.bias") for path in paths)
    bias = torch.zeros(weight.shape[0]) if with_bias else None
    parts = []
    start = 0
    for path, (rows, _columns) in zip(paths, shapes, strict=True):
        end = start + rows
        weight[start:end] = reader.read(f"{path}.weight")
        if bias is not None and reader.has(f"{path}.bias"):
            bias[start:end] = reader.read(f"{path}.bias")
        parts.append((path, start, end))
        start = end
    return FrozenProjection(weight=weight, bias=bias, parts=tuple(parts))
