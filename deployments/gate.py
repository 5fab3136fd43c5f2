"""Whether a version may take over a name: its held-out figures beside those of the version that answers now.

The rules are the team's (`PromotionPolicy`). A version that answered under the name before may always come back:
rolling back is what one does when figures were wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.db.models import Count, Q
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app import store
from deployments.models import Deployment, DeploymentVersion, PromotionPolicy
from deployments.traffic import Median
from experiments.models import Evaluation
from portal.display import numbers
from portal.errors import PortalError
from portal.models import Team

# The recall of a class with fewer rows jumps by more than any sensible bound when one answer changes.
LEAST_SUPPORT = 10
# Times of fewer requests say little.
LEAST_REQUESTS = 20
_TIMES_OF = timedelta(days=7)


class HeldBack(PortalError):
    """The gate keeps a version from taking over a name."""

    code = "held_back_by_gate"
    status = 409


@dataclass(frozen=True)
class Rule:
    """One rule with both figures, as people read them; `live` is None where nothing answers yet.

    `awaits_requests`: it is broken only because the version has had too few requests to be measured.
    """

    code: str
    label: str
    bound: str
    candidate: str
    live: str | None
    has_passed: bool
    awaits_requests: bool = False


@dataclass(frozen=True)
class Judgement:
    """What the gate says of one version. `is_same_rows`: both figures are of the same held-out rows."""

    rules: tuple[Rule, ...] = ()
    is_same_rows: bool = True

    @property
    def has_passed(self) -> bool:
        """Whether the version may take over."""
        return all(rule.has_passed for rule in self.rules)

    @property
    def failed(self) -> list[Rule]:
        """The rules that the version breaks."""
        return [rule for rule in self.rules if not rule.has_passed]

    @property
    def measured(self) -> Judgement:
        """The same by figures that are known: without the rules that only wait for requests."""
        return replace(self, rules=tuple(rule for rule in self.rules if not rule.awaits_requests))

    @property
    def sentence(self) -> str:
        """Which rules fail, with both figures, in one sentence."""
        parts = [
            _("%(rule)s: %(candidate)s, answering now %(live)s, asked for %(bound)s")
            % {"rule": rule.label, "candidate": rule.candidate, "live": rule.live or "–", "bound": rule.bound}
            for rule in self.failed
        ]
        return "; ".join(parts)


@dataclass(frozen=True)
class Figures:
    """What an evaluation says about one version, as far as the gate asks."""

    quality: float
    is_macro_f1: bool
    invalid_json: float | None
    recalls: Mapping[tuple[str, str], tuple[float, int]]


def policy_of(team: Team) -> PromotionPolicy:
    """Return the team's rules, or the defaults, not saved."""
    return team.promotionpolicys.first() or PromotionPolicy(team=team)


def judge(deployment: Deployment, version: DeploymentVersion, policy: PromotionPolicy | None = None) -> Judgement:
    """Return what the gate says of a version that wants to take over its deployment's name.

    A first version has nothing to be compared with: only minimums that the team has set itself apply to it.
    """
    policy = policy or policy_of(deployment.team)
    live = deployment.live_version
    if not policy.is_on or version.first_live_at is not None or (live is not None and live.pk == version.pk):
        return Judgement()
    if live is None and policy._state.adding:
        return Judgement()
    theirs, ours = _figures(live) if live is not None else None, _figures(version)
    if ours is None:
        rules = [] if live is not None and theirs is None else [_evaluated(theirs)]
        return Judgement((*rules, *_time_rules(policy, version, live)))
    is_same_rows = live is None or theirs is None or _have_same_rows(version, live)
    rules = [*_minimums(policy, ours, theirs), *_drops(policy, ours, theirs), *_time_rules(policy, version, live)]
    if policy.needs_same_rows and theirs is not None:
        rules.append(_same_rows(is_same_rows))
    return Judgement(tuple(rules), is_same_rows)


def _evaluated(theirs: Figures | None) -> Rule:
    live = f"{_quality_label(theirs)} {numbers.percent(theirs.quality)}" if theirs else None
    return Rule("evaluated", _("Evaluated on held-out rows"), _("an evaluation"), _("none"), live, False)


