"""Whether a request to a model fits into the team's limits: amounts are set aside before it and settled after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from deployments import plain_prompts
from deployments.gathering import Gathering
from deployments.known_targets import Recalled
from deployments.metering import Caller
from portal import quotas, tokens
from portal.errors import PortalError
from portal.lane import Lane, Row
from portal.models import Quota
from portal.quotas import Standing

# What an engine generates for a request that names no limit.
USUAL_MAX_TOKENS = 512
# Of text in most languages and scripts; too many is given back when the engine has counted.
_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 8


class NotAsRemembered(PortalError):
    """What a process remembered of a token or a target is no longer so: look both up. Callers never see it."""

    def __init__(self) -> None:
        super().__init__("not as remembered")


@dataclass(frozen=True)
class Memory:
    """Who asks for what, as this process remembers both; `deployments_admit` says whether it still is so."""

    token: tokens.Recalled
    name: str
    target: Recalled

    def ask(self, values: list[Any]) -> list[Any]:
        """Reserve with the values of `portal_reserve`, in the same statement that confirms. Raises: NotAsRemembered."""
        team_id, reservation_id, kinds, amounts, moment, keep = values
        token = self.token.token
        asked = _Asked(
            token.key_id, self.token.stamp, self.name, self.target.stamp, team_id, tuple(kinds), moment, keep
        )
        wish = _Wish(reservation_id, amounts)
        # Within a transaction the statement belongs to it.
        rows = _alone(asked, wish) if connection.in_atomic_block else _together.answer(asked, wish)
        if not rows:
            raise NotAsRemembered()
        self.token.is_confirmed = True
        return rows


class _Asked(NamedTuple):
    """What requests have in common that can be let in together."""

    key_id: str
    token_stamp: str
    name: str
    target_stamp: str
    team_id: UUID
    kinds: tuple[str, ...]
    moment: datetime | None
    keep: timedelta


class _Wish(NamedTuple):
    """What one request takes, in the order of the kinds."""

    reservation_id: UUID
    amounts: Sequence[int]


_ADMIT = Lane(
    "SELECT * FROM deployments_admit($1::text, $2::text, $3::text, $4::text, $5::uuid, $6::uuid[], $7::text[],"
    " $8::bigint[], $9::bigint[], $10::timestamptz, $11::interval)"
)


def _let_in(asked: _Asked, wishes: Sequence[_Wish]) -> Sequence[list[Row] | None]:
    """Let requests in by one statement and return each one's rows of `portal_reserve`; None: not all of them fit.

    A request's rows say how the team stands after it, not after the others.
    """
    sums = [sum(amounts) for amounts in zip(*(wish.amounts for wish in wishes), strict=True)]
    each = [amount for wish in wishes for amount in wish.amounts]
    known = [asked.key_id, asked.token_stamp, asked.name, asked.target_stamp, asked.team_id]
    taken = [[wish.reservation_id for wish in wishes], list(asked.kinds), sums, each, asked.moment, asked.keep]
    rows = _ADMIT.fetch("a token names its team only after it was found", [*known, *taken])
    if len(wishes) == 1 or not rows:
        return [rows] * len(wishes)
    if any(is_refused for *_facts, is_refused in rows):
        return [None] * len(wishes)
    found: list[list[Row]] = []
    for wish in reversed(wishes):
        found.append(rows)
        rows = [
            (kind, starts_at, most, used - amount, *rest)
            for (kind, starts_at, most, used, *rest), amount in zip(rows, wish.amounts, strict=True)
        ]
    return found[::-1]


_together = Gathering(_let_in)


def _alone(asked: _Asked, wish: _Wish) -> list[Row]:
    [rows] = _let_in(asked, [wish])
    assert rows is not None
    return rows


def admit(caller: Caller, *, prompt: int, most: int, memory: Memory | None = None) -> Caller:
    """Set aside one request that takes `most` tokens, and return the caller with the reservation.

    `prompt`: how many it takes if only its prompt is read. With a `memory` that is confirmed, too.
    Raises: RateLimited, QuotaExceeded, both with the x-ratelimit headers; NotAsRemembered.
    """
    amounts = {Quota.REQUESTS_PER_MINUTE: 1, Quota.TOKENS_PER_MINUTE: most, Quota.TOKENS_PER_MONTH: most}
    try:
        ask = memory.ask if memory is not None else quotas.ask
        reservation = quotas.reserve(caller.team.pk, amounts, ask=ask)
    except quotas.Refused as refused:
        error = quotas.refusal(refused)
        error.headers.update(headers(refused.standings))
        raise error from None
    return replace(caller, reservation=reservation, likely_prompt_tokens=prompt)


def likely_prompt_tokens(body: Mapping[str, Any]) -> int:
    """Return an estimate of a prompt's tokens; `body` as the engine gets it, with the deployment's system prompt.

    Token ids are counted.
    """
    messages = body.get("messages", ())
    parts = [message["content"] for message in messages] or plain_prompts.each(body.get("prompt", ""))
    sizes = (likely_tokens(one) if isinstance(one, str) else len(one) for one in parts)
    return sum(sizes) + _TOKENS_PER_MESSAGE * len(messages)


def likely_tokens(text: str) -> int:
    """Return an estimate of a text's tokens."""
    return len(text.encode()) // _BYTES_PER_TOKEN + 1


def most_written(body: Mapping[str, Any]) -> int:
    """Return how many tokens one answer may have."""
    return int(body.get("max_tokens") or USUAL_MAX_TOKENS)


def answers_of(body: Mapping[str, Any]) -> int:
    """Return how many answers a checked request asks for: `n` to each of its prompts."""
    return int(body.get("n") or 1) * len(plain_prompts.each(body.get("prompt", "")))


def headers(standings: Mapping[Quota, Standing]) -> dict[str, str]:
    """Return the x-ratelimit headers for the limits of this minute; a team without a limit gets none for it."""
    names = {Quota.REQUESTS_PER_MINUTE: "requests", Quota.TOKENS_PER_MINUTE: "tokens"}
    found: dict[str, str] = {}
    for kind, name in names.items():
        standing = standings.get(kind)
        if standing is not None and standing.limit is not None:
            found[f"x-ratelimit-limit-{name}"] = str(standing.limit)
            found[f"x-ratelimit-remaining-{name}"] = str(standing.remaining)
            found[f"x-ratelimit-reset-{name}"] = _span(standing.resets_in_s)
    return found


def _span(seconds: float) -> str:
    """Write a time span as OpenAI's servers do: 12ms, 8s, 1m0s."""
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))}ms"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
