"""A run goes on from its own checkpoints, those of earlier releases included, and from no others."""

import json
from hashlib import sha256

import pytest

from gpu_worker.trainer import origin
from gpu_worker.trainer.origin import Origin
from gpu_worker.trainer.spec import read_spec
from gpu_worker.trainer.storage import sha256_of
from tests.gpu_worker.trainer.jobs import only, run_here, ticket_rows, write_job

# All that releases of hashes knew, but for what they wrote only where it was chosen.
NEWER = origin._IN_EVERY_HASH
OLDER = NEWER - {"learned_turns"}
TURNS = [
    {"role": role, "content": content}
    for role, content in (("user", "Broken"), ("assistant", "What?"), ("user", "Printer"), ("assistant", "Hardware"))
]


@pytest.fixture
def job(tmp_path, base_model):
    def job(folder="job", *, more=(), **chosen):
        train = [*ticket_rows(8), *({"row": 99, "messages": messages} for messages in more)]
        return write_job(tmp_path / folder, base_model, train=train, validation=ticket_rows(3, seed=9), **chosen)

    return job


def origin_of(folder) -> Origin:
    return Origin(read_spec(folder), folder)


def hashed(folder, known: set[str]) -> dict:
    """The manifest's part that an earlier release wrote about what it trained."""
    chosen = read_spec(folder).hyperparameters.model_dump(mode="json", include=known)
    files = {path.name: sha256_of(path) for path in (folder.train_rows, folder.validation_rows)}
    content = {"base_model": ["tiny", "1"], "hyperparameters": chosen, "data": files}
    return {"identity": sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


@pytest.mark.parametrize("known", [NEWER, OLDER], ids=["newer", "older"])
def test_checkpoints_with_a_hash_of_everything_are_ours(job, known):
    assert len(NEWER) == 41
    manifest = hashed(job(), known)
    assert origin_of(job()).made(manifest)
    assert origin_of(job(stop_texts="x", max_minutes=5)).made(manifest)
    assert not origin_of(job("other", adam_beta2=0.9)).made(manifest)
    assert not origin_of(job("other", seed=3)).made(manifest)
    assert not origin_of(job("more", more=[TURNS[:2]])).made(manifest)


def test_what_older_releases_left_out_of_conversations_is_not_gone_on_from(job):
    """They learned the last answer only, so what is the same now is that choice, and rows of one answer."""
    several, weighed = [TURNS], [[TURNS[0], {**TURNS[1], "weight": 0}, *TURNS[2:]]]
    assert not origin_of(job("a", more=several)).made(hashed(job("a", more=several), OLDER))
    last = job("b", more=several, learned_turns="last")
    assert origin_of(last).made(hashed(last, OLDER))
    assert origin_of(job("c", more=weighed)).made(hashed(job("c", more=weighed), OLDER))


def test_a_setting_that_a_checkpoint_does_not_know_has_to_be_the_usual_one(job):
    manifest = origin_of(job()).manifest()
    for name, other in (("lora_alpha", 3.0), ("learned_turns", "last"), ("adam_beta1", 0.5), ("seed", 5)):
        before = {**manifest, "settings": {key: value for key, value in manifest["settings"].items() if key != name}}
        assert origin_of(job()).made(before)
        assert not origin_of(job("other", **{name: other})).made(before)


def test_settings_that_are_gone_leave_checkpoints_ours(job):
    manifest = origin_of(job()).manifest()
    assert origin_of(job()).made({**manifest, "settings": {**manifest["settings"], "given_up": 7}})


def test_what_a_usual_value_was_does_not_matter(job):
    """A checkpoint names it, so a new default makes no other run of an old one."""
    manifest = json.loads(json.dumps(origin_of(job(learning_rate=0.0123)).manifest()))
    assert manifest["settings"]["learning_rate"] == 0.0123
    assert origin_of(job(learning_rate=0.0123)).made(manifest)
    assert not origin_of(job("other")).made(manifest)


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_of_before_its_settings_were_named(job):
    chosen = {"batch_size": 4, "epochs": 1, "checkpoint_every_steps": 1}
    run_here(job(**chosen))
    for path in job(**chosen).checkpoints.glob("*/manifest.json"):
        content = json.loads(path.read_text())
        kept = {name: content[name] for name in ("format", "step", "files")}
        path.write_text(json.dumps({**kept, **hashed(job(**chosen), OLDER)}))
    _, events = run_here(job(resume=True, **chosen))
    assert only(events, "started")["resumed_from_step"] == 2
