"""`python -m gpu_worker.evaluator JOB_DIR`: answer the held-out rows, report on standard output.

Exit codes: 0 done, 1 failed (a `failed` event says why), 75 stopped on request.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

from gpu_worker.computing import REMEMBERING, WAITING
from gpu_worker.trainer.__main__ import ENVIRONMENT
from gpu_worker.trainer.errors import EXIT_FAILED, EXIT_FINISHED, EXIT_STOPPED, StopRequested, TrainingError
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.limits import die_with_parent
from gpu_worker.trainer.stop import StopFlag


def main(arguments: list[str]) -> int:
    """Evaluate the job whose folder is the only argument."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m gpu_worker.evaluator JOB_DIR\n")
        return 2
    os.environ.update({**WAITING, **REMEMBERING, **os.environ, **ENVIRONMENT})
    events = Events.on_stdout()
    stop = StopFlag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.request())
    die_with_parent()
    try:
        from gpu_worker.evaluator.job import evaluate  # late: torch takes seconds, and a stop may come meanwhile

        evaluate(Path(arguments[0]), events, stop)
    except StopRequested:
        return EXIT_STOPPED
    except TrainingError as error:
        traceback.print_exc()
        events.emit("failed", code=error.code, message=error.message)
        return EXIT_FAILED
    except Exception:  # noqa: BLE001 — the border of the process: the supervisor must hear of anything
        traceback.print_exc()
        events.emit("failed", code="internal", message="The evaluation broke off. Its log on the node says where.")
        return EXIT_FAILED
    return EXIT_FINISHED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
