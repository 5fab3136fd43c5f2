"""The form proposes the kind of problem that the rows look like, says why, and leaves the choice to people."""

from __future__ import annotations

import pytest

from datasets_app.models import Split
from datasets_app.rows import CanonicalRow
from datasets_app.store import write_rows
from experiments.forms import RunForm
from experiments.problem_proposal import propose_problem
from portal.rls import team_scope
from tests.experiments.runs import make_version

pytestmark = pytest.mark.django_db


def version_of(team, answers, rejected=None):
    """A version whose training rows have these answers."""
    version = make_version(team, train=len(answers))
    rows = [
        CanonicalRow(
            place + 2,
            ({"role": "user", "content": f"q{place}"}, {"role": "assistant", "content": answer})
            if answer
            else ({"role": "user", "content": f"q{place}"},),
            id=place,
            rejected=rejected,
        )
        for place, answer in enumerate(answers)
    ]
    write_rows(version.rows_path(Split.TRAIN), rows)
    return version


LABELS = [("billing", "network", "hardware")[place % 3] for place in range(30)]


@pytest.mark.parametrize(
    ("answers", "rejected", "expected"),
    [
        (LABELS, None, "classification"),
        ([str(place / 2) for place in range(20)], None, "regression"),
        (LABELS, "worse", "preference"),
        (['{"queue": "VPN"}', '{"queue": "Mail"}'] * 10, None, "chat"),
        ([f"Please restart device {place} and call again." for place in range(30)], None, "chat"),
        (["always the same"] * 20, None, "chat"),
    ],
)
def test_rows_look_like_a_kind_of_problem(team, answers, rejected, expected):
    with team_scope(team.pk):
        kind, reason = propose_problem(version_of(team, answers, rejected))
    assert kind == expected
    assert reason.names == ("problem_type",)
    assert str(len(answers)) in reason.text % reason.facts


def test_without_rows_nothing_is_proposed(team):
    with team_scope(team.pk):
        version = make_version(team)
        version.rows_path(Split.TRAIN).unlink(missing_ok=True)
        assert propose_problem(version) == ("chat", None)
        assert propose_problem(None) == ("chat", None)


def test_the_form_follows_the_proposal_unless_a_person_chooses(team, client_for, alice):
    with team_scope(team.pk):
        version = version_of(team, LABELS)
        form = RunForm(team=team, initial={"dataset_version": str(version.pk)})
        label, value, sentence = form.reasons()[0]
        assert (label, value) == ("Kind of problem", "Labels: one name out of a fixed list")
        assert sentence == "The first 30 training rows have only 3 different short answers."
        for chosen, expected in (("", "classification"), ("chat", "chat")):
            typed = {"dataset_version": str(version.pk), "recipe": "fast", "hp_problem_type": chosen}
            form = RunForm(typed, team=team)
            assert form._merge({"recipe": "fast", "hp_problem_type": chosen}).problem_type == expected
    page = client_for(alice).get(
        f"/t/{team.slug}/experiments/new/hyperparameters/?dataset_version={version.pk}&recipe=fast"
    )
    text = page.content.decode()
    assert "As the recipe says: Labels: one name out of a fixed list" in text
    assert "have only 3 different short answers" in text
    assert 'hx-trigger="change"' in text, "choosing another kind asks for the recipe's values again"
