"""What the C libraries are told through the environment keeps the memory of long-lived children bounded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gpu_worker.computing import REMEMBERING
from gpu_worker.engine.__main__ import ENVIRONMENT

GROWTH = """
import os, torch
from gpu_worker.engine.linear import PackedLinear

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

torch.set_num_threads(1)
times = PackedLinear(torch.ones(64, 64))
times(torch.ones(301, 64))
before = resident_mb()
for rows in range(1, 301):
    times(torch.ones(rows, 64))
print(resident_mb() - before)
"""


def growth_mb(environment: dict[str, str]) -> float:
    """Return by how much a process grows that multiplies by one matrix in 300 sizes."""
    others = {name: value for name, value in os.environ.items() if name not in REMEMBERING}
    command = [sys.executable, "-c", GROWTH]
    done = subprocess.run(command, env={**others, **environment}, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
def test_an_engine_remembers_few_of_the_many_sizes_of_its_steps():
    assert growth_mb(ENVIRONMENT) < 100 < growth_mb({})