def _same_rows(is_same: bool) -> Rule:
    words = _("the same rows") if is_same else _("other rows")
    return Rule(
        "needs_same_rows", _("Measured on the same held-out rows"), _("the same rows"), words, _("its own"), is_same
    )


def _minimums(policy: PromotionPolicy, ours: Figures, theirs: Figures | None) -> Iterator[Rule]:
    if policy.min_macro_f1 is not None:
        yield _share(
            "min_macro_f1", _quality_label(ours), ours.quality, theirs.quality if theirs else None, policy.min_macro_f1
        )
    if policy.max_invalid_json is not None and ours.invalid_json is not None:
        yield Rule(
            "max_invalid_json",
            _("Answers that are no JSON"),
            _("at most %(share)s") % {"share": numbers.percent(policy.max_invalid_json)},
            numbers.percent(ours.invalid_json),
            _percent(theirs.invalid_json if theirs else None),
            ours.invalid_json <= policy.max_invalid_json + 1e-9,
        )


def _drops(policy: PromotionPolicy, ours: Figures, theirs: Figures | None) -> Iterator[Rule]:
    if theirs is None:
        return
    if policy.max_f1_drop is not None and ours.is_macro_f1 == theirs.is_macro_f1:
        label = _("%(figure)s, beside the version that answers now") % {"figure": _quality_label(ours)}
        yield _share("max_f1_drop", label, ours.quality, theirs.quality, theirs.quality - policy.max_f1_drop)
    if policy.max_recall_drop is not None:
        yield from _recall_rules(policy.max_recall_drop, ours, theirs)


def _recall_rules(most: float, ours: Figures, theirs: Figures) -> Iterator[Rule]:
    """Yield a rule for each class that is found less often than it may be; if there is none, one that passes.

    A class that the candidate's report does not have is one that it never finds.
    """
    compared = [key for key, (_recall, support) in theirs.recalls.items() if support >= LEAST_SUPPORT]
    if not compared:
        return
    found = {key: ours.recalls[key][0] if key in ours.recalls else 0.0 for key in compared}
    drop = {key: theirs.recalls[key][0] - found[key] for key in compared}
    fallen = sorted((key for key in compared if drop[key] > most + 1e-9), key=lambda key: -drop[key])
    for field, label in fallen or [max(compared, key=lambda key: drop[key])]:
        before, now = theirs.recalls[field, label][0], found[field, label]
        words = _("Recall of %(field)s = %(label)s") if field else _("Recall of %(label)s")
        yield _share("max_recall_drop", words % {"field": field, "label": label}, now, before, before - most)


def _time_rules(policy: PromotionPolicy, version: DeploymentVersion, live: DeploymentVersion | None) -> Iterator[Rule]:
    if policy.max_median_ms is None and policy.max_median_rise is None:
        return
    ours = _times_of(version)
    theirs = _times_of(live) if live is not None else None
    if policy.max_median_ms is not None:
        yield _time_rule("max_median_ms", _("Median time of an answer"), ours, theirs, policy.max_median_ms)
    # a live version that nobody asked has no times that one could be compared with
    if policy.max_median_rise is not None and theirs is not None and theirs.known_ms is not None:
        label = _("Median time of an answer, beside the version that answers now")
        yield _time_rule("max_median_rise", label, ours, theirs, theirs.known_ms * (1 + policy.max_median_rise))


def _time_rule(code: str, label: str, ours: Times, theirs: Times | None, most_ms: float) -> Rule:
    return Rule(
        code,
        label,
        _("at most %(limit)d ms") % {"limit": round(most_ms)},
        ours.words,
        f"{theirs.median_ms:.0f} ms" if theirs is not None and theirs.median_ms is not None else None,
        ours.known_ms is not None and ours.known_ms <= most_ms,
        awaits_requests=ours.known_ms is None,
    )


