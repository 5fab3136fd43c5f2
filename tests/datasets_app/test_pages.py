"""The pages of datasets, from the empty list over the three steps of an import to rows and deletion."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from django.test import Client

from datasets_app import services, tasks
from datasets_app.models import Dataset, DatasetVersion, Split
from portal.models import Role
from portal.rls import all_teams, team_scope
from tests.datasets_app.files import csv_bytes, csv_upload, jsonl_bytes, tickets, upload

DATASETS = "/t/service-desk/datasets/"
VERSIONS = "/t/service-desk/dataset-versions/"


@pytest.fixture
def browser(team, alice, client_for) -> Client:
    return client_for(alice)


@pytest.fixture
def viewer(team, bob, client_for) -> Client:
    return client_for(bob)


@pytest.fixture
def editor(team, charlie, client_for) -> Client:
    with team_scope(team.pk):
        team.memberships.create(user=charlie, role=Role.EDITOR)
    return client_for(charlie)


def text_of(response) -> str:
    """The words of a page, without its markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def seen_in(response) -> str:
    """The rows of a preview with their tokens put together again."""
    rows = re.findall(r'<pre class="tokens"[^>]*>(.*?)</pre>', response.content.decode(), re.DOTALL)
    return "\n\n".join(html.unescape(re.sub(r"<[^>]+>", "", row)) for row in rows)


def only_version() -> DatasetVersion:
    with all_teams("test"):
        return DatasetVersion.unscoped.select_related("dataset", "team").get()


def send(browser: Client, content: bytes, name: str = "Tickets", **files) -> DatasetVersion:
    """Upload the first step and return the draft."""
    response = browser.post(f"{DATASETS}import/", {"name": name, "train_file": upload(content), **files})
    assert response.status_code == 302, text_of(response)
    version = only_version()
    assert response.headers["Location"] == f"{VERSIONS}{version.pk}/mapping/"
    return version


CHOICES = {
    "shape": "columns",
    "prompt": "prompt",
    "response": "response",
    "encoding_train": "utf-8",
    "delimiter_train": ",",
    "validation_percent": "10",
    "test_percent": "10",
    "seed": "1",
}


def choose(browser: Client, version: DatasetVersion, **choices):
    return browser.post(f"{VERSIONS}{version.pk}/mapping/", {**CHOICES, **choices})


def test_empty_list_invites_an_import(browser, viewer):
    page = browser.get(DATASETS)
    assert "No datasets yet" in text_of(page)
    assert f'href="{DATASETS}import/"' in page.content.decode()
    assert f'href="{DATASETS}import/"' not in viewer.get(DATASETS).content.decode()


def stylesheets_of(answer) -> set[str]:
    return set(re.findall(r'<link rel="stylesheet" href="([^"]+)"', answer.content.decode()))


def test_three_steps(browser, base_model):
    assert "Choose files" in text_of(browser.get(f"{DATASETS}import/"))
    version = send(browser, csv_bytes(tickets(60)))
    assert (version.status, version.dataset.name) == ("draft", "Tickets")

    mapping = browser.get(f"{VERSIONS}{version.pk}/mapping/")
    words = text_of(mapping)
    assert '<option value="prompt" selected>' in mapping.content.decode()
    assert "<|im_start|>user\nTicket 0: VPN is broken, please help<|im_end|>" in seen_in(mapping)
    assert "Each box is one token of Tiny." in words

    response = choose(browser, version, json_answers="on")
    assert response.headers["Location"] == f"{VERSIONS}{version.pk}/"
    importing = browser.get(f"{VERSIONS}{version.pk}/")
    assert "Waiting for a free worker" in text_of(importing)
    progress = browser.get(f"{VERSIONS}{version.pk}/progress/")
    assert progress.status_code == 200

    tasks.import_version(str(version.pk))
    progress = browser.get(f"{VERSIONS}{version.pk}/progress/")
    assert progress.status_code == 286
    assert f'hx-get="{VERSIONS}{version.pk}/"' in progress.content.decode()
    page = browser.get(f"{VERSIONS}{version.pk}/")
    assert page.status_code == 200
    words = text_of(page)
    assert "Ready" in words
    assert "service 4 values" in words
    # the version's content takes the place of the importing page's, whose head stays
    assert stylesheets_of(page) <= stylesheets_of(importing)
    assert f"?version={version.pk}" in page.content.decode()
    assert "Used by runs" in text_of(browser.get(f"{VERSIONS}{version.pk}/mapping/"))


