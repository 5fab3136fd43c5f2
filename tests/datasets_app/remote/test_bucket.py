"""Buckets of S3, against an S3 server on this machine that checks signatures (moto)."""

from __future__ import annotations

import json
import logging

import boto3
import pytest

from portal import outbound, reachable
from tests.datasets_app.files import csv_bytes, jsonl_bytes, tickets
from tests.datasets_app.remote.conftest import fetch_of, sources_of

server = pytest.importorskip("moto.server")
READER = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": "*"}]}
FILES = {
    "2026/train-01.csv": csv_bytes(tickets(20)),
    "2026/train-02.csv": csv_bytes(tickets(31)[20:]).rstrip(b"\r\n"),
    "2026/validation.csv": csv_bytes(tickets(36)[31:]),
    "2026/README.md": b"notes",
    "single.jsonl": jsonl_bytes([{"prompt": f"Question {n}", "response": "Answer"} for n in range(9)]),
    "mixed/a.csv": csv_bytes(tickets(5)),
    "mixed/b.csv": csv_bytes([("a", "b", "c")], header=("x", "y", "z")),
    "empty/notes.txt.bak": b"nothing",
}


@pytest.fixture(scope="module")
def s3():
    """A server with one bucket, and the keys of somebody who may read it; yields (endpoint, key id, key)."""
    from moto.core import set_initial_no_auth_action_count

    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    _host, port = running.get_host_and_port()
    url = f"http://127.0.0.1:{port}"
    made = {"region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "x", "endpoint_url": url}
    boto3.client("iam", **made).create_user(UserName="reader")
    boto3.client("iam", **made).put_user_policy(UserName="reader", PolicyName="all", PolicyDocument=json.dumps(READER))
    keys = boto3.client("iam", **made).create_access_key(UserName="reader")["AccessKey"]
    client = boto3.client("s3", **made)
    client.create_bucket(Bucket="tickets")
    for key, content in FILES.items():
        client.put_object(Bucket="tickets", Key=key, Body=content)
    import requests

    # From here on signatures are checked.
    requests.post(f"{url}/moto-api/reset-auth", data=b"0", timeout=10)
    assert set_initial_no_auth_action_count
    yield url, keys["AccessKeyId"], keys["SecretAccessKey"]
    running.stop()


@pytest.fixture
def source(s3, keep_secret) -> dict[str, str]:
    url, name, key = s3
    keep_secret("storage_key", "bucket", f"{name}:{key}")
    return {"kind": "s3", "endpoint": url, "bucket": "tickets", "key": "single.jsonl", "secret": "bucket"}


def test_one_key(source, fetched):
    version = fetched(source, begin={})
    assert (version.status, version.total_rows) == ("ready", 9)
    origin = sources_of(version)["train"].origin
    assert (origin["kind"], origin["address"]) == ("s3", "s3://tickets/single.jsonl")
    assert len(origin["revision"]) == 32
    assert sources_of(version)["train"].path.read_bytes() == FILES["single.jsonl"]


def test_a_folder_with_pieces_and_splits(source, fetched):
    version = fetched({**source, "key": "2026/"}, begin={})
    assert (version.status, version.train_rows, version.validation_rows) == ("ready", 31, 5)
    assert len(sources_of(version)["train"].origin["files"]) == 2


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"key": "nothing.csv"}, "source_not_found", "no such bucket or key"),
        ({"bucket": "another"}, "source_not_found", "no such bucket or key"),
        ({"key": "mixed/"}, "shards_differ", "other columns"),
        ({"key": "empty/"}, "source_empty", "No table is there"),
        ({"key": "nowhere/"}, "source_empty", "No table is there"),
        ({"endpoint": "http://127.0.0.1:9"}, "source_unreachable", "cannot be reached"),
    ],
)
def test_what_is_wrong_is_said(source, fetched, changed, code, words):
    fetch = fetch_of(fetched({**source, **changed}))
    assert fetch.error_code == code, fetch.error
    assert words in fetch.error


@pytest.mark.parametrize("which", ["key", "name", "none"])
def test_a_wrong_key_is_a_sentence_and_is_seen_nowhere(source, s3, fetched, keep_secret, browser, caplog, which):
    caplog.set_level(logging.DEBUG)
    _url, name, key = s3
    wrong = {"key": f"{name}:CANARYwrong4711", "name": f"AKIACANARY4711:{key}", "none": ""}[which]
    if wrong:
        keep_secret("storage_key", "wrong", wrong)
    version = fetched({**source, "secret": "wrong" if wrong else ""})
    fetch = fetch_of(version)
    assert fetch.error_code == "access_refused"
    assert "refuses access" in fetch.error
    page = browser.get(f"/t/service-desk/dataset-versions/{version.pk}/").content.decode()
    assert "refuses access" in page
    said = "\n".join(one.getMessage() for one in caplog.records if one.name.split(".")[0] not in ("moto", "werkzeug"))
    for text in (said, page, fetch.error, str(fetch.source)):
        assert "CANARY" not in text
        assert key not in text


def test_a_malformed_secret_is_a_sentence(source, fetched, keep_secret):
    keep_secret("storage_key", "half", "CANARYonly")
    fetch = fetch_of(fetched({**source, "secret": "half"}))
    assert fetch.error == "The secret must have the form ACCESS_KEY_ID:SECRET_ACCESS_KEY. Store it again."


def test_boto_sends_nothing_past_the_guard(source, fetched, settings, monkeypatch):
    settings.OUTBOUND_ALLOW = []
    asked = []
    real = reachable.require_allowed
    monkeypatch.setattr(outbound, "require_allowed", lambda url: asked.append(url) or real(url))
    assert fetch_of(fetched(source)).error_code == "address_refused"
    assert len(asked) == 1


def test_the_machines_own_credentials_are_not_used(source, fetched, monkeypatch, tmp_path, s3):
    _url, name, key = s3
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", name)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://169.254.169.254")
    (tmp_path / "config").write_text("[default]\nregion = mars-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert fetch_of(fetched({**source, "secret": ""})).error_code == "access_refused"


def test_too_large_is_refused_by_its_size(source, fetched, settings):
    settings.MAX_DATASET_BYTES = 10
    assert fetch_of(fetched(source)).error_code == "source_too_large"
