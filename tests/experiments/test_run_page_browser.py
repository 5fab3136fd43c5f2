"""The run page in a real browser: charts draw, the first rows arrive by themselves, everything fits."""

from __future__ import annotations

import pytest

from experiments import lifecycle
from experiments.models import Run
from portal.rls import team_scope
from tests.browser import fits
from tests.experiments.runs import change, make_version, put_to_work, submit, write_adapter

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.django_db(transaction=True)]

WORDS = ("Route", "this", "ticket:", "the", "printer", "on", "the", "third", "floor", "is", "broken", "again")
ROW = {
    "given": [[f"{word} ", 1] for word in WORDS],
    "learned": [['{"', 1], ["queue", 1], ['":', 1], [' "Hardware', 2], ['"}', 1], ["<|im_end|>", 1]],
    "given_tokens": len(WORDS),
    "learned_tokens": 7,
    "is_cut": False,
}
CONVERSATION = ROW | {
    "more": [{"given": [["\nuser\n", 2], ["Which one?", 3]], "learned": [["The third", 2], ["<|im_end|>", 1]]}],
    "given_tokens": len(WORDS) + 5,
    "learned_tokens": 10,
}
FIGURES = {"learning_rate": 1e-3, "tokens_per_s": 412.5, "memory_bytes": 2.1e9, "cpu_share": 0.97, "grad_norm": 0.8}


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model, name="Does a higher rank help?")


def test_the_run_page_follows_a_training(run, node, open_page):
    lease = put_to_work(run, node)
    page = open_page(f"/t/service-desk/runs/{run.pk}/")
    sync_api.expect(page.locator("#learned-rows")).to_contain_text("as soon as it begins")
    checks = [
        {"event": "metric", "step": step, "validation_loss": 0.4 + 2 / (1 + step / 9)} for step in range(0, 61, 10)
    ]
    course = [
        {
            "event": "metric",
            "step": step,
            "total_steps": 60,
            "loss": 0.3 + 2.2 / step**0.6,
            "padding_share": 0.02,
            **FIGURES,
        }
        for step in range(1, 61)
    ]
    lifecycle.record_events(lease, [{"event": "first_batch", "rows": [CONVERSATION, ROW, ROW]}, *course, *checks])
    sync_api.expect(page.locator("#learned-rows .seen mark").first).to_contain_text("Hardware", timeout=10_000)
    turns = page.locator("#learned-rows .seen").first.locator("mark")
    sync_api.expect(turns).to_have_count(2)
    sync_api.expect(turns.last).to_contain_text("The third")
    sync_api.expect(page.locator("#run-status")).to_contain_text("Learning well", timeout=10_000)
    sync_api.expect(page.locator("[data-chart] canvas").first).to_be_visible(timeout=10_000)
    change(run, status="succeeded", lease_token=None, lease_until=None)
    with team_scope(run.team_id):
        run.team.adapters.create(
            run=run, result_of=run, base_model=run.base_model, step=60, sha256="", size_bytes=19_600_000
        )
    write_adapter(run.folder / "kept" / "step-40", filling=b"0" * 4)
    page.reload(wait_until="networkidle")
    fits(page, "run-page")
