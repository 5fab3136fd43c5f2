"""What the queue calls: short, repeatable, each only a hint to look at the rows."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.utils import timezone
from django_q.models import Task

from experiments import lifecycle, scheduling
from experiments.llm_judge import asking
from experiments.llm_judge.lifecycle import requeue_stalled_judgements
from experiments.trackers import following

_KEEP_RESULTS = timedelta(days=1)
_KEEP_FAILURES = timedelta(days=14)


def dispatch() -> int:
    """Start what can be started; return how many runs were given a slot."""
    return scheduling.dispatch()


def sweep() -> int:
    """Take runs away from nodes that were lost; return how many."""
    requeue_stalled_judgements()
    return lifecycle.sweep()


def judge_answers(judgement_id: str) -> None:
    """Have held-out answers rated by the team's judge."""
    asking.run(UUID(judgement_id))


def copy_to_tracker(tracked_id: str) -> None:
    """Tell the team's tracker what is new of a run."""
    following.send(UUID(tracked_id))


def sweep_trackers() -> int:
    """Take up runs for their team's tracker; return how many are due."""
    return following.sweep()


def prune_queue_results() -> int:
    """Delete results of old queue tasks; return how many. Failures are kept longer, for the operator."""
    now = timezone.now()
    done, _ = Task.objects.filter(success=True, stopped__lt=now - _KEEP_RESULTS).delete()
    failed, _ = Task.objects.filter(success=False, stopped__lt=now - _KEEP_FAILURES).delete()
    return int(done + failed)
