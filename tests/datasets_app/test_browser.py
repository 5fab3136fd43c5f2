"""Importing a dataset in a real browser: upload with scripts, live preview, polling, and every page in both widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datasets_app import services, tasks
from datasets_app.models import DatasetVersion, Split
from portal.rls import all_teams, team_scope
from tests.browser import fits
from tests.datasets_app.files import csv_bytes, csv_upload, tickets

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def newest() -> DatasetVersion:
    with all_teams("test"):
        return DatasetVersion.unscoped.order_by("-created_at").first()


def table(folder: Path, rows: list[tuple[str, ...]], **options: Any) -> str:
    path = folder / "support tickets.csv"
    path.write_bytes(csv_bytes(rows, **options))
    return str(path)


def test_import_with_scripts(open_page, team, base_model, tmp_path):
    page = open_page(f"/t/{team.slug}/datasets/import/")
    page.fill("[name=name]", "Tickets")
    page.set_input_files("[name=train_file]", table(tmp_path, [*tickets(60), ("No answer", "")]))
    assert "support tickets.csv" in page.inner_text("[data-file-name]")
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/mapping/")

    preview = page.locator("#preview")
    sync_api.expect(preview).to_contain_text("<|im_start|>user")
    page.fill("[name=system_prompt]", "Route the ticket.")
    sync_api.expect(preview).to_contain_text("Route the ticket.")
    page.check("[name=shape][value=messages]")
    sync_api.expect(page.locator("[name=prompt]")).to_be_hidden()
    sync_api.expect(preview).to_contain_text("Choose the column that holds the messages.")
    page.check("[name=shape][value=columns]")
    page.locator("summary", has_text="How it is read").click()
    page.select_option("[name=delimiter_train]", ";")
    sync_api.expect(page.locator("[name=prompt]")).to_contain_text("prompt,response")
    page.select_option("[name=delimiter_train]", ",")
    sync_api.expect(page.locator("[name=prompt]")).to_have_value("prompt")
    assert page.input_value("[name=system_prompt]") == "Route the ticket."
    page.get_by_role("button", name="Import").click()

    sync_api.expect(page.locator("#progress")).to_contain_text("Waiting for a free worker")
    tasks.import_version(str(newest().pk))
    page.get_by_role("button", name="Import without this row").click()
    page.wait_for_selector("#progress")
    tasks.import_version(str(newest().pk))
    page.wait_for_selector("#rows")
    assert "One row was left out" in page.inner_text("main")
    assert page.complaints == []


def test_a_template_is_edited_and_seen_at_once(open_page, team, actor, base_model):
    rows = [(f"Subject {number}", f"Body {number}", "Mail") for number in range(8)]
    with team_scope(team.pk):
        file = csv_upload(rows, header=("subject", "body", "queue"))
        draft = services.start_import(team=team, actor=actor, name="T", files={Split.TRAIN: file})
    page = open_page(f"/t/{team.slug}/dataset-versions/{draft.pk}/mapping/")
    preview, template = page.locator("#preview"), page.locator("[name=template]")
    sync_api.expect(template).to_be_hidden()
    page.check("[name=shape][value=template]")
    sync_api.expect(template).to_have_value("{subject}\n\n{body}")
    sync_api.expect(page.locator("[name=prompt]")).to_be_hidden()
    template.fill("Ticket: ")
    page.get_by_role("button", name="subject", exact=True).click()
    sync_api.expect(template).to_have_value("Ticket: {subject}")
    sync_api.expect(preview).to_contain_text("Ticket: Subject 0")
    page.get_by_role("button", name="Next").click()
    sync_api.expect(preview).to_contain_text("Ticket: Subject 7")
    sync_api.expect(preview).not_to_contain_text("Subject 0")
    chips = page.locator("#preview mark.learned").first
    styles = chips.evaluate("mark => getComputedStyle(mark.querySelector('span')).borderBottomStyle")
    assert styles == "solid"  # told apart by more than a colour
    assert page.complaints == []


def test_import_without_scripts(open_page, team, base_model, tmp_path):
    page = open_page(f"/t/{team.slug}/datasets/import/", scripts=False)
    page.fill("[name=name]", "Tickets")
    page.set_input_files("[name=train_file]", table(tmp_path, tickets(20), header=("text", "label")))
    page.get_by_role("button", name="Upload").click()
    page.fill("[name=system_prompt]", "Route the ticket.")
    page.get_by_role("button", name="Preview").click()
    assert "Route the ticket." in page.inner_text("#preview")
    page.get_by_role("button", name="Import").click()
    tasks.import_version(str(newest().pk))
    page.reload()
    assert "Ticket" in page.inner_text("#rows")


def test_pages_fit_and_break_no_policy(open_page, team, actor, base_model):
    long_word = "x" * 300
    rows = [(f"{long_word} {number}", "{" + f'"{long_word}": "{long_word}"' + "}") for number in range(12)]

    def started(name: str, file: Any) -> DatasetVersion:
        with team_scope(team.pk):
            return services.start_import(team=team, actor=actor, name=name, files={Split.TRAIN: file})

    def imported(name: str, file: Any) -> DatasetVersion:
        version = started(name, file)
        with team_scope(team.pk):
            mapping = services.sources.guess(version.sources.get())
            services.begin_import(version=version, actor=actor, mapping=mapping)
        tasks.import_version(str(version.pk))
        return version

    draft = started("Не тот шрифт", csv_upload([("Не могу войти", "Доступ")] * 5, encoding="cp1251"))
    ready, failed = imported(long_word[:110], csv_upload(rows)), imported("Bad", csv_upload([*rows, (long_word, "")]))
    base = f"/t/{team.slug}"
    for address in (
        "/datasets/",
        "/datasets/?q=nothing",
        "/datasets/import/",
        f"/datasets/{ready.dataset_id}/",
        f"/datasets/{ready.dataset_id}/delete/",
        f"/dataset-versions/{draft.pk}/mapping/",
        f"/dataset-versions/{ready.pk}/",
        f"/dataset-versions/{ready.pk}/?view=model",
        f"/dataset-versions/{failed.pk}/",
    ):
        fits(open_page(base + address), address.strip("/").replace("/", "-"))
