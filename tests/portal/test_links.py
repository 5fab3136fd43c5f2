"""Every link on every page leads somewhere that the person who sees it may go."""

from __future__ import annotations

from collections import deque
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db

# Downloads of files that the world does not have, and what ends the walk.
NOT_PAGES = (
    "/logout/",
    "/export",
    "adapter.zip",
    "/rows/train.",
    "/rows/validation.",
    "/rows/test.",
    "predictions.csv",
)


class Links(HTMLParser):
    """The addresses of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.found.append(href)


def links_of(address: str, text: str) -> list[str]:
    """Return the pages of this portal that a page leads to, in its order."""
    reader = Links()
    reader.feed(text)
    joined = (urlsplit(urljoin(address, href)) for href in reader.found if not href.startswith("#"))
    own = [f"{to.path}?{to.query}" if to.query else to.path for to in joined if not to.netloc]
    return [to for to in dict.fromkeys(own) if not any(part in to for part in NOT_PAGES)]


def walk(browser: Client, start: str, *, most: int = 400) -> list[str]:
    """Follow every link from `start` on; return those that are refused, each with the page it stands on."""
    waiting, seen, refused = deque([(start, start)]), {start}, []
    while waiting and len(seen) < most:
        page, address = waiting.popleft()
        answer = browser.get(address)
        # 409: a page that says what has to be done first
        if answer.status_code >= 400 and answer.status_code != 409:
            refused.append(f"{page} → {address}: {answer.status_code}")
        if answer.status_code == 200 and "html" in answer["Content-Type"] and not answer.streaming:
            for to in links_of(address, answer.content.decode()):
                # one of each page is enough: filters and orders of the same one would never end
                if to not in seen and not (to.count("?") and to.split("?")[0] in seen):
                    seen.add(to)
                    waiting.append((address, to))
    return refused


@pytest.mark.parametrize("person", ["alice", "bob"])
def test_no_link_leads_to_a_refusal(world, client_for, request, person):
    assert walk(client_for(request.getfixturevalue(person)), f"/t/{world.team.slug}/") == []


@pytest.mark.parametrize("person", ["alice", "bob"])
def test_nor_in_a_team_that_has_nothing_yet(team, client_for, request, person):
    assert walk(client_for(request.getfixturevalue(person)), f"/t/{team.slug}/") == []


def test_nor_in_the_console(world, paula, client_for):
    assert walk(client_for(paula), "/platform/") == []
