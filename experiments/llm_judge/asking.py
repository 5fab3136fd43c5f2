"""One judgement from claim to figures: row after row is shown to the judge, whatever it fails to rate is missing."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Final
from uuid import UUID

import httpx
from django.utils.translation import gettext as _

from datasets_app.claims import ClaimLost
from experiments.llm_judge import lifecycle
from experiments.llm_judge.costs import MOST_ANSWER_TOKENS, cost_of, most_cost_of, told_or_guessed
from experiments.llm_judge.lifecycle import Work
from experiments.llm_judge.rubric import Rating, messages_for, rating_of, tokens_of
from experiments.llm_judge.services import sampled_rows
from experiments.models import EvaluatedRow
from portal import outbound, reachable
from portal.errors import PortalError

logger = logging.getLogger(__name__)

MOST_REPLY_BYTES: Final = 1_000_000
READ_TIMEOUT_S: Final = 120.0
# An endpoint that fails so often in a row, before it rated anything, will not rate the rest.
GIVE_UP_AFTER: Final = 5
SUBJECTS: Final = ("tuned", "untuned")


class Unusable(Exception):
    """The judge cannot be asked at all; the text is a sentence for people."""


def run(judgement_id: UUID) -> None:
    """Have the rows of a judgement rated if nobody else does."""
    work = lifecycle.claim_judgement(judgement_id)
    if work is None:
        return
    try:
        with outbound.client(_headers(lifecycle.secret_of(work))) as http:
            ratings, is_capped = _rate(work, http)
        lifecycle.finish_judgement(work, ratings, is_capped=is_capped)
    except ClaimLost:
        logger.info("judgement %s was taken away", judgement_id)
    except Unusable as error:
        lifecycle.fail_judgement(work, str(error))
    except PortalError as error:
        lifecycle.fail_judgement(work, error.message)


def _headers(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def _rate(work: Work, http: httpx.Client) -> tuple[list[dict[str, Any]], bool]:
    """Return the ratings of the sampled rows, and whether some were left out for their cost.

    Raises: ClaimLost, Unusable, OutboundRefused.
    """
    rows = {row.pk: row for row in lifecycle.rows_of(work)}
    ratings = list(work.ratings)
    chosen = sampled_rows(list(rows), work.rows)
    failures, last_problem = 0, ""
    spent = list(work.tokens)
    for pk in chosen[len(ratings) :]:
        if _might_cost_too_much(work, rows[pk], spent):
            if not ratings:
                raise Unusable(_("Not even one row fits below the limit of cost. A team admin can raise it."))
            return ratings, True
        rated: dict[str, Any] = {"row": rows[pk].row}
        tokens = [0, 0]
        for subject in SUBJECTS:
            rating, problem, used = _ask(work, http, rows[pk], subject)
            rated[subject] = {"score": rating.score, "reason": rating.reason} if rating else None
            tokens = [tokens[0] + used[0], tokens[1] + used[1]]
            failures, last_problem = (0, "") if rating else (failures + 1, problem)
        ratings.append(rated)
        spent = [spent[0] + tokens[0], spent[1] + tokens[1]]
        lifecycle.report_progress(work, ratings, (tokens[0], tokens[1]))
        if failures >= GIVE_UP_AFTER and not any(one[subject] for one in ratings for subject in SUBJECTS):
            raise Unusable(last_problem)
    return ratings, False


def _might_cost_too_much(work: Work, row: EvaluatedRow, spent: list[int]) -> bool:
    """Tell whether the questions about a row could bring the judgement above its limit."""
    if work.most_cost is None:
        return False
    prices = work.prompt_price, work.answer_price
    most = sum(most_cost_of(_messages(work, row, subject), *prices) for subject in SUBJECTS)
    return cost_of(spent[0], spent[1], *prices) + most > work.most_cost


def _messages(work: Work, row: EvaluatedRow, subject: str) -> list[dict[str, str]]:
    return messages_for(work.rubric, prompt=row.prompt, expected=row.expected, answer=getattr(row, subject))


def _ask(work: Work, http: httpx.Client, row: EvaluatedRow, subject: str) -> tuple[Rating | None, str, tuple[int, int]]:
    """Return the rating of one answer, else what went wrong; and the tokens it took. Raises: OutboundRefused."""
    messages = _messages(work, row, subject)
    body = {
        "model": work.model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": MOST_ANSWER_TOKENS,
    }
    try:
        reply = _post(http, f"{work.address}/chat/completions", body)
    except reachable.OutboundFailed as error:
        return None, error.message, (0, 0)
    rating = rating_of(reply)
    problem = "" if rating else _("The judge answers, but not with a rating. Use a model that can follow the order.")
    used = tokens_of(reply)
    return rating, problem, told_or_guessed(used, messages, rating.reason if rating else "") if reply else used


def _post(http: httpx.Client, url: str, body: dict[str, Any]) -> object:
    """Return the JSON that the endpoint answers, asked again once if it is busy.

    Raises: OutboundRefused, OutboundFailed.
    """
    answer = outbound.post(http, url, json=body, max_bytes=MOST_REPLY_BYTES, read_timeout_s=READ_TIMEOUT_S)
    if answer.status_code in (429, 503):
        time.sleep(_wait_s(answer.headers.get("retry-after", "")))
        answer = outbound.post(http, url, json=body, max_bytes=MOST_REPLY_BYTES, read_timeout_s=READ_TIMEOUT_S)
    outbound.require_success(answer)
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        return None


def _wait_s(told: str) -> float:
    return min(float(told), 20.0) if told.isascii() and told.isdigit() else 1.0
