"""Recipes follow rows, lengths, kind of problem and hardware, and say why."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets_app.models import DoctorReport
from datasets_app.rows import CanonicalRow
from datasets_app.store import write_rows
from experiments.recipes import RECIPES, Situation, advise
from experiments.situations import situation_of
from portal.models import Node
from portal.rls import team_scope

BANKING = Situation(rows=2_000, row_tokens=77, longest_row=190, answer_tokens=26, longest_answer=41, counted=True)
situations = st.builds(
    Situation,
    rows=st.integers(0, 10_000_000),
    row_tokens=st.none() | st.floats(2, 30_000),
    longest_row=st.none() | st.integers(2, 100_000),
    longest_answer=st.none() | st.integers(1, 100_000),
    counted=st.booleans(),
    problem_type=st.sampled_from(["chat", "classification", "regression", "preference", "pretraining"]),
    parameters=st.integers(1_000, 10**11),
    context_tokens=st.integers(128, 10**6),
    device=st.sampled_from(["cpu", "cuda"]),
    cores=st.integers(1, 256),
    memory_bytes=st.none() | st.integers(2**30, 2**40),
)


@pytest.mark.parametrize("name", RECIPES)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(situation=situations)
def test_recipes_fit_any_situation(name, situation):
    advice = advise(name, situation)
    chosen = advice.hyperparameters
    assert chosen.problem_type == situation.problem_type
    assert chosen.max_length <= max(256, situation.context_tokens)
    for reason in advice.reasons:
        assert set(reason.names) <= set(type(chosen).model_fields)
        assert "%(" not in reason.text % reason.facts


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(situation=situations)
def test_better_recipes_never_train_less(situation):
    fast, balanced, best = (advise(name, situation).hyperparameters.epochs for name in ("fast", "balanced", "best"))
    assert fast <= balanced <= best


def test_fast_reads_the_demo_table_about_twice():
    assert 1.7 <= advise("fast", Situation(rows=400)).hyperparameters.epochs <= 2.3


def test_longer_rows_are_read_less_often_and_more_cores_read_more():
    short, long = (advise("balanced", Situation(rows=2_000, row_tokens=n)).hyperparameters for n in (50, 150))
    assert short.epochs > long.epochs
    many = advise("balanced", Situation(rows=2_000, row_tokens=150, cores=16)).hyperparameters
    assert many.epochs > long.epochs


def test_the_longest_row_is_not_cut_where_it_was_counted_and_there_is_room():
    assert advise("balanced", BANKING).hyperparameters.max_length == 256
    counted = Situation(rows=100, longest_row=1_900, counted=True, context_tokens=8_192)
    assert advise("balanced", counted).hyperparameters.max_length == 1_920
    guessed = Situation(rows=100, longest_row=900, context_tokens=8_192)
    assert advise("balanced", guessed).hyperparameters.max_length >= 1_800
    assert 41 < advise("balanced", BANKING).hyperparameters.max_new_tokens <= 96


def test_hardware_decides_about_arithmetic_and_compression():
    assert advise("balanced", BANKING).hyperparameters.precision == "fastest"
    large = {"rows": 1_000, "parameters": 7_000_000_000, "device": "cuda"}
    assert advise("balanced", Situation(**large, memory_bytes=12 * 2**30)).hyperparameters.quantization == "nf4"
    assert advise("balanced", Situation(**large, memory_bytes=80 * 2**30)).hyperparameters.quantization == "none"


def test_small_models_and_preferences_have_rates_of_their_own():
    rates = [
        advise("balanced", Situation(rows=100, parameters=size)).hyperparameters.learning_rate
        for size in (135_000_000, 1_000_000_000, 7_000_000_000)
    ]
    assert rates == sorted(rates, reverse=True)
    preference = advise("balanced", Situation(rows=100, problem_type="preference")).hyperparameters
    assert preference.learning_rate == pytest.approx(1e-4)


def test_small_models_learn_short_answers_in_larger_steps():
    long = Situation(rows=2_000, row_tokens=600, answer_tokens=400)
    rates = [advise("best", situation).hyperparameters.learning_rate for situation in (BANKING, long)]
    assert rates == [pytest.approx(2e-3), pytest.approx(1e-3)]


def test_best_keeps_the_last_state_of_short_answers_and_the_best_of_long_ones():
    assert advise("best", BANKING).hyperparameters.keep_weights == "last"
    letters = Situation(rows=2_000, row_tokens=600, answer_tokens=400)
    assert advise("best", letters).hyperparameters.keep_weights == "best"


@pytest.mark.django_db
def test_lengths_come_from_the_newest_examination_else_from_the_letters(team, ready_version, base_model):
    with team_scope(team.pk):
        guessed = situation_of(ready_version, base_model)
        assert guessed.rows == ready_version.train_rows
        assert guessed.row_tokens > 10
        assert not guessed.counted
        for mean in (33.0, 44.5):
            tokens = {"row": {"mean": mean, "max": 90}, "answer": {"mean": 9.0, "max": 12}}
            DoctorReport(team=team, version=ready_version, status="ready", report={"tokens": tokens, "text": "ä"}).save(
                force_insert=True
            )
        counted = situation_of(ready_version, base_model)
    assert (counted.row_tokens, counted.longest_row, counted.longest_answer) == (44.5, 90, 12)
    assert counted.counted


@pytest.mark.django_db
def test_every_learned_answer_of_a_conversation_counts(team, ready_version, base_model):
    turns = ("Broken", "Which printer do you mean? " * 20, "Floor 3", "IT")
    messages = tuple({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns))
    write_rows(ready_version.rows_path("train"), [CanonicalRow(2, messages, 1)])
    with team_scope(team.pk):
        guessed = situation_of(ready_version, base_model)
        letters = [len(text) / 4 for text in turns]
        assert guessed.answer_tokens == pytest.approx((letters[1] + letters[3]) / 2 + 1, abs=0.1)
        assert guessed.longest_row == pytest.approx(sum(letters), abs=20)
        assert not guessed.has_short_answers
        tokens = {
            "row": {"mean": 150.0, "max": 160},
            "prompt": {"mean": 120.0},
            "learned": {"mean": 145.0},
            "answer": {"mean": 72.5, "max": 140},
        }
        DoctorReport(team=team, version=ready_version, status="ready", report={"tokens": tokens}).save(
            force_insert=True
        )
        counted = situation_of(ready_version, base_model)
    # Where a template tells earlier turns otherwise, more is computed than the longest row has.
    assert (counted.row_tokens, counted.longest_row) == (265.0, 160)
    assert (counted.answer_tokens, counted.longest_answer) == (72.5, 140)
    assert not counted.has_short_answers


@pytest.mark.django_db
def test_the_nodes_decide_about_the_device(team, node, base_model):
    for device, gpus, memory, expected in (
        ("CPU · 8 × AMD EPYC", 0, 2**35, ("cpu", 8, None)),
        ("1 × NVIDIA L4", 1, 2**34, ("cuda", 2, 2**34)),
        # what each GPU has decides: a base model is not spread over them
        ("4 × NVIDIA L4", 4, 2**36, ("cuda", 2, 2**34)),
    ):
        Node.objects.update(device=device, gpus=gpus, memory_bytes=memory)
        found = situation_of(None, base_model)
        assert (found.device, found.cores, found.memory_bytes) == expected


@pytest.mark.django_db
def test_the_form_says_why(client_for, alice, team, ready_version, base_model):
    part = "/t/service-desk/experiments/new/hyperparameters/"
    page = client_for(alice).get(part, {"recipe": "best", "dataset_version": ready_version.pk}).content.decode()
    assert "Why these values" in page
    assert "8-bit arithmetic is much faster" in page
    assert f"{ready_version.train_rows} rows of about" in page
    preference = {"recipe": "best", "dataset_version": ready_version.pk, "hp_problem_type": "preference"}
    assert "Preferences want a tenth" in client_for(alice).get(part, preference).content.decode()
