"""What lies elsewhere becomes a draft with its origin, or a sentence; credentials are seen nowhere."""

from __future__ import annotations

import base64
import io
import logging
import zipfile

import pyarrow
import pytest
from pyarrow import parquet

from datasets_app.models import RemoteFetch
from tests.datasets_app.files import csv_bytes, jsonl_bytes, tickets
from tests.datasets_app.remote.conftest import fetch_of, sources_of
from tests.datasets_app.remote.loopback import (
    COMMIT,
    LATER,
    Answer,
    SimulatedAzure,
    SimulatedHub,
    SimulatedKaggle,
    serving,
)

CANARY = "CANARYkey4711"


def parquet_bytes(rows: list[tuple[str, str]]) -> bytes:
    out = io.BytesIO()
    columns = {"prompt": [prompt for prompt, _ in rows], "response": [response for _, response in rows]}
    parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


# --- the web -----------------------------------------------------------------------------------------------------


def test_a_file_of_the_web(fetched):
    content = csv_bytes(tickets(30))
    with serving(lambda path, query, headers: Answer(content, headers={"ETag": 'W/"abc"'})) as web:
        version = fetched({"kind": "url", "url": f"{web.url}/files/support%20tickets.csv?sig={CANARY}"})
    source = sources_of(version)["train"]
    assert (version.status, source.name, source.path.read_bytes()) == ("draft", "support tickets.csv", content)
    assert source.origin["revision"] == "abc"
    assert source.origin["address"] == f"{web.url}/files/support%20tickets.csv"
    assert CANARY not in str(fetch_of(version).source)
    assert fetch_of(version).status == "done"


def test_it_is_imported_at_once_where_that_was_ordered(fetched):
    with serving(lambda *_: Answer(csv_bytes(tickets(30)))) as web:
        version = fetched({"kind": "url", "url": f"{web.url}/t.csv"}, begin={})
    assert (version.status, version.total_rows) == ("ready", 30)


@pytest.mark.parametrize(
    ("answer", "words", "code"),
    [
        (Answer(b"", 404), "nothing at this address", "source_not_found"),
        (Answer(b"", 403), "refuses access", "access_refused"),
        (Answer(b"", 500), "answers with an error", "source_error"),
        (Answer(b""), "The file is empty", "empty_file"),
        (Answer(b"\x89PNG\r\n\x1a\n" + b"\0" * 100), "“t.csv”", "not_a_table"),
    ],
)
def test_what_cannot_be_fetched_says_why_and_leaves_nothing(fetched, settings, answer, words, code):
    with serving(lambda *_: answer) as web:
        version = fetched({"kind": "url", "url": f"{web.url}/t.csv"})
    fetch = fetch_of(version)
    assert (version.status, fetch.status, fetch.error_code) == ("fetching", RemoteFetch.Status.FAILED, code)
    assert words in fetch.error
    assert [path for path in settings.DATA_DIR.rglob("*") if path.is_file() and "datasets" in path.parts] == []


def test_too_much_is_refused_before_it_comes(fetched, settings):
    settings.MAX_DATASET_BYTES = 1000
    with serving(lambda *_: Answer(b"x" * 2000)) as web:
        version = fetched({"kind": "url", "url": f"{web.url}/t.csv"})
    assert fetch_of(version).error_code == "source_too_large"


def test_addresses_of_our_own_network_are_refused(fetched, settings):
    settings.OUTBOUND_ALLOW = []
    for number, url in enumerate(("https://127.0.0.1/t.csv", "https://169.254.169.254/latest/meta-data/")):
        version = fetched({"kind": "url", "url": url}, name=f"T{number}")
        assert fetch_of(version).error_code == "address_refused"


# --- Hugging Face ------------------------------------------------------------------------------------------------

SHARDS = {
    "README.md": b"# Tickets",
    "data/train-00000-of-00002.parquet": parquet_bytes(tickets(20)),
    "data/train-00001-of-00002.parquet": parquet_bytes(tickets(35)[20:]),
    "data/test-00000-of-00001.parquet": parquet_bytes(tickets(40)[35:]),
    "loader.py": b"raise SystemExit('never run')",
}
HUB = {"kind": "huggingface", "dataset": "team/tickets"}


