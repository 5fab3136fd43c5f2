"""One run from claim to end: prepares its folder, runs trainer and evaluator, and says how it ended.

A detached process of its own, so neither a redeployed queue nor a portal that restarts touches a training. It may be
killed at any moment: the lease runs out, the sweep requeues the run, and the next supervisor takes up the folder.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from functools import partial
from pathlib import Path

from django.db import Error as DatabaseError
from django.utils.translation import gettext as _

from datasets_app.models import Split
from experiments import lifecycle
from experiments.leases import Lease, LeaseLost
from experiments.models import Run
from experiments.results import IncompleteAdapter, is_whole_adapter
from experiments.run_events import failure_of, step_of
from gpu_worker.child_process import Programs
from gpu_worker.database_patience import DatabaseGone, Patience
from gpu_worker.job_folder import (
    FolderBusy,
    JobError,
    asked_split,
    keep_tokens,
    offer_untuned_answers,
    prepare,
    write_spec,
)
from gpu_worker.process_note import forget_process, note_process
from gpu_worker.watch import KEEP_LIMIT_S, Ending, ShutdownSwitch, Stop, Stopped, Watch

logger = logging.getLogger(__name__)


def supervise(lease: Lease, *, switch: ShutdownSwitch, programs: Programs | None = None) -> None:
    """See a run through to its end, or to where somebody else has to go on; returns in both cases.

    Only the holder of the lease gets anywhere: a late or doubled start ends here without a trace.
    """
    try:
        run = Patience().insist(partial(lifecycle.claim_run, lease))
        if run is None:
            logger.info("run %s is not ours to start", lease.run_id)
            return
        note_process(run.pk, os.getpid())
        Supervisor(run, Watch(lease, run, switch), programs or Programs()).work()
    except LeaseLost:
        logger.warning("run %s was taken away from us; its processes are ended", lease.run_id)
    except DatabaseGone:
        logger.error("run %s: the database stays away; the run goes on when it is back", lease.run_id)
    except Exception:
        logger.exception("run %s: the supervisor failed", lease.run_id)
        message = _("The node had an internal problem with this run; it is tried again.")
        with contextlib.suppress(LeaseLost, DatabaseError):
            lifecycle.release_run(lease, message, burn_attempt=True)
        raise
    finally:
        forget_process(lease.run_id, os.getpid())


class Supervisor:
    """The stages of one run."""

    def __init__(self, run: Run, watch: Watch, programs: Programs) -> None:
        self.run = run
        self.watch = watch
        self.programs = programs
        self.lease = watch.lease
        self.folder = watch.folder
        self.is_paused = False

    def work(self) -> None:
        """Train, evaluate and end the run. Raises: LeaseLost, DatabaseGone."""
        try:
            with self.folder.locked(self.watch.keep_alive) as lock:
                self._see_through(lock)
        except JobError as error:
            self.watch.insist(partial(lifecycle.fail_run, self.lease, code=error.code, message=error.message))
        except Stopped:
            self.end_stopped(None, None)
        except FolderBusy:
            message = _("Another machine is still working on this run.")
            self.watch.insist(partial(lifecycle.release_run, self.lease, message, burn_attempt=True))
            return
        if self.watch.stop in (None, Stop.CANCEL) and not self.is_paused:
            self.folder.tidy()

    def _see_through(self, lock: int) -> None:
        self.watch.relay_rest()  # what was said between the death of an earlier supervisor and that of its child
        is_trained = self.is_trained()
        try:
            self.prepare(keep_adapter=is_trained)
        except Stopped:
            self.end_stopped(None, lock)
            return
        ending = None if is_trained else self.train(lock)
        predictions = None if self.watch.stop or self.run.is_preflight else self.evaluate(lock)
        if self.watch.stop:
            self.end_stopped(ending, lock)
        elif self.run.is_preflight:
            self.watch.insist(partial(lifecycle.finish_preflight, self.lease))
        elif self.run.is_evaluation:
            self.finish_evaluation(predictions)
        else:
            self.finish(predictions)

    def is_trained(self) -> bool:
        """Tell whether only the evaluation is missing: an earlier attempt got so far, or nothing else was asked for."""
        if self.run.is_evaluation:
            return True
        return "finished" in self._reported_facts() and is_whole_adapter(self.folder.adapter)

    def prepare(self, *, keep_adapter: bool) -> None:
        """Fill the job folder, and have compiled what the children need. Raises: JobError, LeaseLost, Stopped."""
        self.watch.keep_alive()
        try:
            prepare(self.folder, self.run, keep_adapter=keep_adapter)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = _("The node's disk is full. Free space on it and start the run again.")
            raise JobError("disk_full", message) from error
        if self.programs.compiler:
            self.watch.compile_kernels(self.programs.compiler)
        self.watch.keep_alive()

    def train(self, lock: int) -> Ending:
        """Run the trainer, again from its last checkpoint if it was killed, until it ends by itself or is stopped.

        Raises: JobError if it failed or was killed too often.
        """
        while True:
            ending = self.watch.stay_with(self.programs.trainer, lock, log="trainer.log", processes=self.run.gpus)
            self.watch.insist(partial(keep_tokens, self.folder, self.run.dataset_version))
            if ending.reported("failed"):
                raise JobError(*failure_of(ending.outcome))
            if self.watch.stop or (ending.code == 0 and ending.reported("finished")):
                return ending
            if not ending.was_cut_short:
                message = _("The trainer ended without saying why (%(cause)s). The node's log has the details.")
                raise JobError("internal", message % {"cause": ending.cause})
            self._count_crash(ending)
            write_spec(self.folder, self.run)  # there may be a checkpoint now

    def _count_crash(self, ending: Ending) -> None:
        """Count an attempt that was cut short from outside. Raises: JobError if it was the last one."""
        message = _("The training process was killed (%(cause)s).") % {"cause": ending.cause}
        logger.warning("run %s: %s", self.run.pk, message)
        if not self.watch.insist(partial(lifecycle.note_crash, self.lease, message)):
            advice = _("Most often memory ran out: choose smaller micro-batches or shorter rows, and start it again.")
            raise JobError("killed", f"{message} {advice}")

    def evaluate(self, lock: int) -> Path | None:
        """Ask both models the held-out rows; return the file of answers, or None if there are none.

        Whatever goes wrong here costs a training its quality report only. Raises: JobError for an evaluation, which is
        nothing else.
        """
        if asked_split(self.run) is None:
            message = _("There are no held-out rows, so there is no quality report.")
            self.watch.insist(partial(lifecycle.note, self.lease, message))
            return None
        self.folder.predictions.unlink(missing_ok=True)
        offer_untuned_answers(self.folder, self.run, self.watch.insist(partial(lifecycle.earlier_runs_like, self.run)))
        ending = self.watch.stay_with(self.programs.evaluator, lock, log="evaluator.log")
        if self.watch.stop or (ending.code == 0 and self.folder.predictions.is_file()):
            return self.folder.predictions
        code, why = failure_of(ending.outcome) if ending.reported("failed") else ("internal", ending.cause)
        if self.run.is_evaluation:
            raise JobError(code, _("The evaluation failed. %(why)s") % {"why": why})
        message = _("The evaluation failed, so there is no quality report; the adapter is complete. %(why)s")
        self.watch.insist(partial(lifecycle.note, self.lease, message % {"why": why}, level="warning"))
        return None

    def finish(self, predictions: Path | None) -> None:
        """End the run well. Raises: JobError if there is no whole adapter."""
        finish = partial(
            lifecycle.finish_run,
            self.lease,
            adapter=self.folder.adapter,
            step=step_of(self._reported_facts().get("finished", {})),
            predictions=predictions,
            split=asked_split(self.run) or Split.VALIDATION,
        )
        try:
            self.watch.insist(finish)
        except IncompleteAdapter as error:
            raise JobError(error.code, error.message) from error

    def finish_evaluation(self, predictions: Path | None) -> None:
        """End an evaluation of kept weights. Raises: JobError if there were no rows to ask."""
        if predictions is None:
            raise JobError("bad_data", _("There are no validation rows to measure on. Import the dataset with some."))
        end = partial(lifecycle.finish_evaluation, self.lease, predictions=predictions, split=Split.VALIDATION)
        self.watch.insist(end)

    def keep_checkpoint(self, lock: int) -> Ending | None:
        """Make the result of a run whose trainer was killed before it could save: that of its newest checkpoint.

        Returns how that ended, None if there is no checkpoint.
        """
        if self.run.is_preflight or not any(self.folder.checkpoints.glob("step-*")):
            return None
        write_spec(self.folder, self.run, keep_only=True)
        ending = self.watch.stay_with(self.programs.trainer, lock, log="trainer.log", most_s=KEEP_LIMIT_S)
        if not (ending.reported("stopped") and is_whole_adapter(self.folder.adapter)):
            message = _("No adapter could be made of the run's last checkpoint (%(cause)s).")
            self.watch.insist(partial(lifecycle.note, self.lease, message % {"cause": ending.cause}, level="warning"))
        return ending

    def end_stopped(self, ending: Ending | None, lock: int | None) -> None:
        """Report a run that was stopped: cancelled with what it learned, or back in the queue for another time.

        `lock`: of the job folder, None if we never had it.
        """
        if self.watch.stop == Stop.CANCEL:
            self.is_paused = self.watch.insist(partial(lifecycle.pause_run, self.lease))
            if self.is_paused:
                return
            is_saved = self.run.is_evaluation or is_whole_adapter(self.folder.adapter)
            if lock is not None and not is_saved:
                ending = self.keep_checkpoint(lock) or ending
            step = step_of(ending.outcome if ending else self._reported_facts().get("finished", {}))
            learned = None if self.run.is_evaluation else self.folder.adapter
            self.watch.insist(partial(lifecycle.stop_run, self.lease, adapter=learned, step=step))
            return
        message = (
            _("The node was shut down; the run goes on from its last checkpoint.")
            if self.watch.stop == Stop.SHUTDOWN
            else _("The node did not reach the database; the run goes on from its last checkpoint.")
        )
        self.watch.insist(partial(lifecycle.release_run, self.lease, message))

    def _reported_facts(self) -> dict[str, dict[str, object]]:
        facts: dict[str, dict[str, object]] = self.watch.insist(partial(lifecycle.load_run, self.run.pk)).facts
        return facts
