"""The result is a PEFT folder that plain peft loads, with the same logits as in training."""

import json

import pytest
import torch

from datasets_app.learned_rows import EncodedRow
from gpu_worker.benchmarks.tiny_model import VOCABULARY_SIZE
from gpu_worker.trainer.learner import LendsModel, make_learner
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import only, run_here, ticket_rows, write_job

# The first of them waits for PEFT and transformers to be imported.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", ["auto", "general"])
@pytest.mark.parametrize("targets", ["all-linear", "query-value"])
def test_saved_and_reloaded_adapter_gives_the_loss_that_was_reported(tmp_path, base_model, renderer, path, targets):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = write_job(
        tmp_path, base_model, train=ticket_rows(16), validation=ticket_rows(4, seed=9), path=path, epochs=2,
        lora_targets=targets, learning_rate=0.01, lora_r=4, lora_alpha=10,
    )  # fmt: skip
    _, events = run_here(job)
    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, job.adapter).eval()
    spec = read_spec(job)
    rows = encode_file(job.validation_rows, renderer, spec.hyperparameters).rows
    total = 0.0
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.token_ids])).logits[0]
        labels = torch.tensor(row.token_ids[row.prompt_length :])
        total += float(torch.nn.functional.cross_entropy(logits[row.prompt_length - 1 : -1], labels, reduction="sum"))
    reported = only(events, "finished")["validation_loss"]
    assert total / sum(row.label_tokens for row in rows) == pytest.approx(reported, rel=1e-5)


KINDS = [
    {},
    {"path": "general"},
    {"rslora": True, "lora_r": 8},
    {"dora": True},
    {"lora_init": "pissa"},
    {"lora_init": "olora"},
    {"training_kind": "full", "learning_rate": 1e-3},
]


@pytest.mark.parametrize("chosen", KINDS, ids=str)
def test_plain_peft_gives_the_logits_of_the_model_that_learned(tmp_path, base_model, renderer, monkeypatch, chosen):
    """All log probabilities of all places: those of the learner, as it stood at the end, and those of the folder."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    learners = []

    def make_and_keep(spec, **known):
        learners.append(make_learner(spec, **known))
        return learners[0]

    monkeypatch.setattr("gpu_worker.trainer.job.make_learner", make_and_keep)
    common = {"epochs": 2, "learning_rate": 0.01, "lora_r": 4, "lora_alpha": 10, "sample_rows": 0}
    job = write_job(tmp_path, base_model, train=ticket_rows(16), **common | chosen)
    run_here(job)
    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, job.adapter).eval()
    token_ids = torch.tensor([renderer.row(ticket_rows(1, seed=9)[0]["messages"]).token_ids])
    with torch.no_grad():
        plain = model(input_ids=token_ids).logits[0].log_softmax(-1)
        untuned = AutoModelForCausalLM.from_pretrained(base_model)(input_ids=token_ids).logits[0].log_softmax(-1)
    learned = _log_probabilities(learners[0], token_ids)
    torch.testing.assert_close(learned, plain[-len(learned) :], atol=2e-3, rtol=1e-4)
    assert not torch.allclose(plain, untuned, atol=0.1)


def _log_probabilities(learner, token_ids: torch.Tensor) -> torch.Tensor:
    """What the learner finds likely: at all places, or where it tells no logits at the last one, token by token."""
    if isinstance(learner, LendsModel):
        with learner.lend_model() as model:
            return model(input_ids=token_ids).logits[0].log_softmax(-1)
    prompt = tuple(token_ids[0].tolist())
    words = range(VOCABULARY_SIZE)
    return -torch.tensor([[learner.loss_sum([EncodedRow((*prompt, word), len(prompt))]) for word in words]])


def test_both_ways_write_the_same_configuration(tmp_path, base_model):
    from peft import LoraConfig

    configs = []
    for path in ("auto", "general"):
        job = write_job(tmp_path / path, base_model, train=ticket_rows(4), path=path, epochs=0.5)
        run_here(job)
        configs.append(LoraConfig.from_pretrained(job.adapter).to_dict())
        text = (job.adapter / "adapter_config.json").read_text()
        assert str(base_model) not in text
        assert json.loads(text)["base_model_name_or_path"] == "tiny"
    assert configs[0] == configs[1]


def test_tensor_names_and_shapes_are_those_of_peft(tmp_path, base_model):
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    learner = make_learner(read_spec(write_job(tmp_path, base_model, train=ticket_rows(1))), longest_row=50)
    ours = learner.parameters.export(learner.parameters.values)
    base = AutoModelForCausalLM.from_pretrained(base_model)
    peft = get_peft_model_state_dict(get_peft_model(base, LoraConfig(r=16, target_modules="all-linear")))
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in peft.items()}
