"""Three people watch one training in real browsers: points arrive by themselves, and are still there after a reload."""

from __future__ import annotations

import pytest

from experiments import lifecycle
from experiments.models import Run
from tests.experiments.runs import make_version, put_to_work, submit

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.django_db(transaction=True)]

VIEWERS = 3
LOSS_CHART = '[data-chart][data-metrics*="loss="]'
OPEN_NUMBERS = f"document.querySelector('{LOSS_CHART} [data-numbers]').open = true"
READ_NUMBERS = f"""[...document.querySelectorAll('{LOSS_CHART} [data-numbers] tbody tr')].map(
  row => [...row.children].map(cell => cell.textContent))"""
HAS_STEP = f"""step => [...document.querySelectorAll('{LOSS_CHART} [data-numbers] tbody tr')].some(
  row => row.firstChild.textContent === String(step))"""


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model)


def course(first: int, last: int) -> list[dict[str, object]]:
    """Steps of a training, and a validation check after each tenth."""
    figures = {"total_steps": 60, "learning_rate": 1e-3, "tokens_per_s": 412.5, "eta_s": 7.0}
    steps = [{"event": "metric", "step": step, "loss": 3 / step**0.5, **figures} for step in range(first, last + 1)]
    return steps + [
        {"event": "metric", "step": step, "validation_loss": 4 / step**0.5}
        for step in range(first, last + 1)
        if step % 10 == 0
    ]


def numbers(page) -> dict[str, list[str]]:
    """What the chart shows, as its table says it: {step: values}."""
    return {row[0]: row[1:] for row in page.evaluate(READ_NUMBERS)}


def test_three_viewers_see_points_arrive_and_keep_them_after_a_reload(run, node, open_page):
    lease = put_to_work(run, node)
    pages = [open_page(f"/t/service-desk/runs/{run.pk}/") for _ in range(VIEWERS)]
    for number, page in enumerate(pages):
        page.evaluate(f"window.neverReloaded = {number}")
    for last in (20, 40):
        lifecycle.record_events(lease, course(last - 19, last))
        for page in pages:
            page.locator(f"{LOSS_CHART} [data-numbers]").first.wait_for(state="attached")
            sync_api.expect(page.locator(f"{LOSS_CHART} canvas").first).to_be_visible(timeout=10_000)
            page.evaluate(OPEN_NUMBERS)
            page.wait_for_function(HAS_STEP, arg=last, timeout=10_000)
            sync_api.expect(page.locator("#run-status")).to_contain_text(f"{last}", timeout=10_000)
    assert [page.evaluate("window.neverReloaded") for page in pages] == [0, 1, 2]
    shown = [numbers(page) for page in pages]
    assert shown[0] == shown[1] == shown[2]
    assert {"10", "20", "30", "40"} <= shown[0].keys()
    assert shown[0]["40"][:2] == ["0.4743", "0.6325"]
    first = pages[0]
    first.reload(wait_until="networkidle")
    assert first.evaluate("typeof window.neverReloaded") == "undefined"
    first.evaluate(OPEN_NUMBERS)
    first.wait_for_function(HAS_STEP, arg=40, timeout=10_000)
    assert numbers(first) == shown[0]
    assert [page.complaints for page in pages] == [[]] * VIEWERS
