"""The trainer where memory really runs out: what it measured as free is taken away before the first step.

`room` in the job folder's behaviour.json: so many bytes are left for the steps, by the kernel's limit. Without it this
is the trainer as ever.
"""

import json
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, os.getcwd())

from datasets_app.learned_rows import EncodedRow
from gpu_worker.trainer import general
from gpu_worker.trainer.__main__ import main

make_room = general.GeneralLearner.make_room


def room() -> int | None:
    behaviour = Path(sys.argv[1]) / "behaviour.json"
    return json.loads(behaviour.read_text()).get("room") if behaviour.exists() else None


def make_room_and_lose_it(self: general.GeneralLearner, longest: EncodedRow) -> str:
    said, left = make_room(self, longest), room()
    if left is not None:
        lines = Path("/proc/self/status").read_text().splitlines()
        (data,) = [line for line in lines if line.startswith("VmData:")]
        most = int(data.split()[1]) * 1024 + left
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    return said


general.GeneralLearner.make_room = make_room_and_lose_it  # type: ignore[method-assign]
sys.exit(main(sys.argv[1:]))
