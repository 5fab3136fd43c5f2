"""What a node would refuse is refused in the form and the API, with the same sentence, before a run waits."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from datasets_app.models import DoctorReport
from experiments.hyperparameters import Hyperparameters
from experiments.paths import contradiction, reason_for_general_path
from experiments.possible import require_possible
from gpu_worker.trainer.fast.support import reason_against
from gpu_worker.trainer.spec import read_spec
from portal.errors import InvalidInput
from portal.models import Node
from portal.rls import team_scope
from tests.gpu_worker.trainer.jobs import ticket_rows, write_job
from tests.tiny_model import make_tiny_model

EIGHT_BIT = "8-bit arithmetic cannot be used: "
REFUSED = [
    ({"precision": "int8", "lora_dropout": 0.1}, "precision", f"{EIGHT_BIT}LoRA dropout is above 0"),
    ({"precision": "int8", "neftune_alpha": 5.0}, "precision", f"{EIGHT_BIT}noise on the input"),
    ({"precision": "int8", "dora": True}, "precision", f"{EIGHT_BIT}DoRA is chosen"),
    ({"precision": "int8", "frozen_layers": 1}, "precision", f"{EIGHT_BIT}lower layers are left alone"),
    ({"precision": "int8", "quantization": "nf4"}, "precision", f"{EIGHT_BIT}the base model is compressed"),
    ({"precision": "int8", "training_kind": "full"}, "precision", f"{EIGHT_BIT}all layers are trained"),
    ({"frozen_layers": 2}, "frozen_layers", "has 2 layers, so at most 1 of them"),
    ({"divide_base_model": "yes", "training_kind": "full"}, "divide_base_model", "divided among processes: all layers"),
    ({"divide_base_model": "yes", "quantization": "nf4"}, "divide_base_model", "processes: it is compressed"),
    ({"divide_base_model": "yes", "dora": True}, "divide_base_model", "processes: DoRA measures whole weights"),
    ({"max_length": 16}, "max_length", "The longest answer has 16 tokens and does not fit into 16"),
]
ALLOWED = [{"precision": "int8"}, {"frozen_layers": 1}, {"divide_base_model": "yes"}, {"max_length": 17}]


@pytest.fixture
def counted(team, ready_version, base_model):
    figures = {"mean": 10.0, "max": 500}
    tokens = {"row": figures, "answer": figures, "longest_answers": {"train": 16, "validation": 500}}
    with team_scope(team.pk):
        report = DoctorReport(
            team=team, version=ready_version, base_model=base_model, status="ready", report={"tokens": tokens}
        )
        report.save(force_insert=True)
    return ready_version


def by_form(client, version, chosen):
    typed = {"name": "By form", "dataset_version": version.pk, "base_model": "tiny", "recipe": "fast"}
    typed |= {f"hp_{name}": "yes" if value is True else value for name, value in chosen.items()}
    return client.post("/t/service-desk/experiments/new/", typed)


def by_api(api, version, chosen):
    sent = {"name": "By API", "dataset_version": str(version.pk), "base_model": "tiny", "recipe": "fast"}
    return api.post("/api/experiments/", {**sent, "hyperparameters": chosen}, content_type="application/json")


@pytest.mark.django_db
@pytest.mark.parametrize(("chosen", "param", "told"), REFUSED)
def test_a_node_is_not_asked_for_what_it_would_refuse(client_for, alice, api, team, counted, chosen, param, told):
    page = by_form(client_for(alice), counted, chosen)
    assert page.status_code == 400
    assert told in page.content.decode()
    answer = by_api(api, counted, chosen)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert told in error["message"]
    with team_scope(team.pk):
        assert not team.runs.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("chosen", ALLOWED, ids="-".join)
def test_what_stands_just_inside_is_taken(client_for, alice, api, counted, chosen):
    assert by_form(client_for(alice), counted, chosen).status_code == 302
    assert by_api(api, counted, chosen).status_code == 201


@pytest.mark.django_db
def test_eight_bit_arithmetic_waits_for_no_node_when_all_have_gpus(api, counted, node):
    Node.objects.update(device="2 × NVIDIA L4")
    refused = by_api(api, counted, {"precision": "int8"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "precision")
    Node.objects.update(device="CPU · 2 × Xeon")
    assert by_api(api, counted, {"precision": "int8"}).status_code == 201


@pytest.mark.django_db
def test_what_is_known_is_looked_up_once_for_all_runs_of_a_sweep(team, counted, base_model, node):
    def asked(runs):
        with team_scope(team.pk), CaptureQueriesContext(connection) as sent:
            require_possible(runs, base_model, counted)
        return len(sent)

    several = [Hyperparameters(seed=number, frozen_layers=1) for number in range(20)]
    assert asked(several) == asked(several[:1])
    with team_scope(team.pk), pytest.raises(InvalidInput) as refused:
        require_possible([*several, Hyperparameters(max_length=16)], base_model, counted)
    assert refused.value.param == "max_length", "each of them is looked at"


def test_preferences_are_not_learned_in_eight_bit():
    against = contradiction(Hyperparameters(precision="int8", problem_type="preference"))
    assert against is not None
    assert against.sentence == f"{EIGHT_BIT}preferences compare two answers at once. Choose 32 bit, or change that."


def test_the_trainer_goes_by_the_same_rule(tmp_path):
    base_model = make_tiny_model(tmp_path / "tiny")
    for number, (chosen, param, _told) in enumerate(REFUSED):
        if param == "precision":
            spec = read_spec(write_job(tmp_path / str(number), base_model, train=ticket_rows(2), **chosen))
            assert reason_against(spec, device="cpu", longest_row=20) == reason_for_general_path(spec.hyperparameters)
