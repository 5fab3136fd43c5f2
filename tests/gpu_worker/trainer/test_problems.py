"""Every problem type moves its own metric, and leaves beside the adapter what its answers are made of."""

import json
import math
import random
from pathlib import Path

import pytest
import torch

from datasets_app.learned_rows import EncodedRow
from experiments.hyperparameters import Hyperparameters
from experiments.problem_file import PROBLEM_FILE, Problem, read_problem
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.problems.preference import Pairs, encode, losses
from gpu_worker.trainer.problems.pretraining import pieces
from gpu_worker.trainer.rows import EncodedRows
from gpu_worker.trainer.token_cache import cached
from tests.gpu_worker.trainer.jobs import only, run_here, validation_losses, write_job

pytestmark = pytest.mark.slow
# One label begins like another, one is not ASCII, one has quotes: a name is a name.
LABELS = (
    "Card", "Card lost", "Card not accepted", "Top up", "Kündigung", 'Say "hi"', "Refund", "Exchange rate", "PIN",
    "Fee, monthly", "Перевод", "Limit\\cap",
)  # fmt: skip


def row(number: int, prompt: str, answer: str, **more: str) -> dict:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"row": number + 2, "messages": messages, **more}


def labelled(count: int, seed: int = 0) -> list[dict]:
    chance = random.Random(seed)
    picked = [LABELS[number % len(LABELS)] for number in range(count)]
    return [
        row(number, f"{'abcdefghijkl'[LABELS.index(label)] * 6} {chance.randint(0, 9)}", label)
        for number, label in enumerate(picked)
    ]


def opened(base_model: Path, renderer, adapter: Path):
    """The engine with a trained adapter, and the scorer of texts."""
    core = build_core(base_model, renderer, EngineConfig())
    core.add_adapter("tuned", core.read_adapter(adapter))
    return core.find_adapter("tuned"), core.likelihoods()


def test_twelve_label_names_are_learned_and_stand_in_the_artefact(tmp_path, base_model, renderer):
    job = write_job(
        tmp_path, base_model, train=labelled(96), problem_type="classification",
        epochs=25, learning_rate=1e-2, batch_size=16, micro_batch_size=16,
    )  # fmt: skip
    code, events = run_here(job)
    assert code == 0
    assert only(events, "started")["path"] == "fast"
    problem = read_problem(job.adapter)
    assert problem == Problem("classification", labels=tuple(sorted(LABELS)))
    adapter, scorer = opened(base_model, renderer, job.adapter)
    right = 0
    for asked in (held_out := labelled(24, seed=9)):
        prompt = renderer.prompt_ids(asked["messages"][:1])
        answers = [renderer.row([asked["messages"][0], {"role": "assistant", "content": one}]) for one in LABELS]
        logprobs = scorer.of(prompt, [answer.token_ids[answer.prompt_length :] for answer in answers], adapter)
        likeliest = max(zip(logprobs, LABELS, strict=True), key=lambda pair: sum(pair[0]))[1]
        right += likeliest == asked["messages"][1]["content"]
    assert right / len(held_out) > 0.4  # chance: 1/12


def test_one_label_alone_is_refused(tmp_path, base_model):
    job = write_job(tmp_path, base_model, train=[row(n, f"t{n}", "A") for n in range(4)], problem_type="classification")
    with pytest.raises(TrainingError, match="same label"):
        run_here(job)


def test_a_chat_adapter_stays_a_plain_peft_folder(tmp_path, base_model):
    job = write_job(tmp_path, base_model, train=labelled(4), max_steps=1)
    assert run_here(job)[0] == 0
    assert not (job.adapter / PROBLEM_FILE).exists()


@pytest.mark.parametrize(
    "content",
    [
        "no json", "[]", {"format": 2}, {"problem_type": "magic"}, {"problem_type": "classification"},
        {"problem_type": "classification", "labels": [1]}, {"problem_type": "regression", "decimals": 99},
        {"problem_type": "regression", "minimum": "0"}, {"problem_type": "regression", "surprise": 1},
    ],
)  # fmt: skip
def test_a_problem_file_of_a_stranger_is_refused(tmp_path, content):
    text = (
        content
        if isinstance(content, str)
        else json.dumps({"format": 1, **content} if isinstance(content, dict) else content)
    )
    (tmp_path / PROBLEM_FILE).write_text(text)
    with pytest.raises(ValueError, match=PROBLEM_FILE):
        read_problem(tmp_path)


