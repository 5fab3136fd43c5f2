"""What an evaluation measures beyond answers: how likely both models find given texts.

All labels of a classification as answers to the same prompt (their probabilities), the better and the worse answer of
a preference, the whole text of pre-training. The untuned model is the same model with the adapter switched off.
"""

import contextlib
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer
from experiments.hyperparameters import Hyperparameters
from experiments.problem_file import PROBLEM_FILE, Problem
from experiments.scoring.calibration import fit_temperature, probabilities
from experiments.scoring.names import TUNED
from experiments.trials import LEAST_ASKED_ROWS
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.decisions import decide, value_ids
from gpu_worker.engine.likelihood import Likelihoods
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.evaluator.pace import Pace
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.problems import pretraining
from gpu_worker.trainer.stop import StopFlag
from gpu_worker.trainer.storage import publish_text

# Labels times rows: what a pair of models scores in some minutes on two CPU cores.
MOST_LABEL_SCORES = 40_000

Content = Mapping[str, Any]


class ProblemScorer:
    """Scores held-out rows, as the job folder has them, under the tuned and the untuned model."""

    def __init__(self, core: EngineCore, renderer: ChatRenderer, problem: Problem, chosen: Hyperparameters) -> None:
        self._likelihoods: Likelihoods = core.likelihoods()
        self._renderer = renderer
        self._problem = problem
        self._max_length = chosen.max_length
        self._labels = value_ids(renderer, problem.labels)

    def of(self, content: Content, adapter: AdapterRef | None) -> list[float]:
        """Return the scores of one row as `experiments.scoring.problems.ScoredRow` wants them.

        Raises: ValueError if the row is too long for the model.
        """
        kind = self._problem.problem_type
        if kind == "classification":
            return probabilities(self.label_logprobs(content, adapter), 1.0)
        if kind == "preference":
            return self._pair(content, adapter)
        if kind == "pretraining":
            return self._text(content, adapter)
        return []

    def label_logprobs(self, content: Content, adapter: AdapterRef | None) -> tuple[float, ...]:
        """Return the log probability of every label, as decisions of the served adapter have them.

        Raises: ValueError if the row is too long for the model.
        """
        prompt = self._renderer.prompt_ids(content["messages"][:-1])
        return decide(self._likelihoods, prompt, self._labels, adapter).logprobs

    def _pair(self, content: Content, adapter: AdapterRef | None) -> list[float]:
        messages = content["messages"]
        rows = [self._renderer.row(messages), self._renderer.row([*messages[:-1], _answer(content["rejected"])])]
        answers = [row.token_ids[row.prompt_length :] for row in rows]
        prompt = rows[0].token_ids[: rows[0].prompt_length]
        return [math.fsum(tokens) for tokens in self._likelihoods.of(prompt, answers, adapter)]

    def _text(self, content: Content, adapter: AdapterRef | None) -> list[float]:
        logprobs: list[float] = []
        for ids in pretraining.pieces(pretraining.text_of(content["messages"]), self._renderer, self._max_length):
            logprobs += self._likelihoods.of(ids[:1], [ids[1:]], adapter)[0]
        return [math.fsum(logprobs), float(len(logprobs))]


def measure_problem(
    scorer: ProblemScorer,
    problem: Problem,
    contents: Sequence[Content],
    adapters: Mapping[str, AdapterRef | None],
    folder: Path,
    events: Events,
    stop: StopFlag,
    *,
    calibration: Sequence[Content] = (),
    limit_s: float = math.inf,
) -> None:
    """Write `problem.json` beside the answers: the problem, and the scores of each row that could be scored.

    `calibration`: other rows, by which a classification's temperature for the tuned model is fitted. Rows are scored in
    an order drawn by chance: as many as their labels allow, and after the first ones no longer than `limit_s`.
    Raises: StopRequested.
    """
    most = max(1, MOST_LABEL_SCORES // max(1, len(adapters) * len(problem.labels)))
    rows: list[dict[str, Any]] = []
    pace, started = Pace(), time.monotonic()
    order = random.Random(0).sample(range(len(contents)), min(most, len(contents)))  # noqa: S311 -- no secret
    for done, number in enumerate(order):
        stop.check()
        if done >= LEAST_ASKED_ROWS and time.monotonic() - started > limit_s:
            break
        try:
            scores = {subject: scorer.of(contents[number], adapter) for subject, adapter in adapters.items()}
        except ValueError:  # longer than the model reads; counted as not measured
            continue
        rows.append({"place": number, "scores": scores})
        if pace.is_due():
            events.emit("evaluation_progress", subject="scores", done=done + 1, total=len(order))
    rows.sort(key=itemgetter("place"))
    written = {"problem": asdict(problem), "rows": rows, "calibration": None}
    if problem.labels and calibration:
        written["calibration"] = _calibrated(scorer, problem, calibration[:most], adapters[TUNED], stop)
    folder.mkdir(exist_ok=True)
    publish_text(folder / PROBLEM_FILE, json.dumps(written, ensure_ascii=False))


def _calibrated(
    scorer: ProblemScorer, problem: Problem, contents: Sequence[Content], adapter: AdapterRef | None, stop: StopFlag
) -> dict[str, Any] | None:
    """Return the temperature of the labels, and how sure of each row's label the model is at it, and whether rightly.

    None if no row's label is one of them. Raises: StopRequested.
    """
    known: list[tuple[list[float], int]] = []
    for content in contents:
        stop.check()
        expected = content["messages"][-1]["content"]
        if expected in problem.labels:
            with contextlib.suppress(ValueError):  # longer than the model reads
                known.append((list(scorer.label_logprobs(content, adapter)), problem.labels.index(expected)))
    if not known:
        return None
    temperature = fit_temperature(known)
    rows = []
    for logprobs, right in known:
        shares = probabilities(logprobs, temperature)
        rows.append((round(max(shares), 6), shares.index(max(shares)) == right))
    return {"temperature": temperature, "labels": list(problem.labels), "rows": rows}


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def continuation(content: Content, renderer: ChatRenderer) -> tuple[str, str]:
    """Return the first and the second half of a text: what a model is shown, and how it really goes on."""
    text = pretraining.text_of(content["messages"])
    ids = renderer.encode(text)[:256]
    half = renderer.decode(ids[: len(ids) // 2])
    return half, renderer.decode(ids)[len(half) :]
