"""The result is a PEFT folder that plain peft loads, with the same logits as in training."""

import json

import pytest
import torch

from gpu_worker.trainer.learner import make_learner
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