@pytest.fixture
def hub(settings):
    """A function that starts serving a data set as the hub does."""
    running = []

    def start(*args, **kwargs):
        made = SimulatedHub(*args, **kwargs)
        context = serving(made)
        running.append(context)
        made.server = context.__enter__()
        settings.HUB_ENDPOINT = made.server.url
        return made

    yield start
    for context in running:
        context.__exit__(None, None, None)


def test_shards_of_the_hub_become_one_table_a_split(fetched, hub):
    made = hub(SHARDS)
    version = fetched(HUB, begin={})
    assert (version.status, version.train_rows, version.test_rows) == ("ready", 35, 5)
    origin = sources_of(version)["train"].origin
    assert (origin["kind"], origin["revision"], len(origin["files"])) == ("huggingface", COMMIT, 2)
    assert not any("loader.py" in path for path in made.server.paths)


def test_a_pinned_revision_gives_the_same_hash_twice(fetched, hub):
    made = hub(SHARDS)
    first = fetched({**HUB, "revision": COMMIT}, begin={})
    made.commits[LATER] = {"data/train.csv": csv_bytes(tickets(12))}
    made.head = LATER
    again = fetched({**HUB, "revision": COMMIT}, name="Again", begin={})
    newest = fetched(HUB, name="Newest", begin={})
    assert first.content_hash == again.content_hash != newest.content_hash
    assert sources_of(first)["train"].sha256 == sources_of(again)["train"].sha256
    assert sources_of(newest)["train"].origin["revision"] == LATER


def test_gated_data_sets_want_a_token(fetched, hub, keep_secret, browser, caplog):
    caplog.set_level(logging.DEBUG)
    made = hub(SHARDS, token=CANARY)
    refused = fetched(HUB, name="Refused")
    assert fetch_of(refused).error_code == "access_refused"
    assert "gated" in fetch_of(refused).error
    keep_secret("hub_token", "hf", CANARY)
    version = fetched({**HUB, "secret": "hf"}, begin={})
    assert version.status == "ready"
    assert all(headers.get("authorization") == f"Bearer {CANARY}" for _, headers in made.server.asked[-3:])
    assert CANARY not in caplog.text
    assert CANARY not in browser.get(f"/t/service-desk/dataset-versions/{version.pk}/").content.decode()


@pytest.mark.parametrize("place", ["declared", "folders"])
def test_configurations_are_chosen_by_name(fetched, hub, place):
    files = {"en/train.csv": csv_bytes(tickets(15)), "ru/train.csv": csv_bytes(tickets(25))}
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*.csv"}]} for name in ("en", "ru")
    ]
    hub(files, card={"configs": configs} if place == "declared" else {})
    unnamed = fetched(HUB, name="Unnamed")
    assert fetch_of(unnamed).error == "Name one of the data set's configurations: en, ru."
    assert fetched({**HUB, "config": "ru"}, begin={}).total_rows == 25
    assert fetch_of(fetched({**HUB, "config": "fr"}, name="French")).error_code == "source_config"


def test_one_split_alone_is_for_training(fetched, hub):
    hub(SHARDS)
    version = fetched({**HUB, "split": "test"})
    assert list(sources_of(version)) == ["train"]
    assert fetch_of(fetched({**HUB, "split": "dev"}, name="Dev")).error.startswith("The data set has no split “dev”")


def test_what_the_hub_announces_is_compared(fetched, hub, monkeypatch):
    made = hub(SHARDS)
    whole = made.__class__.__call__

    def damaged(self, path, query, headers):
        answer = whole(self, path, query, headers)
        return Answer(answer.content[:-9] + b"x" * 9) if "/resolve/" in path else answer

    monkeypatch.setattr(SimulatedHub, "__call__", damaged)
    assert fetch_of(fetched(HUB)).error_code == "source_changed"


