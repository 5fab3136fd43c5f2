"""A stand-in for the trainer: counts steps instead of learning, and keeps the trainer's contract in everything else.

`behaviour.json` in the job folder may say: steps, step_s, checkpoint_every, and one of die_at, fail_at, quit_at (steps)
or deaf (true: SIGTERM is ignored). Every start is noted in starts.log, with a mark if another trainer was still there.
"""

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

job = Path(sys.argv[1])
behaviour = {"steps": 20, "step_s": 0.02, "checkpoint_every": 5}
if (job / "behaviour.json").exists():
    behaviour |= json.loads((job / "behaviour.json").read_text())
stop_asked = False


def ask_to_stop(*_):
    global stop_asked
    stop_asked = True


def emit(event, **fields):
    sys.stdout.write(json.dumps({"event": event, "at": time.time(), **fields}) + "\n")
    sys.stdout.flush()


def save(step):
    (job / "checkpoints" / f"step-{step}").mkdir(parents=True, exist_ok=True)
    emit("checkpoint", step=step, path=f"checkpoints/step-{step}")


def write_adapter():
    folder = job / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}')
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\1\2\3\4")


def other_trainer_alive():
    note = job / "trainer.alive"
    try:
        alive = Path(f"/proc/{note.read_text()}/cmdline").read_bytes() != b""
    except OSError:
        alive = False
    note.write_text(str(os.getpid()))
    return alive


def main():
    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour.get("deaf") else ask_to_stop)
    spec = json.loads((job / "spec.json").read_text())
    assert (job / "data" / "train.jsonl").read_text()
    saved = [int(path.name[5:]) for path in (job / "checkpoints").glob("step-*")] if spec["resume"] else []
    step = max(saved, default=0)
    if spec.get("keep_only"):
        write_adapter()
        emit("stopped", step=step, checkpoint=f"checkpoints/step-{step}")
        return 75
    with (job / "starts.log").open("a") as log:
        log.write(f"{step}{' OVERLAP' if other_trainer_alive() else ''}\n")
    kernels = Path(os.environ["TUNEPORT_CACHE"]) / "kernels"
    (job / "kernels.txt").write_text(str(len(list(kernels.glob("*.so")))))
    emit("phase", phase="loading")
    emit("started", total_steps=behaviour["steps"], rows=12, device="cpu", resumed_from_step=step or None)
    emit("phase", phase="training")
    first_time = not saved
    while step < behaviour["steps"]:
        if stop_asked:
            save(step)
            write_adapter()
            emit("stopped", step=step, checkpoint=f"checkpoints/step-{step}")
            return 75
        time.sleep(behaviour["step_s"])
        step += 1
        emit("metric", step=step, total_steps=behaviour["steps"], loss=round(10.0 / step, 4), eta_s=1.0)
        if step % behaviour["checkpoint_every"] == 0:
            save(step)
        if step == behaviour.get("die_at") and (first_time or behaviour.get("die_always")):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == behaviour.get("quit_at"):
            return 3
        if step == behaviour.get("fail_at"):
            emit("failed", code="nan_loss", message="The loss became NaN. Lower the learning rate.")
            return 1
    write_adapter()
    emit("finished", step=step, adapter="adapter", train_loss=0.5, seconds=1.0)
    return 0


sys.exit(main())
