"""The interface in a real browser, under the real content security policy: no violation, no overflow, themes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from tests.browser import complaints_of, fits

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
sync_api = pytest.importorskip("playwright.sync_api")

PAGES = ["/style-guide/", "/login/", "/no/such/page/"]


def test_pages_fit_and_break_no_policy(chromium, live_server) -> None:
    page = chromium.new_page()
    page.complaints = complaints_of(page)
    for address in PAGES:
        answer = page.goto(live_server.url + address, wait_until="networkidle")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert page.evaluate("() => document.querySelectorAll('style').length") == 0
        fits(page, address.strip("/").replace("/", "-"))
    page.close()


def test_the_chart_draws_what_the_server_measured(chromium, live_server) -> None:
    page = chromium.new_page()
    page.goto(live_server.url + "/style-guide/")
    page.wait_for_selector("[data-chart] canvas")
    assert "180" in page.locator("[data-summary]").first.inner_text()
    assert page.locator(".chart-key b").all_inner_texts()[0] not in ("", "–")
    page.close()


def test_the_chosen_theme_is_rendered_by_the_server(chromium, live_server) -> None:
    get_user_model().objects.create_user("alice@example.org", "correct horse battery")
    context = chromium.new_context(color_scheme="light")
    page = context.new_page()
    page.goto(live_server.url + "/login/")
    page.get_by_label("mail").fill("alice@example.org")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector(".user-menu")
    page.locator(".user-menu summary").click()
    page.locator("[data-theme-choice] button[value=dark]").click()
    background = "() => getComputedStyle(document.body).backgroundColor"
    chosen = page.evaluate(background)
    html = page.request.get(page.url).text()
    assert 'data-bs-theme="dark"' in html.split("<head>")[0]
    page.reload()
    assert page.evaluate(background) == chosen
    context.close()


def test_without_scripts_the_page_follows_the_system_and_hides_what_needs_them(chromium, live_server) -> None:
    context = chromium.new_context(java_script_enabled=False, color_scheme="dark")
    page = context.new_page()
    page.goto(live_server.url + "/style-guide/")
    assert page.locator("[data-copy]").first.is_hidden()
    assert page.locator("input[type=file]").is_visible()
    assert page.locator(".chat noscript .notice").is_visible()
    assert page.locator("main time").first.inner_text().endswith("UTC")
    context.close()


def test_the_drawer_of_a_phone_opens_and_closes_by_keyboard(chromium, live_server) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(live_server.url + "/style-guide/")
    assert page.locator("#sidebar").is_hidden()
    page.get_by_role("button", name="Menu").press("Enter")
    assert page.locator("#sidebar").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#sidebar").is_hidden()
    context.close()


def streamed(*pieces: str) -> str:
    """Return an event stream of OpenAI chunks with these pieces of text."""
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    chunks += [
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 9}},
    ]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


@pytest.fixture
def chat(chromium, live_server) -> Iterator[Any]:
    """The style guide's chat; its address is the page itself, so a test answers the page's POST and JSON requests."""
    page = chromium.new_page()
    page.goto(live_server.url + "/style-guide/", wait_until="networkidle")
    yield page
    page.close()


def answer(page: Any, method: str, **response: Any) -> list[Any]:
    """Answer each request of this method that a script of the page sends; return the list of bodies that arrive."""
    bodies: list[Any] = []

    def route(one: Any) -> None:
        if one.request.method != method or one.request.resource_type not in ("fetch", "document"):
            return one.fallback()
        bodies.append(one.request.post_data_json if method == "POST" else None)
        return one.fulfill(**response)

    page.route("**/style-guide/*", route)
    return bodies


def test_the_chat_shows_an_answer_field_by_field_and_never_as_markup(chat) -> None:
    answer(chat, "GET", json={"prompt": "Mail is down", "expected": '{"urgency": "Low", "user": "<b>x</b>"}'})
    stream = streamed('{"urgency": "High", ', '"user": "<b>x</b>"}')
    bodies = answer(chat, "POST", content_type="text/event-stream", body=stream)
    chat.locator("[data-chat-sample]").click()
    sync_api.expect(chat.locator("textarea[name=prompt]")).to_have_value("Mail is down")
    chat.locator("textarea[name=prompt]").press("Enter")
    fields = chat.locator("[data-chat-log] .bubble-assistant .answer-fields")
    sync_api.expect(fields).to_contain_text("<b>x</b>")
    assert fields.locator("b").count() == 0
    assert fields.locator(".is-wrong").count() == 1
    assert fields.locator(".is-right").count() == 1
    assert "expected: Low" in fields.inner_text()
    (body,) = bodies
    assert body["stream"] is True
    assert body["messages"] == [{"role": "user", "content": "Mail is down"}]


def test_the_chat_says_why_the_model_did_not_answer_and_goes_on(chat) -> None:
    refused = {"error": {"message": "The engine is starting.", "type": "server_error", "code": None, "param": None}}
    answer(chat, "POST", status=503, json=refused)
    prompt = chat.locator("textarea[name=prompt]")
    prompt.fill("first")
    prompt.press("Enter")
    sync_api.expect(chat.locator(".bubble.has-failed")).to_contain_text("The engine is starting.")
    bodies = answer(chat, "POST", content_type="text/event-stream", body=streamed("Hello"))
    prompt.fill("second")
    prompt.press("Enter")
    sync_api.expect(chat.locator("[data-chat-log]")).to_contain_text("Hello")
    # What failed is not part of the conversation that the model sees.
    assert [one["content"] for one in bodies[0]["messages"]] == ["second"]


def test_shift_enter_breaks_the_line(chat) -> None:
    prompt = chat.locator("textarea[name=prompt]")
    prompt.fill("one")
    prompt.press("Shift+Enter")
    prompt.press_sequentially("two")
    assert prompt.input_value() == "one\ntwo"
    assert chat.locator("[data-chat-log] .bubble").count() == 0


def test_a_chart_asks_for_what_is_new_until_the_run_is_done(chromium, live_server) -> None:
    page = chromium.new_page()
    asked: list[str] = []
    answers = [
        {"points": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}], "next": 2, "done": False},
        {"points": [{"step": 2, "validation_loss": 1.75}, {"step": 3, "loss": 1.25}], "next": 3, "done": True},
    ]

    def route(route: Any) -> None:
        asked.append(route.request.url.partition("?")[2])
        route.fulfill(json=answers[min(len(asked), 2) - 1])

    page.route("**/samples/metrics.json*", route)
    page.goto(live_server.url + "/style-guide/")
    keys = page.locator(".chart-key b")
    sync_api.expect(keys.nth(0)).to_have_text("1.250", timeout=10_000)
    sync_api.expect(keys.nth(1)).to_have_text("1.750")
    page.wait_for_timeout(2500)
    # Both charts of the page share one feed.
    assert asked == ["", "after=2"]
    page.close()


def test_a_destructive_link_asks_first(chromium, live_server) -> None:
    page = chromium.new_page()
    page.goto(live_server.url + "/style-guide/", wait_until="networkidle")
    posted = answer(page, "POST", status=200, content_type="text/html", body="<main>gone</main>")
    page.locator("a[data-confirm]").click()
    assert page.locator("#confirm-dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#confirm-dialog").is_hidden()
    assert posted == []
    page.close()
