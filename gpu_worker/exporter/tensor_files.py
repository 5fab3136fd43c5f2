"""Safetensors files, tensor by tensor: read as float32 whatever they hold, written in the type they had."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_worker.exporter.errors import ExportError

Array = npt.NDArray[np.float32]
LARGEST_HEADER_BYTES = 100_000_000
_SIZES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: in which file, from which byte on, of which type and shape."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """How many bytes it takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * _SIZES[self.dtype]

    def read(self) -> Array:
        """Return the values as float32."""
        count = int(np.prod(self.shape, dtype=np.int64))
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype]
        raw = np.fromfile(self.file, dtype=kind, count=count, offset=self.offset)
        is_brain = self.dtype == "BF16"  # the upper half of a float32, which numpy has no type for
        values = (raw.astype(np.uint32) << 16).view(np.float32) if is_brain else raw.astype(np.float32)
        return values.reshape(self.shape)


def places(folder: Path, pattern: str = "*.safetensors") -> dict[str, Place]:
    """Return where each tensor of a folder lies, in the order of the files. Raises: ExportError."""
    found: dict[str, Place] = {}
    for file in sorted(folder.glob(pattern)):
        found |= _places_in(file)
    if not found:
        raise ExportError("no_weights", "The folder holds no safetensors file.")
    return found


def _places_in(file: Path) -> dict[str, Place]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > LARGEST_HEADER_BYTES:
            raise ExportError("damaged_weights", f"{file.name} is no safetensors file.")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise ExportError("damaged_weights", f"{file.name} is no safetensors file.") from error
    header.pop("__metadata__", None)
    for name, one in header.items():
        if one["dtype"] not in _SIZES:
            raise ExportError(
                "compressed_base", f"The tensor {name} is kept as {one['dtype']}; only F32, F16 and BF16 can be merged."
            )
    return {
        name: Place(file, 8 + length + one["data_offsets"][0], one["dtype"], tuple(one["shape"]))
        for name, one in header.items()
    }


def write(
    path: Path, kept: Mapping[str, Place], values_of: Callable[[str], Array], *, done: Callable[[float], None]
) -> None:
    """Write tensors of these names, types and shapes; `values_of` gives each when its turn has come."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, place in kept.items():
        header[name] = {
            "dtype": place.dtype,
            "shape": list(place.shape),
            "data_offsets": [offset, offset + place.size_bytes],
        }
        offset += place.size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        written = 0
        for name, place in kept.items():
            stream.write(as_bytes(values_of(name), place.dtype))
            written += place.size_bytes
            done(written / max(offset, 1))


def as_bytes(values: Array, dtype: str) -> bytes:
    """Return float32 values in a type of safetensors; bfloat16 is rounded to the nearest, ties to even."""
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype("<u2").tobytes()