@dataclass(frozen=True)
class Times:
    """How long a version's answers took within the last days. `name`: of the version, as it is called."""

    name: str
    median_ms: float | None
    requests: int

    @property
    def known_ms(self) -> float | None:
        """The median, if it is one of enough requests."""
        return self.median_ms if self.requests >= LEAST_REQUESTS else None

    @property
    def words(self) -> str:
        """The median, or how many requests it waits for."""
        if self.known_ms is not None:
            return f"{self.known_ms:.0f} ms"
        words = {"count": self.requests, "least": LEAST_REQUESTS, "name": self.name}
        return _("%(count)d of %(least)d requests to %(name)s") % words


def _times_of(version: DeploymentVersion) -> Times:
    asked = version.requests.filter(at__gte=timezone.now() - _TIMES_OF).order_by()
    found = asked.aggregate(median=Median("duration_ms", filter=Q(status=200)), count=Count("pk", filter=Q(status=200)))
    return Times(f"{version.deployment.name}@v{version.number}", found["median"], int(found["count"]))


def _share(code: str, label: str, ours: float, theirs: float | None, least: float) -> Rule:
    bound = _("at least %(share)s") % {"share": numbers.percent(max(least, 0.0))}
    return Rule(code, label, bound, numbers.percent(ours), _percent(theirs), ours >= least - 1e-9)


def _percent(share: float | None) -> str | None:
    return numbers.percent(share) if share is not None else None


def _quality_label(figures: Figures) -> str:
    return _("Macro-F1") if figures.is_macro_f1 else _("Mean score")


def _evaluation(version: DeploymentVersion) -> Evaluation | None:
    return version.adapter.evaluation


def _have_same_rows(version: DeploymentVersion, live: DeploymentVersion) -> bool:
    """Whether both evaluations asked the same rows: by what the rows say, for a dataset may have a new version."""
    ours, theirs = _evaluation(version), _evaluation(live)
    if ours is None or theirs is None or (ours.split, ours.rows) != (theirs.split, theirs.rows):
        return False
    mine, other = version.adapter.run.dataset_version, live.adapter.run.dataset_version
    if mine.pk == other.pk:
        return True
    hashes = [_rows_hash(one.rows_path(ours.split)) for one in (mine, other)]
    return hashes[0] is not None and hashes[0] == hashes[1]


@lru_cache(maxsize=256)
def _rows_hash(path: Path) -> str | None:
    """Return the hash of a split's rows, which never change; None if they are gone."""
    try:
        return store.rows_hash(path)
    except FileNotFoundError:
        return None


def _figures(version: DeploymentVersion) -> Figures | None:
    """Return the figures of a version's evaluation, None without one; bound to a schema if it answers so."""
    evaluation = _evaluation(version)
    report: dict[str, Any] = evaluation.report if evaluation is not None else {}
    free: dict[str, Any] = report.get("tuned") or {}
    if not free:
        return None
    bound = (report.get("others") or {}).get("constrained") if version.response_schema else None
    asked: dict[str, Any] = bound or free
    problem = report.get("problem") or {}
    f1 = _macro_f1(asked, problem)
    valid = asked.get("json_valid")
    return Figures(
        quality=f1 if f1 is not None else float(asked.get("score") or 0.0),
        is_macro_f1=f1 is not None,
        invalid_json=1.0 - valid if valid is not None else None,
        # reports of earlier releases have classes of free answers only
        recalls=dict(_recalls(asked, problem)) or dict(_recalls(free, problem)),
    )


def _macro_f1(answers: Mapping[str, Any], problem: Mapping[str, Any]) -> float | None:
    """Return the mean F1 over closed fields, or that of a classification; None where there are no classes."""
    for figure in problem.get("figures") or ():
        if figure.get("name") == "macro_f1" and figure.get("tuned") is not None:
            return float(figure["tuned"])
    known = [field["f1"] for field in answers.get("fields") or () if field.get("f1") is not None]
    return sum(known) / len(known) if known else None


def _recalls(
    answers: Mapping[str, Any], problem: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, str], tuple[float, int]]]:
    """Yield ((field, class), (recall, rows with it)); the field of a classification is ''."""
    for one in problem.get("classes") or ():
        yield ("", one["label"]), (float(one["recall"]), int(one["support"]))
    for field in answers.get("fields") or ():
        for one in field.get("classes") or ():
            yield (field["name"], one["label"]), (float(one["recall"]), int(one["support"]))
