"""What this machine has to offer, told to the portal when the node registers. Without torch, so it costs nothing."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Machine:
    """The device on which models run, and its memory. `gpus`: 0 where the processor computes."""

    device: str
    memory_bytes: int
    gpus: int = 0


def this_machine() -> Machine:
    """Return the GPUs if there are any, else the processor."""
    return _gpus() or Machine(f"CPU · {len(os.sched_getaffinity(0))} × {_processor()}"[:120], _memory_bytes())


def has_gpu() -> bool:
    """Whether this machine has a GPU that its driver knows."""
    return _gpus() is not None


def _gpus() -> Machine | None:
    try:
        listed = subprocess.run(_QUERY, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.rsplit(",", 1) for line in listed.splitlines() if "," in line]
    if not rows:
        return None
    memory_mib = sum(int(memory) for _name, memory in rows if memory.strip().isdecimal())
    return Machine(f"{len(rows)} × {rows[0][0].strip()}"[:120], memory_mib * 2**20, len(rows))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        name, _colon, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return os.uname().machine


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
