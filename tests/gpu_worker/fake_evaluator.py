"""A stand-in for the evaluator: both models answer by rule.

`behaviour.json` in the job folder may say evaluation_s (per row) and evaluation_fails.
"""

import json
import signal
import sys
import time
from pathlib import Path

job = Path(sys.argv[1])
behaviour = json.loads((job / "behaviour.json").read_text()) if (job / "behaviour.json").exists() else {}


def emit(event, **fields):
    sys.stdout.write(json.dumps({"event": event, "at": time.time(), **fields}) + "\n")
    sys.stdout.flush()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    with (job / "starts.log").open("a") as log:
        log.write("evaluation\n")
    assert (job / "adapter" / "adapter_model.safetensors").exists()
    if behaviour.get("evaluation_fails"):
        emit("failed", code="internal", message="The evaluator failed on purpose.")
        return 1
    emit("phase", phase="evaluating")
    rows = [json.loads(line) for line in (job / "data" / "heldout.jsonl").read_text().splitlines()]
    cached = (job / "evaluation" / "untuned-cache.jsonl").exists()
    with (job / "evaluation" / "predictions.jsonl").open("w") as out:
        for done, row in enumerate(rows, 1):
            time.sleep(behaviour.get("evaluation_s", 0.0))
            expected = row["messages"][-1]["content"]
            answer = {"row": row["row"], "prompt": row["messages"][0]["content"], "expected": expected}
            answer |= {"untuned": "from the cache" if cached else "no idea", "tuned": expected}
            out.write(json.dumps({**answer, "untuned_finish": "stop", "tuned_finish": "stop"}) + "\n")
            emit("evaluation_progress", subject="tuned", done=done, total=len(rows))
    emit("evaluated", rows=len(rows), seconds=0.1)
    return 0


sys.exit(main())
