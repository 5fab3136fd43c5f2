"""The main job in a browser: sign in, import, learn, look at quality, chat, deploy, create a token, call the model.

With PICTURES=docs/pictures the pictures of the README are made anew from what this journey shows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import OVERFLOWING, complaints_of
from tests.journeys.installation import Installation

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.slow, pytest.mark.browser]
QUICK = {"hp_max_steps": "8", "hp_evaluation_rows": "6", "hp_max_new_tokens": "40", "hp_checkpoint_every_steps": "4"}


@pytest.fixture
def page(chromium, installation: Installation) -> Iterator[Any]:
    """A signed-in page of the team's owner."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.complaints = complaints_of(page)
    page.goto(f"{installation.url}/login/")
    page.fill("[name=login]", installation.email)
    page.fill("[name=password]", installation.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**/t/{installation.team}/")
    yield page
    context.close()


def picture(page: Any, name: str) -> None:
    """Keep a picture if somebody asked for them, and see that nothing runs over the page's edge."""
    assert page.evaluate(OVERFLOWING) <= 0, name
    if folder := os.environ.get("PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_from_sign_in_to_a_called_model(page: Any, installation: Installation, tickets: Path):
    home = f"{installation.url}/t/{installation.team}"
    import_tickets(page, home, tickets)
    start_run(page, home)
    watch(page, installation)
    look_at_quality(page)
    chat(page)
    deploy(page)
    text = create_token(page, home)
    call(installation, text)
    assert page.complaints == []


def import_tickets(page: Any, home: str, tickets: Path) -> None:
    page.goto(f"{home}/datasets/import/")
    page.fill("[name=name]", "Tickets in the browser")
    page.set_input_files("[name=train_file]", str(tickets / "train.csv"))
    page.set_input_files("[name=validation_file]", str(tickets / "validation.csv"))
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/mapping/")
    sync_api.expect(page.locator("#preview")).to_contain_text("<|im_start|>user")
    picture(page, "mapping")
    page.get_by_role("button", name="Import").click()
    page.wait_for_selector("#rows")
    picture(page, "dataset")


def start_run(page: Any, home: str) -> None:
    page.goto(f"{home}/experiments/new/")
    page.fill("[name=name]", "Learn in the browser")
    page.select_option("[name=dataset_version]", label="Tickets in the browser v1")
    page.get_by_text("Fast", exact=True).click()
    page.wait_for_load_state("networkidle")
    picture(page, "new-experiment")
    for group in page.locator("details.advanced > summary").all():
        group.click()
    for name, value in QUICK.items():
        page.fill(f"[name={name}]", value)
    page.get_by_role("button", name="Start run").click()
    page.wait_for_url("**/runs/*/")


def watch(page: Any, installation: Installation) -> None:
    """See the run live, without reloading, until it has succeeded."""
    run = page.url.rstrip("/").rpartition("/")[2]
    sync_api.expect(page.locator("#run-status")).to_contain_text("of 8", timeout=180_000)
    sync_api.expect(page.locator("#run-status")).to_contain_text(re.compile("step [4-8] of 8"), timeout=180_000)
    page.wait_for_selector(".u-over")
    picture(page, "run")
    assert installation.finished(run)["status"] == "succeeded"
    sync_api.expect(page.get_by_role("link", name="Deploy", exact=True)).to_be_visible(timeout=30_000)
    sync_api.expect(page.locator("[data-log-lines]")).to_contain_text("step", timeout=10_000)


def look_at_quality(page: Any) -> None:
    page.get_by_role("link", name="Quality").click()
    sync_api.expect(page.locator("main")).to_contain_text("held-out rows")
    assert page.locator("article.answer").count() == 6
    picture(page, "quality")
    page.go_back()
    page.go_forward()
    sync_api.expect(page.locator("main")).to_contain_text("Exact match")


def chat(page: Any) -> None:
    page.get_by_role("link", name="Playground").first.click()
    page.goto(page.url) if "run=" in page.url else None
    page.click("[data-chat-sample]")
    sync_api.expect(page.locator("textarea[name=prompt]")).not_to_have_value("")
    page.click("[data-chat-send]")
    page.wait_for_selector(".bubble [data-meta]:not(:empty)", timeout=120_000)
    picture(page, "playground")


def deploy(page: Any) -> None:
    page.get_by_role("link", name="Experiments").click()
    page.get_by_role("link", name="Learn in the browser").click()
    page.get_by_role("link", name="#1").click()
    page.get_by_role("link", name="Deploy", exact=True).click()
    page.fill("#deploy-name", "browser-triage")
    page.locator("dialog").get_by_role("button", name="Deploy").click()
    page.wait_for_url("**/deployments/*/")
    sync_api.expect(page.locator("main")).to_contain_text("Ready", timeout=60_000)
    picture(page, "deployment")


def create_token(page: Any, home: str) -> str:
    page.goto(f"{home}/tokens/")
    page.fill("[name=name]", "Browser journey")
    page.get_by_role("button", name="Create token").click()
    shown = page.locator("main").inner_text()
    return re.search(r"tnp_[0-9a-f]{16}_[\w-]{43}", shown).group(0)  # type: ignore[union-attr]


def call(installation: Installation, token: str) -> None:
    answer = httpx.post(
        f"{installation.url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {token}"},
        json={"model": "browser-triage", "messages": [{"role": "user", "content": "VPN is down"}], "max_tokens": 8},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