def test_files_of_ones_own_need_no_division(browser):
    version = send(
        browser,
        csv_bytes(tickets(20)),
        validation_file=csv_upload(tickets(24)[20:], "v.csv"),
        test_file=csv_upload(tickets(30)[24:], "t.csv"),
    )
    page = browser.get(f"{VERSIONS}{version.pk}/mapping/").content.decode()
    assert 'name="seed"' not in page
    assert 'name="encoding_test"' in page
    readings = {f"{kind}_{split}": value for split in Split.values for kind, value in READ_AS.items()}
    assert choose(browser, version, **readings).status_code == 302
    tasks.import_version(str(version.pk))
    done = only_version()
    assert (done.train_rows, done.validation_rows, done.test_rows) == (20, 4, 6)


READ_AS = {"encoding": "utf-8", "delimiter": ","}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "This field is required"),
        ({"train_file": b""}, "The file is empty."),
        ({"train_file": b"prompt,response\n"}, "a header but no rows"),
        ({"train_file": b"PK\x03\x04rest"}, "The file is damaged"),
        ({"train_file": csv_bytes(tickets(3)), "name": ""}, "This field is required"),
    ],
)
def test_bad_uploads_show_the_form_again(browser, settings, fields, words):
    sent = {"name": "Tickets", **fields}
    if "train_file" in sent:
        sent["train_file"] = upload(sent["train_file"])
    response = browser.post(f"{DATASETS}import/", sent)
    assert response.status_code == 400
    assert words in text_of(response)
    assert [path for path in (Path(settings.DATA_DIR) / "teams").rglob("*") if path.is_file()] == []
    with all_teams("test"):
        assert not Dataset.unscoped.exists()


def test_duplicate_name_is_said_at_the_name(browser):
    send(browser, csv_bytes(tickets(3)))
    response = browser.post(f"{DATASETS}import/", {"name": "Tickets", "train_file": csv_upload(tickets(3))})
    assert response.status_code == 400
    assert "already a dataset named “Tickets”" in text_of(response)


def test_upload_over_the_limit(browser, settings):
    settings.MAX_UPLOAD_BYTES = 2000
    response = browser.post(
        f"{DATASETS}import/", {"name": "T", "train_file": upload(b"prompt,response\n" + b"a,b\n" * 2000)}
    )
    assert response.status_code == 413
    assert "larger than" in text_of(response)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"prompt": ""}, "No column is chosen for the prompt."),
        ({"response": "prompt"}, "both as prompt and as answer"),
        ({"shape": "template", "template": "{nope}"}, "mentions {nope}"),
        ({"shape": "template", "template": "{ {"}, "single brace"),
        ({"shape": "messages", "messages": ""}, "Choose the column that holds the messages."),
        ({"test_percent": "75", "validation_percent": "30"}, "at least 20%"),
        ({"test_percent": "nan"}, "Enter a whole number."),
        ({"seed": "-1"}, "greater than or equal to 0"),
        ({"encoding_train": "ebcdic"}, "Select a valid choice"),
        ({"delimiter_train": ";"}, "prompt is not one of the available choices"),
    ],
)
def test_bad_mappings_show_the_form_again(browser, choices, words):
    version = send(browser, csv_bytes(tickets(10)))
    response = choose(browser, version, **choices)
    assert response.status_code == 400
    assert words in text_of(response)
    assert only_version().status == "draft"


def test_preview_follows_the_choices(browser, base_model):
    version = send(browser, csv_bytes([("1", "How?", "Thus.", "Be kind.")] * 3, header=("id", "q", "a", "s")))
    seen = seen_in(choose(browser, version, preview="1", prompt="q", response="a", system="s"))
    assert "system\nBe kind.<|im_end|>" in seen
    assert "assistant\nThus.<|im_end|>" in seen
    seen = seen_in(
        choose(
            browser, version, preview="1", shape="template", template="{q} ({id})", response="a", system_prompt="Short."
        )
    )
    assert "How? (1)" in seen
    assert "system\nShort." in seen
    words = text_of(choose(browser, version, preview="1", prompt="", response="a"))
    assert "No column is chosen for the prompt." in words
    assert only_version().status == "draft"


def test_preview_names_faulty_rows_and_works_without_a_base_model(browser):
    version = send(browser, csv_bytes([("Fine", "Answer"), ("No answer", "")]))
    words = text_of(choose(browser, version, preview="1"))
    assert "Line 3, column “response”: the answer is empty." in words
    assert "user: Fine" in words
    assert "tokens" not in words.split("As the model will see it")[1].split("Keep it")[0]


