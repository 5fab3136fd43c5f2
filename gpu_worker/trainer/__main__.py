"""`python -m gpu_worker.trainer JOB_DIR`: train one job folder, report on standard output, answer with an exit code.

0 finished, 1 failed, 75 stopped on request with everything saved, 76 left alone by those who train with it.
"""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from gpu_worker.computing import WAITING
from gpu_worker.trainer.errors import EXIT_FAILED, EXIT_LOST, TrainingError
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.limits import die_with_parent, keep_freed_memory, refuse_network

# Read by libraries at import: nothing is ever fetched, nothing is told to anyone, no progress bars.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def main(arguments: list[str]) -> int:
    """Run the job whose folder is the only argument; every failure becomes one `failed` event."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m gpu_worker.trainer JOB_DIR\n")
        return 2
    started = time.monotonic()
    os.environ.update({**WAITING, **os.environ, **ENVIRONMENT})
    keep_freed_memory()
    refuse_network()
    # Of several processes that train together, the first one speaks.
    events = Events.on_stdout() if os.environ.get("RANK", "0") == "0" else Events.of_failure()
    try:
        return _train(Path(arguments[0]), events, started)
    except TrainingError as error:
        traceback.print_exc()
        events.emit("failed", code=error.code, message=error.message)
    except Exception as error:  # noqa: BLE001 -- the border of the process: the supervisor must hear of anything
        traceback.print_exc()
        from gpu_worker.trainer.ranks import has_lost_others

        if has_lost_others(error):
            return EXIT_LOST
        events.emit("failed", **_unexpected(error))
    return EXIT_FAILED


def _train(job_dir: Path, events: Events, started: float) -> int:
    # Late, after the signal handlers stand: importing torch takes seconds, and a stop may come meanwhile.
    from gpu_worker.trainer.stop import StopFlag

    stop = StopFlag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.request())
    die_with_parent()
    events.phase("loading")
    from gpu_worker.trainer.job import Job
    from gpu_worker.trainer.ranks import find_ranks
    from gpu_worker.trainer.spec import JobFolder

    return Job(JobFolder(job_dir), events, stop, find_ranks(), started).run()


def _unexpected(error: Exception) -> dict[str, str]:
    from gpu_worker.trainer.learner import is_out_of_memory

    if is_out_of_memory(error):
        message = "Memory ran out. Choose a smaller base model, shorter rows or smaller micro-batches."
        return {"code": "out_of_memory", "message": message}
    # Only the kind: an error's text may quote a row.
    message = f"The trainer failed unexpectedly ({type(error).__name__}). The node's log has the details; try again."
    return {"code": "internal", "message": message}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
