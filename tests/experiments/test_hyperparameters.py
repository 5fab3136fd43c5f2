"""Hyperparameters are declared once, checked strictly and survive every way in and out."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from experiments.hyperparameters import (
    BASE_MODEL_STARTS,
    Hyperparameters,
    config_hash,
    form_fields,
    from_yaml,
    to_yaml,
)

FIELDS = form_fields()
NUMERIC = [field for field in FIELDS if field.kind in ("int", "float")]


# Legal texts in the form in which they are kept.
TEXTS = {"lora_target_names": ["", "q_proj", "down_proj, q_proj"], "stop_texts": ["", "###", "\\n\\n|END"]}


def _values(field):
    """A strategy for legal values of one field."""
    if field.kind == "choice":
        return st.sampled_from([value for value, _label in field.choices])
    if field.kind == "bool":
        return st.booleans()
    if field.kind == "text":
        return st.sampled_from(TEXTS[field.name])
    if field.kind == "int":
        numbers = st.integers(int(field.minimum), int(field.maximum))
    else:
        numbers = st.floats(field.minimum, field.maximum, allow_nan=False)
    return numbers if field.required else st.none() | numbers


def _agree(values) -> bool:
    """Whether no two values contradict each other."""
    chosen = {field.name: field.default for field in FIELDS} | values
    from_base = chosen["lora_init"] in BASE_MODEL_STARTS
    is_full = chosen["training_kind"] == "full"
    compressed = chosen["quantization"] != "none"
    compares = chosen["problem_type"] == "preference"
    if chosen["lora_targets"] == "own" and not chosen["lora_target_names"]:
        return False
    if is_full:
        return not (compressed or compares)
    return not (from_base and (compressed or compares or chosen["dora"] or chosen["lora_r"] > 32))


settings = st.fixed_dictionaries({}, optional={field.name: _values(field) for field in FIELDS}).filter(_agree)


def refused_fields(**values) -> set[str]:
    with pytest.raises(ValidationError) as caught:
        Hyperparameters(**values)
    return {str(error["loc"][0]) for error in caught.value.errors()}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_has_label_help_group_and_default(field):
    assert field.label
    assert field.help.endswith(".")
    assert field.group
    assert field.name in Hyperparameters.model_fields
    if field.kind == "choice":
        assert field.default in dict(field.choices)


@pytest.mark.parametrize("field", NUMERIC, ids=lambda field: field.name)
def test_numbers_outside_their_range_are_refused_by_name(field):
    assert field.minimum is not None
    assert field.maximum is not None
    for bad in (field.minimum - 1, field.maximum + 1, math.nan, math.inf, -math.inf, "many", True, [1]):
        assert refused_fields(**{field.name: bad}) == {field.name}


@pytest.mark.parametrize("field", [f for f in FIELDS if f.kind == "choice"], ids=lambda field: field.name)
def test_unknown_choices_are_refused_by_name(field):
    assert refused_fields(**{field.name: "something else"}) == {field.name}


def test_unknown_fields_are_refused_by_name():
    assert refused_fields(learning_rat=0.1, epochs=-1) == {"learning_rat", "epochs"}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"lora_init": "pissa", "dora": True}, "lora_init"),
        ({"lora_init": "olora", "lora_r": 33}, "lora_init"),
        ({"lora_init": "pissa", "quantization": "nf4"}, "quantization"),
        ({"training_kind": "full", "quantization": "int8"}, "quantization"),
        ({"training_kind": "full", "problem_type": "preference"}, "training_kind"),
        ({"lora_init": "olora", "problem_type": "preference"}, "lora_init"),
        ({"lora_targets": "own"}, "lora_target_names"),
        ({"lora_target_names": "model.layers.0.mlp"}, "lora_target_names"),
        ({"lora_target_names": "q_proj, .*"}, "lora_target_names"),
        ({"lora_target_names": "q" * 401}, "lora_target_names"),
        ({"stop_texts": "a|b|c|d|e"}, "stop_texts"),
        ({"stop_texts": "x" * 33}, "stop_texts"),
        ({"stop_texts": "a\nb"}, "stop_texts"),
    ],
)
def test_contradictions_are_refused_by_name(values, field):
    assert refused_fields(**values) == {field}


def test_kinds_follow_the_declared_types():
    kinds = {field.name: (field.kind, field.required) for field in FIELDS}
    assert kinds["epochs"] == ("float", True)
    assert kinds["max_steps"] == ("int", False)
    assert kinds["max_minutes"] == ("float", False)
    assert kinds["batch_size"] == ("int", True)
    assert kinds["schedule"] == ("choice", True)
    assert kinds["gradient_checkpointing"] == ("bool", True)
    assert kinds["lora_target_names"] == ("text", True)


def test_groups_are_contiguous_and_few_fields_are_basic():
    groups = [field.group for field in FIELDS]
    assert len(set(groups)) == sum(1 for i, group in enumerate(groups) if i == 0 or groups[i - 1] != group)
    assert sum(not field.advanced for field in FIELDS) <= 6


def test_shown_if_names_an_existing_choice():
    by_name = {field.name: field for field in FIELDS}
    for field in FIELDS:
        if field.shown_if:
            other, values = field.shown_if
            assert set(values) <= set(dict(by_name[other].choices))


@pytest.mark.slow
@given(settings)
def test_yaml_and_json_keep_every_value_and_the_hash(values):
    hyperparameters = Hyperparameters(**values)
    assert from_yaml(to_yaml(hyperparameters)) == hyperparameters
    again = Hyperparameters.model_validate(json.loads(hyperparameters.model_dump_json()))
    assert config_hash(again) == config_hash(hyperparameters)


def test_hash_tells_values_apart_and_ignores_spelling():
    assert config_hash(Hyperparameters(epochs=2)) == config_hash(Hyperparameters(epochs=2.0))
    assert config_hash(Hyperparameters(epochs=2)) != config_hash(Hyperparameters(epochs=2.5))


def test_yaml_accepts_exponents_and_refuses_other_shapes():
    assert from_yaml("learning_rate: 2e-4").learning_rate == 2e-4  # YAML 1.1 reads this as a string
    with pytest.raises(ValueError, match="mapping"):
        from_yaml("- 1")
    with pytest.raises(ValueError, match="not valid YAML"):
        from_yaml("{")
    with pytest.raises(ValueError, match="not valid YAML"):
        from_yaml("!!python/object/apply:os.getcwd []")


def test_names_and_stops_are_read_as_people_write_them():
    one = Hyperparameters(lora_targets="own", lora_target_names=" v_proj,q_proj\nq_proj ", stop_texts="\\n\\n|END|")
    assert one.target_names == ("q_proj", "v_proj")
    assert one.stops == ("\n\n", "END")
    assert config_hash(one) == config_hash(Hyperparameters(**one.model_dump() | {"lora_target_names": "q_proj,v_proj"}))
    assert Hyperparameters().target_names == Hyperparameters().stops == ()


def test_hyperparameters_are_frozen():
    with pytest.raises(ValidationError):
        Hyperparameters().epochs = 5