# --- preferences -------------------------------------------------------------------------------------------------


def preferences(count: int) -> list[dict]:
    """The better answer is always short and polite, the worse one rude; the prompts tell nothing."""
    return [row(n, f"Ticket {n % 7}: printer", "Yes, at once.", rejected="No. Go away!") for n in range(count)]


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "simpo", "orpo", "cpo"])
def test_every_preference_loss_raises_the_reward_margin(tmp_path, base_model, renderer, loss):
    beta = 2.0 if loss == "simpo" else 0.1
    job = write_job(
        tmp_path, base_model, train=preferences(16), validation=preferences(4), problem_type="preference",
        preference_loss=loss, preference_beta=beta, epochs=8, learning_rate=2e-3, batch_size=8,
    )  # fmt: skip
    code, events = run_here(job)
    assert code == 0
    assert only(events, "started")["path"] == "general"
    measured = validation_losses(events)
    assert measured[max(measured)] < measured[0]
    if loss == "sigmoid":  # a fresh adapter changes nothing, so both answers are as likely as before: log 2
        assert measured[0] == pytest.approx(math.log(2), abs=1e-5)
    assert read_problem(job.adapter) == Problem("preference", loss=loss, beta=beta)
    adapter, scorer = opened(base_model, renderer, job.adapter)
    texts = ("Yes, at once.", "No. Go away!")
    asked = {"role": "user", "content": "Ticket 3: printer"}
    rows = [renderer.row([asked, {"role": "assistant", "content": text}]) for text in texts]
    answers = [one.token_ids[one.prompt_length :] for one in rows]
    better, worse = (sum(one) for one in scorer.of(renderer.prompt_ids([asked]), answers, adapter))
    better_before, worse_before = (sum(one) for one in scorer.of(renderer.prompt_ids([asked]), answers, None))
    assert (better - better_before) - (worse - worse_before) > 1


def test_preference_losses_are_their_formulas():
    tuned = Pairs(*(torch.tensor([value]) for value in (-4.0, -6.0, 2.0, 3.0)))
    reference = Pairs(*(torch.tensor([value]) for value in (-5.0, -5.5, 2.0, 3.0)))
    margin = (-4.0 + 5.0) - (-6.0 + 5.5)

    def found(loss: str, beta: float = 0.5) -> float:
        chosen = Hyperparameters(preference_loss=loss, preference_beta=beta, preference_margin=0.25)
        return float(losses(tuned, reference, chosen))

    def softplus(value: float) -> float:
        return math.log1p(math.exp(value))

    assert found("sigmoid") == pytest.approx(softplus(-0.5 * margin))
    smoothed = Hyperparameters(preference_beta=0.5, preference_label_smoothing=0.2)
    both_ways = 0.8 * softplus(-0.5 * margin) + 0.2 * softplus(0.5 * margin)
    assert float(losses(tuned, reference, smoothed)) == pytest.approx(both_ways)
    assert found("ipo") == pytest.approx((margin - 1) ** 2)
    assert found("hinge") == pytest.approx(max(0, 1 - 0.5 * margin))
    assert found("simpo") == pytest.approx(softplus(-(0.5 * (-2 + 2) - 0.25)))
    odds = math.log(math.exp(-2) / (1 - math.exp(-2)))
    assert found("cpo") == pytest.approx(2 + softplus(-0.5 * (-4 + 6)))
    assert found("orpo") == pytest.approx(2 + 0.5 * softplus(-(odds - odds)))


def test_both_answers_follow_the_same_prompt_when_it_is_cut(tmp_path, base_model, renderer):
    long = row(1, "word " * 200, "Yes.", rejected="No, and this is a much longer answer than the other one is.")
    job = write_job(tmp_path, base_model, train=[long])
    chosen = Hyperparameters(problem_type="preference", max_length=80)
    found = encode(job.train_rows, renderer, chosen)
    (only_row,) = found.rows
    assert found.truncated == 1
    assert only_row.prompt_length + len(only_row.rejected_ids) == 80
    assert renderer.decode(only_row.token_ids[only_row.prompt_length :]) == "Yes."
    assert renderer.decode(only_row.rejected_ids) == long["rejected"]