def test_conversations_are_recognised(browser):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    version = send(browser, jsonl_bytes([{"messages": talk}] * 5))
    page = browser.get(f"{VERSIONS}{version.pk}/mapping/").content.decode()
    assert re.search(r'value="messages"[^>]*checked', page)
    assert "delimiter_train" not in page


def test_another_encoding_brings_new_columns(browser):
    version = send(browser, csv_bytes([("Не могу войти", "Доступ")] * 5, header=("вопрос", "ответ"), encoding="cp1251"))
    page = text_of(browser.get(f"{VERSIONS}{version.pk}/mapping/"))
    assert "Which encoding is this file in?" in page
    assert "Не могу войти" in page
    other = choose(browser, version, preview="1", encoding_train="cp866", prompt="вопрос", response="ответ")
    assert 'value="вопрос"' not in other.content.decode()
    back = choose(browser, version, encoding_train="cp1251", prompt="вопрос", response="ответ")
    assert back.status_code == 302
    tasks.import_version(str(version.pk))
    assert only_version().status == "ready"


def test_failed_import_lists_the_rows_and_offers_the_rest(browser, viewer):
    version = send(browser, csv_bytes([*tickets(8), ("No answer", ""), ("", "No prompt")]))
    assert choose(browser, version).status_code == 302
    tasks.import_version(str(version.pk))
    words = text_of(browser.get(f"{VERSIONS}{version.pk}/"))
    assert "2 rows are faulty." in words
    assert "10 response The answer is empty. Fill it in or delete the row." in words
    assert "Import without these 2 rows" in words
    assert "Import without" not in text_of(viewer.get(f"{VERSIONS}{version.pk}/"))
    assert browser.get(f"{VERSIONS}{version.pk}/mapping/").status_code == 200
    assert viewer.post(f"{VERSIONS}{version.pk}/without-faulty/").status_code == 403
    browser.post(f"{VERSIONS}{version.pk}/without-faulty/")
    tasks.import_version(str(version.pk))
    words = text_of(browser.get(f"{VERSIONS}{version.pk}/"))
    assert "2 rows were left out" in words
    assert only_version().total_rows == 8


def test_rows_are_paged_and_kept_apart_by_split(browser, team, actor, base_model):
    with team_scope(team.pk):
        files = {Split.TRAIN: csv_upload(tickets(45)), Split.TEST: csv_upload(tickets(50)[45:], "t.csv")}
        version = services.import_files(team=team, actor=actor, name="T", files=files)
    tasks.import_version(str(version.pk))
    address = f"{VERSIONS}{version.pk}/"
    assert "Ticket 20:" not in text_of(browser.get(address))
    assert "Ticket 20:" in text_of(browser.get(f"{address}?page=2"))
    assert "Ticket 46:" in text_of(browser.get(f"{address}?split=test"))
    assert "Ticket 0:" in text_of(browser.get(f"{address}?split=nonsense&page=x"))
    assert "<|im_start|>user" in seen_in(browser.get(f"{address}?split=test&view=model"))
    download = browser.get(f"{address}rows/test.jsonl")
    rows = [json.loads(line) for line in b"".join(download.streaming_content).splitlines()]
    assert (len(rows), rows[0]["row"]) == (5, 2)
    assert download.headers["Content-Disposition"] == 'attachment; filename="t-v1-test.jsonl"'
    assert browser.get(f"{address}rows/validation.jsonl").status_code == 404
    assert browser.get(f"{address}rows/secrets.jsonl").status_code == 404


def test_what_a_row_contains_is_only_text(browser, team, actor):
    nasty = [("<script>alert(1)</script>", '{"a": "<img src=x onerror=alert(1)>"}')] * 3
    with team_scope(team.pk):
        files = {Split.TRAIN: upload(csv_bytes(nasty), "<b>x</b>.csv")}
        version = services.import_files(team=team, actor=actor, name="<i>T</i>", files=files)
    draft = browser.get(f"{VERSIONS}{version.pk}/").content.decode()
    tasks.import_version(str(version.pk))
    ready = browser.get(f"{VERSIONS}{version.pk}/").content.decode()
    for page in (draft, ready, browser.get(DATASETS).content.decode()):
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "<i>T</i>" not in page
        assert "<b>x</b>" not in page


