"""How busy the machine's processor and GPU are with this training."""

import os
import time


class MachineLoad:
    """Figures about the time since they were last asked for, 0 to 1."""

    def __init__(self, device: str) -> None:
        """`device`: "cpu" or "cuda"."""
        self._device = device
        self._cores = len(os.sched_getaffinity(0))
        self._wall, self._busy = time.monotonic(), time.process_time()

    def since_last_asked(self) -> dict[str, float]:
        """Return `cpu_share`, of all cores we may use, and on a GPU `gpu_share` where its driver tells it."""
        wall, busy = time.monotonic(), time.process_time()
        passed = max(wall - self._wall, 1e-6) * self._cores
        shares = {"cpu_share": round(min(1.0, (busy - self._busy) / passed), 4)}
        self._wall, self._busy = wall, busy
        gpu = _gpu_share() if self._device == "cuda" else None
        return shares if gpu is None else {**shares, "gpu_share": gpu}


def _gpu_share() -> float | None:
    """Return the share of the last moments in which the GPU was at work; None without NVIDIA's own Python reader."""
    import torch

    try:
        return int(torch.cuda.utilization()) / 100
    except (ImportError, RuntimeError):
        return None
