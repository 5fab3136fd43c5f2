"""How likely both models find the expected answers: what the perplexity of free text is made of."""

from collections.abc import Mapping, Sequence

from datasets_app.rendering import ChatRenderer
from experiments.trials import MOST_LIKELIHOOD_ROWS
from gpu_worker.engine.likelihood import Likelihoods
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.evaluator.pace import Pace
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.heldout import HeldOutRow
from gpu_worker.trainer.stop import StopFlag

Nats = dict[str, tuple[float, int]]


def expected_nats(
    scorer: Likelihoods,
    renderer: ChatRenderer,
    rows: Sequence[HeldOutRow],
    adapters: Mapping[str, AdapterRef | None],
    events: Events,
    stop: StopFlag,
) -> dict[int, Nats]:
    """Return per row and model the log probability of the expected answer, and its tokens.

    No more than MOST_LIKELIHOOD_ROWS are looked at; those that are too long for the model are left out.
    Raises: StopRequested.
    """
    found: dict[int, Nats] = {}
    pace, asked = Pace(), rows[:MOST_LIKELIHOOD_ROWS]
    for done, row in enumerate(asked, start=1):
        stop.check()
        rendered = renderer.row(row.content["messages"])
        prompt, answer = rendered.token_ids[: rendered.prompt_length], rendered.token_ids[rendered.prompt_length :]
        try:
            found[row.row] = {
                name: (sum(scorer.of(prompt, [answer], adapter)[0]), len(answer)) for name, adapter in adapters.items()
            }
        except ValueError:
            continue
        if pace.is_due(is_last=done == len(asked)):
            events.emit("evaluation_progress", subject="expected", done=done, total=len(asked))
    return found