def test_new_version_and_its_history(browser, ready_version):
    address = f"{DATASETS}{ready_version.dataset_id}/"
    assert "v1" in text_of(browser.get(address))
    response = browser.post(f"{address}import/", {"train_file": csv_upload(tickets(30))})
    with team_scope(ready_version.team_id):
        second = DatasetVersion.unscoped.get(number=2)
    assert response.headers["Location"] == f"{VERSIONS}{second.pk}/mapping/"
    words = text_of(browser.get(address))
    assert "v2" in words
    assert "Draft" in words


def test_search(browser, ready_version):
    assert "Tickets" in text_of(browser.get(f"{DATASETS}?q=tick"))
    assert "Nothing found" in text_of(browser.get(f"{DATASETS}?q=invoices"))
    assert browser.get(f"{DATASETS}?q=%00%25__").status_code == 200


def test_deleting_asks_first(browser, ready_version, django_capture_on_commit_callbacks):
    address = f"{DATASETS}{ready_version.dataset_id}/delete/"
    assert "Delete “Tickets”?" in text_of(browser.get(address))
    with django_capture_on_commit_callbacks(execute=True):
        response = browser.post(address, follow=True)
    assert "is deleted" in text_of(response)
    assert "1 deleted" in text_of(response)
    assert ready_version.folder.exists()


def test_a_dataset_in_use_says_by_what(browser, ready_version, base_model, team):
    from experiments.models import Experiment

    with team_scope(team.pk):
        experiment = Experiment.unscoped.create(team=team, name="Rank")
        experiment.runs.create(
            team=team,
            number=1,
            dataset_version=ready_version,
            base_model=base_model,
            hyperparameters={},
            config_hash="",
        )
    for address in (f"{DATASETS}{ready_version.dataset_id}/delete/", f"{VERSIONS}{ready_version.pk}/discard/"):
        response = browser.post(address, follow=True)
        assert "is in use" in text_of(response)
        assert "Rank #1" in text_of(response)
    assert ready_version.rows_path("train").exists()


def test_discarding_a_draft_leaves_nothing(browser, settings, django_capture_on_commit_callbacks):
    version = send(browser, csv_bytes(tickets(5)))
    with django_capture_on_commit_callbacks(execute=True):
        response = browser.post(f"{VERSIONS}{version.pk}/discard/")
    assert response.headers["Location"] == DATASETS
    assert not version.folder.exists()
    with all_teams("test"):
        assert not Dataset.unscoped.exists()


def test_who_may_do_what(ready_version, viewer, editor, browser):
    pages = {
        "see": [DATASETS, f"{DATASETS}{ready_version.dataset_id}/", f"{VERSIONS}{ready_version.pk}/"],
        "edit": [
            f"{DATASETS}import/",
            f"{DATASETS}{ready_version.dataset_id}/import/",
            f"{DATASETS}{ready_version.dataset_id}/delete/",
            f"{VERSIONS}{ready_version.pk}/discard/",
        ],
    }
    for address in pages["see"]:
        assert [client.get(address).status_code for client in (viewer, editor, browser)] == [200, 200, 200], address
    for address in pages["edit"]:
        assert [client.get(address).status_code for client in (viewer, editor, browser)] == [403, 200, 200], address
        assert viewer.post(address).status_code == 403


def test_strangers_find_nothing(ready_version, other_team, charlie, client_for):
    stranger = client_for(charlie)
    for address in (
        DATASETS,
        f"{DATASETS}{ready_version.dataset_id}/",
        f"{VERSIONS}{ready_version.pk}/",
        f"/t/finance/datasets/{ready_version.dataset_id}/",
        f"/t/finance/datasets/{ready_version.dataset_id}/delete/",
        f"/t/finance/dataset-versions/{ready_version.pk}/",
        f"/t/finance/dataset-versions/{ready_version.pk}/mapping/",
        f"/t/finance/dataset-versions/{ready_version.pk}/progress/",
        f"/t/finance/dataset-versions/{ready_version.pk}/rows/train.jsonl",
    ):
        assert stranger.get(address).status_code == 404, address
        assert stranger.post(address).status_code in (404, 405), address


def test_a_viewer_meets_a_draft(browser, viewer):
    version = send(browser, csv_bytes(tickets(5)))
    assert "Not imported yet" in text_of(viewer.get(f"{VERSIONS}{version.pk}/"))
    assert viewer.get(f"{VERSIONS}{version.pk}/mapping/").status_code == 403


def test_a_version_whose_file_is_gone_says_so(browser, ready_version):
    ready_version.rows_path("train").unlink()
    answer = browser.get(f"/t/service-desk/dataset-versions/{ready_version.pk}/")
    assert answer.status_code == 503
    assert "missing on this server" in answer.content.decode()
