"""Which engine a machine runs, and how each kind is started: our own, or vLLM where a GPU and its program are there.

Behind both is the same HTTP contract; the portal does not notice. vLLM's flags: https://docs.vllm.ai, `vllm serve`.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EngineKind = Literal["tuneport", "vllm"]
EngineChoice = Literal["auto", "tuneport", "vllm"]

TUNEPORT_COMMAND = (sys.executable, "-m", "gpu_worker.engine")
# Adapters of one step, and those kept in the machine's memory besides: vLLM throws out the least recently used.
_VLLM_LORAS, _VLLM_KEPT_LORAS, _VLLM_LORA_RANK = 16, 64, 64
_VLLM_SEQUENCES = 64
# The library of our own engine, so that the same schemas are served; free white space is what a model can get lost in.
_VLLM_STRUCTURE = {"backend": "guidance", "disable_any_whitespace": True}


@dataclass(frozen=True)
class EngineProgram:
    """A kind of engine and the command that starts it, without its options; `weights`: in which it computes."""

    kind: EngineKind
    command: Sequence[str]
    weights: str = "fp32"


def choose_program(choice: EngineChoice, *, has_gpu: bool, vllm_command: str, weights: str) -> EngineProgram:
    """Return the program that serves on this machine: "auto" takes vLLM where a GPU and its program are there.

    `weights`: arithmetic of our own engine, see `gpu_worker.engine.config.Precision`.
    """
    found = shutil.which(vllm_command) or shutil.which(vllm_command, path=str(Path(sys.executable).parent))
    if choice == "vllm" or (choice == "auto" and has_gpu and found):
        return EngineProgram("vllm", (found or vllm_command,), "auto")  # what each base model's files are in
    return EngineProgram("tuneport", (*TUNEPORT_COMMAND, "--weights", weights), weights)


def free_port(host: str) -> int:
    """Return a port on which nobody listens: vLLM cannot tell which one it took."""
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])


def tuneport_options(folder: Path, slug: str, host: str, ready_file: Path) -> list[str]:
    """Return the options of our own engine; it takes a free port and writes it into the ready file."""
    fixed = ["--base-model", str(folder), "--name", slug, "--host", host, "--port", "0"]
    return [*fixed, "--ready-file", str(ready_file)]


def vllm_options(folder: Path, slug: str, host: str, port: int) -> list[str]:
    """Return the options of `vllm serve`: adapters at run time, prefixes kept, cached tokens told in the usage."""
    # fmt: off
    return [
        "serve", str(folder),
        "--served-model-name", slug, "--host", host, "--port", str(port),
        "--enable-lora", "--max-loras", str(_VLLM_LORAS), "--max-cpu-loras", str(_VLLM_KEPT_LORAS),
        "--max-lora-rank", str(_VLLM_LORA_RANK), "--max-num-seqs", str(_VLLM_SEQUENCES),
        "--enable-prefix-caching", "--enable-prompt-tokens-details",
        "--generation-config", "vllm",  # else the model's own file changes what a caller did not ask to be changed
        "--structured-outputs-config", json.dumps(_VLLM_STRUCTURE),
        "--disable-uvicorn-access-log",
    ]
    # fmt: on


def vllm_environment(access_key: str) -> dict[str, str]:
    """Return what vLLM is told besides its options; the key stays out of the list of processes."""
    return {
        "VLLM_API_KEY": access_key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
