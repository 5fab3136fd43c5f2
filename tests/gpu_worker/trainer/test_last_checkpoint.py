"""However often checkpoints are written, the last one is the state after the last step."""

import random

import pytest
import torch
from safetensors.torch import load_file

from gpu_worker.trainer import checkpoints
from gpu_worker.trainer.origin import Origin
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import only, run_here, ticket_rows, write_job

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", range(20))
def test_the_last_checkpoint_is_the_state_after_the_last_step(tmp_path, base_model, number):
    chance = random.Random(number)
    job = write_job(
        tmp_path,
        base_model,
        train=ticket_rows(12),
        checkpoint_every_steps=chance.randint(1, 12),
        batch_size=chance.choice([1, 2, 3, 5]),
        max_steps=chance.randint(1, 11),
        epochs=3,
        lora_r=2,
    )
    code, events = run_here(job)
    finished = only(events, "finished")
    newest = checkpoints.newest_first(job.checkpoints)[0]
    state = checkpoints.load(newest, belongs_to=Origin(read_spec(job), job))
    kept = load_file(job.adapter / "adapter_model.safetensors")
    assert code == 0
    assert checkpoints.step_of(newest) == state.progress.step == finished["step"]
    assert finished["step"] == max(event["step"] for event in events if "loss" in event)
    assert state.adapter.keys() == kept.keys()
    assert all(torch.equal(state.adapter[name], kept[name]) for name in kept)