def test_a_row_without_a_worse_answer_is_refused(tmp_path, base_model):
    job = write_job(tmp_path, base_model, train=labelled(4), problem_type="preference")
    with pytest.raises(TrainingError, match="Row 2 has no worse answer"):
        run_here(job)


# --- plain text and numbers --------------------------------------------------------------------------------------


def documents(count: int) -> list[dict]:
    return [row(n, f"The printer on floor {n % 5} does not print. " * 6, "") for n in range(count)]


@pytest.mark.parametrize("path", ["auto", "general"])
def test_plain_text_is_learned_in_pieces_on_both_ways(tmp_path, base_model, path):
    job = write_job(
        tmp_path, base_model, train=documents(12), validation=documents(2), problem_type="pretraining", path=path,
        epochs=4, learning_rate=5e-3, batch_size=8, max_length=40,
    )  # fmt: skip
    code, events = run_here(job)
    assert code == 0
    started = only(events, "started")
    assert started["path"] == ("fast" if path == "auto" else "general")
    assert started["rows"] > 12
    assert started["label_tokens_per_epoch"] == started["tokens_per_epoch"] - started["rows"]
    measured = validation_losses(events)
    assert measured[max(measured)] < measured[0] - 1
    assert read_problem(job.adapter) == Problem("pretraining")


def test_every_token_of_a_text_is_predicted_once(renderer):
    text = "A text of some length, cut into pieces. " * 5
    whole = [*renderer.encode(text), renderer.eos_id]
    for length in (2, 7, len(whole) - 1, len(whole), 1000):
        cut = pieces(text, renderer, length)
        assert [token for piece in cut for token in piece[1:]] == whole[1:]
        assert max(map(len, cut)) <= length
        assert min(map(len, cut)) >= 2


def test_a_regression_comes_closer_to_the_numbers(tmp_path, base_model, renderer):
    chance = random.Random(4)
    # The number is in the prompt, in other signs.
    numbers = [chance.randint(1, 9) for _ in range(72)]
    rows = [row(n, "x" * number + f" {n % 3}", f"{number}.5") for n, number in enumerate(numbers)]
    job = write_job(
        tmp_path, base_model, train=rows, problem_type="regression",
        epochs=20, learning_rate=1e-2, batch_size=12, micro_batch_size=16,
    )  # fmt: skip
    assert run_here(job)[0] == 0
    problem = read_problem(job.adapter)
    assert problem == Problem("regression", decimals=1, minimum=1.5, maximum=9.5)
    adapter, scorer = opened(base_model, renderer, job.adapter)
    errors = {None: 0.0, adapter: 0.0}
    candidates = [f"{number}.5" for number in range(1, 10)]
    for asked in rows[:24]:
        answers = [renderer.row([asked["messages"][0], {"role": "assistant", "content": one}]) for one in candidates]
        texts = [answer.token_ids[answer.prompt_length :] for answer in answers]
        for subject in errors:
            found = [sum(one) for one in scorer.of(renderer.prompt_ids(asked["messages"][:1]), texts, subject)]
            given = float(candidates[found.index(max(found))])
            errors[subject] += abs(given - float(asked["messages"][1]["content"])) / 24
    assert errors[adapter] < 0.6 * errors[None]


def test_both_answers_are_remembered_with_the_tokens_of_a_version(tmp_path):
    rows = EncodedRows((EncodedRow((1, 2, 3), 1, (4, 5)), EncodedRow((6, 7), 1)), 1, 0)
    assert cached(tmp_path, "rows", lambda: rows) == rows
    assert cached(tmp_path, "rows", lambda: pytest.fail("not remembered")) == rows


def test_noise_on_the_inputs_knows_both_answers(tmp_path, base_model):
    job = write_job(
        tmp_path, base_model, train=preferences(4), problem_type="preference", neftune_alpha=5.0, max_steps=1
    )
    assert run_here(job)[0] == 0
