"""A PEFT adapter and a base model as llama.cpp reads them. For comparisons only: deployments export merged models."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from gpu_worker.exporter.gguf_file import gguf_name, permute, write_gguf
from gpu_worker.exporter.merge import Merged, merged
from gpu_worker.exporter.tensor_files import places

PREFIX = "base_model.model."


def write_base(model_dir: Path, file: Path, *, adapter: Path | None = None) -> None:
    """Write a base model as Q8_0, with an adapter merged into it if one is given. Raises: ExportError."""
    model = merged(model_dir, adapter) if adapter else Merged(model_dir, places(model_dir), {})
    write_gguf(model, file, weights="q8_0", name=model_dir.name, done=lambda _share: None)


def write_adapter(adapter: Path, model_dir: Path, file: Path) -> None:
    """Write the matrices of a PEFT folder, in float32 and in llama.cpp's order of rows. Raises: ExportError."""
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    alpha = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["lora_alpha"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        # base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight
        place, side = name.removeprefix(PREFIX).removesuffix(".weight").rsplit(".lora_", 1)
        module = place.rpartition(".")[2]
        values = tensor.astype(np.float32)
        if side == "B" and module in heads:
            values = permute(values, heads[module])
        writer.add_tensor(f"{gguf_name(place + '.weight')}.lora_{side.lower()}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
