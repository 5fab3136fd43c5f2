"""T-UP8: script in cells, names and prompts is text on every page; a browser runs none of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from datasets_app import arrivals, services, tasks
from datasets_app.models import DatasetVersion, Split
from portal.rls import team_scope
from tests.datasets_app.containers import xlsx_bytes
from tests.datasets_app.files import csv_bytes, upload

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# Each would call `alert` where it is taken for markup, an attribute, a script, an address or a template.
CORPUS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</textarea></title></style></template></noscript><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '"><svg onload=alert(1)>',
    "' autofocus onfocus=alert(1) x='",
    '" autofocus onfocus=alert(1) x="',
    "<iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<a href=javascript:alert(1) autofocus>x</a>",
    "<details open ontoggle=alert(1)>",
    "<math><mtext></table><img src=x onerror=alert(1)>",
    "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)}",
    "<div hx-get='/' hx-trigger='load' hx-on::load='alert(1)'>",
    "<!--><script>alert(1)</script>-->",
    "\\u003cscript>alert(1)\\u003c/script>",
]


def pages_of(version: DatasetVersion) -> list[str]:
    base = f"/dataset-versions/{version.pk}/"
    return [f"/datasets/{version.dataset_id}/", base, f"{base}?view=model", f"{base}rows/1/", f"{base}doctor/"]


def test_nothing_runs(open_page, team, actor, base_model):
    rows = [(f"{text} {number}", json.dumps({text: text})) for number in range(2) for text in CORPUS]
    header = (CORPUS[3] + " prompt", CORPUS[5] + " response")
    type(team).objects.filter(pk=team.pk).update(name=CORPUS[0])

    def started(name: str, content: bytes, file: str) -> DatasetVersion:
        with team_scope(team.pk):
            files = {Split.TRAIN: upload(content, file)}
            return services.start_import(
                team=team, actor=actor, name=name, description=" ".join(CORPUS)[:2000], files=files
            )

    def imported(name: str, content: bytes) -> DatasetVersion:
        version = started(name, content, f"{CORPUS[6]}.csv")
        with team_scope(team.pk):
            mapping = services.sources.guess(version.sources.get())
            services.begin_import(version=version, actor=actor, mapping=mapping)
        tasks.import_version(str(version.pk))
        return version

    ready = imported(CORPUS[1], csv_bytes(rows, header=header))
    failed = imported(CORPUS[4], csv_bytes([*rows, (CORPUS[0], "")], header=header))
    foreign = csv_bytes([(f"{text} café ", "é") for text in CORPUS], encoding="cp1252")
    draft = started(CORPUS[7], foreign, f"{CORPUS[8]}.csv")
    sheets = {"<img src=x onerror=alert(1)>": [("<b>a</b>", "b"), *rows]}
    book = started(CORPUS[9], xlsx_bytes(rows, header=header, **sheets), f"{CORPUS[2]}.xlsx")
    with team_scope(team.pk):
        arrivals.begin(team=team, actor=actor, name=CORPUS[3], size_bytes=1000)
        report = ready.doctor_reports.first()
    tasks.examine_version(str(report.pk))
    addresses = ["/datasets/", "/datasets/?q=%3Cscript%3Ealert(1)%3C/script%3E", "/datasets/import/", "/audit/", "/"]
    addresses += [*pages_of(ready), f"/dataset-versions/{failed.pk}/"]
    addresses += [f"/dataset-versions/{one.pk}/mapping/" for one in (draft, book)]
    seen = 0
    for address in addresses:
        page = open_page(f"/t/{team.slug}{address}")
        source, shown = page.content(), page.inner_text("body")
        seen += sum(text in source or text in shown for text in CORPUS)
        assert_harmless(page, address)
    assert seen > 60  # the corpus was really on the pages
    page.evaluate("() => document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(1)>')")
    with pytest.raises(AssertionError):  # and what gets through is seen
        assert_harmless(page, "a page with a hole")


def assert_harmless(page: Any, address: str) -> None:
    """Fail if something of the corpus became an element, an attribute or a call."""
    planted = page.evaluate(
        """() => [...document.querySelectorAll('*')].filter((one) =>
            [...one.attributes].some((each) => /^on/i.test(each.name) || /^javascript:/i.test(each.value.trim())
                && each.name === 'href')
            || (one.tagName === 'SCRIPT' && /alert/.test(one.textContent))
            || (one.tagName === 'IMG' && one.getAttribute('src') === 'x')).map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert planted == [], address
    assert [line for line in page.complaints if "Content Security Policy" in line] == [], address
    assert page.complaints == [], address
