"""Keys that are tried from a process of their own, so that whoever measures good requests has no part in the trying.

`python -m gpu_worker.benchmarks.proxy_flood` reads one line of JSON (host, port, bearers, per_s), tries keys until its
input ends, and writes how often each status was answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from gpu_worker.benchmarks.proxy_load import Place, flood


@asynccontextmanager
async def flood_from_elsewhere(place: Place, bearers: Sequence[str], per_s: float) -> AsyncIterator[Counter[int]]:
    """Have another process send so many requests a second; the answers are counted once it is over."""
    answered: Counter[int] = Counter()
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gpu_worker.benchmarks.proxy_flood", stdin=pipe, stdout=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    wanted = {"host": place.host, "port": place.port, "bearers": list(bearers), "per_s": per_s}
    process.stdin.write(json.dumps(wanted).encode() + b"\n")
    await process.stdout.readline()  # it has begun
    try:
        yield answered
    finally:
        process.stdin.close()
        written = await process.stdout.read()
        await process.wait()
        answered.update({int(status): count for status, count in json.loads(written).items()})


async def _try() -> Counter[int]:
    wanted = json.loads(sys.stdin.readline())
    place = Place(wanted["host"], wanted["port"], "")
    async with flood(place, wanted["bearers"], wanted["per_s"]) as answered:
        print("begun", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    return answered


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_try())))
