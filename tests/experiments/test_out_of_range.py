"""Out of range is refused by the server for every field by its name, at both doors, and starts nothing."""

from __future__ import annotations

import pytest

from experiments.hyperparameters import FieldInfo, form_fields
from portal.rls import team_scope
from tests.experiments.test_pages import form

pytestmark = pytest.mark.django_db

FIELDS = form_fields()
CHECKED_ALONE = [field for field in FIELDS if field.kind != "text"]
ILLEGAL_TEXTS = {"lora_target_names": "model.layers", "stop_texts": "a|b|c|d|e"}
FORM, API = "/t/service-desk/experiments/new/", "/api/experiments/"
WAYS = ("below", "above", "no number", "infinite")


def wrong_value(field: FieldInfo, way: str) -> object:
    """What a person or a program could send that the declaration does not allow."""
    if field.kind in ("choice", "bool"):
        return {"below": "something else", "above": "-1", "no number": "null", "infinite": "1e999"}[way]
    assert field.minimum is not None
    assert field.maximum is not None
    return {"below": field.minimum - 1, "above": field.maximum + 1, "no number": "many", "infinite": "1e999"}[way]


def ordered(ready_version, base_model, **hyperparameters: object) -> dict[str, object]:
    return {
        "name": "By a program",
        "dataset_version": str(ready_version.pk),
        "base_model": base_model.slug,
        "recipe": "fast",
        "hyperparameters": hyperparameters,
    }


@pytest.fixture(autouse=True)
def nothing_starts(team):
    yield
    with team_scope(team.pk):
        assert not team.runs.exists()


@pytest.mark.parametrize("way", WAYS)
def test_the_form_names_every_field(client_for, alice, ready_version, base_model, way):
    typed = {f"hp_{field.name}": str(wrong_value(field, way)) for field in CHECKED_ALONE}
    answer = client_for(alice).post(FORM, form(ready_version, **typed))
    assert answer.status_code == 400
    assert typed.keys() <= answer.context["form"].errors.keys()


@pytest.mark.parametrize("way", WAYS)
def test_the_api_names_every_field(api, ready_version, base_model, way):
    sent = {field.name: wrong_value(field, way) for field in CHECKED_ALONE}
    answer = api.post(API, ordered(ready_version, base_model, **sent), content_type="application/json")
    assert answer.status_code == 400
    told = answer.content.decode()
    assert [name for name in sent if name not in told] == []


@pytest.mark.parametrize("field", [field for field in FIELDS if field.kind == "int"], ids=lambda field: field.name)
def test_whole_numbers_are_whole(api, ready_version, base_model, field):
    order = ordered(ready_version, base_model, **{field.name: field.minimum + 0.5})
    answer = api.post(API, order, content_type="application/json")
    assert answer.status_code == 400
    assert field.name in answer.content.decode()


@pytest.mark.parametrize("field", [field for field in FIELDS if field.kind == "text"], ids=lambda field: field.name)
def test_texts_are_checked_at_both_doors(client_for, alice, api, ready_version, base_model, field):
    for value in (ILLEGAL_TEXTS[field.name], "x" * (field.longest + 1)):
        answer = client_for(alice).post(FORM, form(ready_version, **{f"hp_{field.name}": value}))
        assert answer.status_code == 400
        assert f"hp_{field.name}" in answer.context["form"].errors
        answer = api.post(
            API, ordered(ready_version, base_model, **{field.name: value}), content_type="application/json"
        )
        assert answer.status_code == 400
        assert field.name in answer.content.decode()


def test_the_same_orders_are_taken_with_legal_values(client_for, alice, api, team, ready_version, base_model):
    """So that what is refused above is refused for its values."""
    legal = {field.name: field.default for field in FIELDS if field.default is not None}
    sent = {f"hp_{name}": str(value) for name, value in legal.items() if not isinstance(value, bool)}
    assert client_for(alice).post(FORM, form(ready_version, **sent)).status_code == 302
    order = ordered(ready_version, base_model, **legal)
    assert api.post(API, order, content_type="application/json").status_code == 201
    with team_scope(team.pk):
        assert team.runs.count() == 2
        team.runs.all().delete()
