"""What a run says of itself is what somebody else would measure: memory, tokens and speed."""

import re
import threading
import time
from pathlib import Path

import pytest

from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import only, parse, run_here, start_process, ticket_rows, write_job

pytestmark = pytest.mark.slow


def test_peak_memory_is_what_the_kernel_saw_from_outside(tmp_path, base_model):
    job = write_job(tmp_path, base_model, train=ticket_rows(48), epochs=6, batch_size=16, checkpoint_every_steps=500)
    process = start_process(job)
    seen: list[int] = []

    def watch() -> None:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            try:
                found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            except OSError:
                return
            seen.extend(int(kilobytes) * 1024 for kilobytes in (found.groups() if found else ()))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate(timeout=120)
    watcher.join()
    assert process.returncode == 0, err
    finished = only(parse(out), "finished")
    assert finished["peak_memory_bytes"] == pytest.approx(max(seen), rel=0.05)


def test_tokens_and_speed_are_those_of_an_own_count(tmp_path, base_model, renderer):
    """The clock is the one in which the events arrive; it counts their writing, too."""
    job = write_job(
        tmp_path, base_model, train=ticket_rows(64), epochs=8, batch_size=16, evaluations_per_epoch=0, path="general"
    )
    _code, events = run_here(job)
    rows = encode_file(job.train_rows, renderer, read_spec(job).hyperparameters).rows
    steps = [event for event in events if "loss" in event]
    tokens = 8 * sum(len(row.token_ids) for row in rows)
    assert only(events, "finished")["trained_tokens"] == tokens
    assert len(steps) == 32
    told_s = sum(tokens / 32 / event["tokens_per_s"] for event in steps)
    measured_s = (steps[-1]["at"] - steps[0]["at"]) * 32 / 31
    assert told_s == pytest.approx(measured_s, rel=0.25)