def test_a_data_set_that_is_not_there(fetched, hub):
    hub(SHARDS)
    assert "no such data set" in fetch_of(fetched({**HUB, "dataset": "team/nothing"})).error
    assert fetch_of(fetched({**HUB, "revision": "a" * 40}, name="B")).error_code == "source_not_found"


# --- Kaggle ------------------------------------------------------------------------------------------------------


def test_kaggle_archives_of_a_version(fetched, settings, keep_secret):
    archives = {
        "1": zipped({"train.csv": csv_bytes(tickets(10)), "test.csv": csv_bytes(tickets(14)[10:])}),
        "2": zipped({"tickets.csv": csv_bytes(tickets(22))}),
    }
    keep_secret("kaggle_token", "kaggle", f'{{"username": "anna", "key": "{CANARY}"}}')
    source = {"kind": "kaggle", "dataset": "team/tickets", "secret": "kaggle"}
    with serving(SimulatedKaggle(archives, f"anna:{CANARY}")) as kaggle:
        settings.KAGGLE_ENDPOINT = kaggle.url
        current, first = fetched(source), fetched({**source, "version": "1"}, name="First", begin={})
        refused = fetched({"kind": "kaggle", "dataset": "team/tickets"}, name="Refused")
    assert sources_of(current)["train"].origin["revision"] == "version 2"
    assert (first.train_rows, first.test_rows) == (10, 4)
    assert fetch_of(refused).error_code == "access_refused"


# --- Azure -------------------------------------------------------------------------------------------------------

BLOBS = {
    "2026/train.csv": csv_bytes(tickets(16)),
    "2026/validation.csv": csv_bytes(tickets(20)[16:]),
    "2026/notes.docx": b"PK",
    "2026/a&b ü.csv": b"",
    "other.jsonl": jsonl_bytes([{"prompt": "a", "response": "b"}] * 3),
}
AZURE = {"kind": "azure", "account": "devaccount", "container": "tickets"}


@pytest.mark.parametrize("credential", ["key", "signature"])
def test_azure_blobs(fetched, keep_secret, credential):
    key = b"0123456789abcdef"
    simulated = SimulatedAzure({k: v for k, v in BLOBS.items() if v}, key=key if credential == "key" else b"")
    simulated.signature = "s/i+g=" if credential == "signature" else ""
    text = base64.b64encode(key).decode() if credential == "key" else "?sv=2021-12-02&sp=rl&sig=s%2Fi%2Bg%3D"
    keep_secret("azure_key", "azure", text)
    with serving(simulated) as azure:
        source = {**AZURE, "endpoint": f"{azure.url}/devaccount", "secret": "azure"}
        if credential == "key":
            simulated._expected = with_path_style(simulated)
        folder = fetched({**source, "blob": "2026/"}, begin={})
        single = fetched({**source, "blob": "other.jsonl"}, name="Single")
        missing = fetched({**source, "blob": "nothing.csv"}, name="Missing")
        refused = fetched({**AZURE, "endpoint": f"{azure.url}/devaccount", "blob": "other.jsonl"}, name="Refused")
    assert (folder.train_rows, folder.validation_rows) == (16, 4)
    assert sources_of(single)["train"].origin["address"].endswith("/tickets/other.jsonl")
    assert fetch_of(missing).error_code == "source_not_found"
    assert fetch_of(refused).error_code == "access_refused"
    for version in (folder, single, missing, refused):
        assert text not in str(vars(fetch_of(version)))


def with_path_style(simulated: SimulatedAzure):
    """An endpoint with the account in its path signs both."""
    plain = SimulatedAzure._expected
    return lambda path, query, headers: plain(simulated, path, query, headers)


def test_signatures_do_not_leave_for_anywhere(fetched, settings, keep_secret):
    settings.OUTBOUND_ALLOW = []
    keep_secret("azure_key", "azure", "sv=1&sig=x")
    source = {**AZURE, "blob": "a.csv", "secret": "azure", "endpoint": "https://evil.example.org"}
    fetch = fetch_of(fetched(source))
    assert fetch.error.startswith("Signatures are sent to Azure only.")
