"""Uploads in parts: the protocol, whose they are, what they count, and a connection that really breaks."""

from __future__ import annotations

import base64
import hashlib
import os
import resource
import socket
import time
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from datasets_app import arrivals, services, tasks, tus
from datasets_app.models import DatasetVersion, ResumableUpload, Split
from portal import usage
from portal.actors import Actor
from portal.models import Quota, Role
from portal.rls import all_teams, team_scope
from tests.datasets_app.files import csv_bytes, tickets, upload

CONTENT = csv_bytes(tickets(200))
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TUS = {"Tus-Resumable": "1.0.0"}
PART = "application/offset+octet-stream"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def begin(client, url="/api/uploads/", *, size=SIZE, name="tickets.csv", **metadata):
    pairs = {"filename": name, **metadata}
    header = ",".join(f"{key} {b64(value)}" for key, value in pairs.items())
    return client.post(url, headers={**TUS, "Upload-Length": str(size), "Upload-Metadata": header})


def send(client, url, content, offset, **headers):
    return client.patch(url, content, content_type=PART, headers={**TUS, "Upload-Offset": str(offset), **headers})


def uploaded(client, url="/api/uploads/", content=CONTENT, name="tickets.csv"):
    place = begin(client, url, size=len(content), name=name)["Location"]
    assert send(client, place, content, 0).status_code == 204
    return place


def pk_of(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


@pytest.fixture
def pages(team, client_for, alice):
    return client_for(alice), f"/t/{team.slug}/uploads/"


def test_what_is_spoken(api, settings):
    answer = api.options("/api/uploads/")
    assert answer.status_code == 204
    assert answer["Tus-Version"] == "1.0.0"
    assert set(answer["Tus-Extension"].split(",")) == {"creation", "expiration", "checksum", "termination"}
    assert answer["Tus-Max-Size"] == str(settings.MAX_DATASET_BYTES)


def test_parts_become_a_file_with_a_hash(api, team):
    answer = begin(api, sha256=SHA256)
    assert (answer.status_code, answer["Tus-Resumable"]) == (201, "1.0.0")
    place = answer["Location"]
    assert answer["Upload-Expires"].endswith("GMT")
    half = len(CONTENT) // 2
    answer = send(api, place, CONTENT[:half], 0)
    assert (answer.status_code, answer["Upload-Offset"]) == (204, str(half))
    answer = api.head(place, headers=TUS)
    assert (answer["Upload-Offset"], answer["Upload-Length"]) == (str(half), str(len(CONTENT)))
    assert answer["Cache-Control"] == "no-store"
    assert "Upload-Sha256" not in answer
    answer = send(api, place, CONTENT[half:], half)
    assert (answer.status_code, answer["Upload-Sha256"]) == (204, SHA256)
    with team_scope(team.pk):
        assert team.resumableuploads.get().path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Tus-Resumable": "0.2.2"}, 412),
        ({"Upload-Offset": "7"}, 409),
        ({"Upload-Offset": "-1"}, 400),
        ({"Upload-Offset": "x"}, 400),
        ({"Upload-Checksum": "md5 abc"}, 400),
        ({"Upload-Checksum": "sha256 " + base64.b64encode(b"0" * 32).decode()}, 460),
    ],
)
def test_parts_that_are_refused_leave_nothing(api, headers, status):
    place = begin(api)["Location"]
    answer = api.patch(place, CONTENT, content_type=PART, headers={**TUS, "Upload-Offset": "0", **headers})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert api.head(place, headers=TUS)["Upload-Offset"] == "0"


def test_a_part_of_another_type_or_beyond_the_end_is_refused(api):
    place = begin(api, size=10)["Location"]
    headers = {**TUS, "Upload-Offset": "0"}
    assert api.patch(place, b"x", content_type="text/csv", headers=headers).status_code == 415
    assert send(api, place, b"x" * 11, 0).status_code == 413
    assert api.head(place, headers=TUS)["Upload-Offset"] == "0"


def test_a_good_checksum_is_taken(api):
    place = begin(api)["Location"]
    checksum = base64.b64encode(hashlib.sha256(CONTENT[:100]).digest()).decode()
    assert send(api, place, CONTENT[:100], 0, **{"Upload-Checksum": f"sha256 {checksum}"}).status_code == 204


@pytest.mark.django_db(transaction=True)
def test_a_file_other_than_announced_is_thrown_away(api, team):
    place = begin(api, sha256="0" * 64)["Location"]
    answer = send(api, place, CONTENT, 0)
    assert answer.status_code == 460
    assert "SHA-256 differs" in answer.json()["error"]["message"]
    assert api.head(place, headers=TUS).status_code == 404
    assert not list((team.folder / "uploads").iterdir())


@pytest.mark.parametrize(
    ("size", "metadata", "status"),
    [(0, {}, 400), (2_000_000, {}, 413), (10, {"sha256": "zz"}, 400), ("x", {}, 400), ("9" * 30, {}, 400)],
)
def test_announcements_that_are_refused(api, settings, size, metadata, status):
    settings.MAX_DATASET_BYTES = 1_000_000
    answer = begin(api, size=size, **metadata)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    with all_teams("test"):
        assert not ResumableUpload.unscoped.exists()


def test_unreadable_metadata_is_refused(api):
    headers = {**TUS, "Upload-Length": "10", "Upload-Metadata": "filename ***"}
    assert api.post("/api/uploads/", headers=headers).status_code == 400


def test_storage_is_counted_before_a_byte_comes(api, team):
    with team_scope(team.pk):
        team.teamlimits.update_or_create(kind=Quota.STORAGE_BYTES, defaults={"value": 1000})
    assert begin(api, size=900).status_code == 201
    with team_scope(team.pk):
        assert usage.storage_bytes(team) == 900
    answer = begin(api, size=200)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")


def test_only_the_creator_continues_uses_or_ends_an_upload(pages, team, api, client_for, charlie, make_token, bob):
    browser, url = pages
    place = uploaded(browser, url)
    pk = pk_of(place)
    with team_scope(team.pk):
        team.memberships.filter(user=bob).update(role=Role.EDITOR)
    colleague = client_for(bob)
    colleague_api = Client(headers={"Authorization": f"Bearer {make_token(team, bob)}"})
    for other in (colleague, client_for(charlie)):
        assert other.head(place, headers=TUS).status_code == 404
        assert send(other, place, b"x", 0).status_code == 404
        assert other.delete(place, headers=TUS).status_code == 404
    answer = colleague_api.post(
        "/api/datasets/", {"name": "Stolen", "train_upload": pk}, content_type="application/json"
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "train_upload")
    answer = colleague.post(f"/t/{team.slug}/datasets/import/", {"name": "Stolen", "train_upload": pk})
    assert answer.status_code == 400
    assert "no such upload" in answer.content.decode()
    assert browser.head(place, headers=TUS)["Upload-Offset"] == str(len(CONTENT))


def test_rights_are_those_of_the_moment(pages, team, alice):
    browser, url = pages
    place = begin(browser, url)["Location"]
    with team_scope(team.pk):
        team.memberships.filter(user=alice).update(role=Role.VIEWER)
    assert send(browser, place, CONTENT, 0).status_code == 403
    with team_scope(team.pk):
        team.memberships.filter(user=alice).delete()
    assert send(browser, place, CONTENT, 0).status_code == 404


def test_pages_ask_for_the_csrf_token(team, alice, pages):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert begin(strict, pages[1]).status_code == 403


def test_an_upload_becomes_a_dataset_by_api(api, team):
    place = uploaded(api)
    body = {"name": "In parts", "train_upload": pk_of(place), "mapping": {"prompt": "prompt", "response": "response"}}
    answer = api.post("/api/datasets/", body, content_type="application/json")
    assert answer.status_code == 201, answer.content
    [source] = answer.json()["sources"]
    assert (source["sha256"], source["size_bytes"], source["name"]) == (SHA256, len(CONTENT), "tickets.csv")
    assert api.head(place, headers=TUS).status_code == 404  # taken over
    with team_scope(team.pk):
        assert usage.storage_bytes(team) == len(CONTENT)
        assert not team.resumableuploads.exists()
    tasks.import_version(answer.json()["id"])
    assert api.get(f"/api/dataset-versions/{answer.json()['id']}/").json()["status"] == "ready"


def test_a_refused_import_leaves_the_upload(api, team):
    place = uploaded(api, content=CONTENT + b"no answer,\n")
    answer = api.post(
        "/api/datasets/", {"name": "In parts", "train_upload": pk_of(place)}, content_type="application/json"
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["details"][0]["line"] == 202
    assert api.head(place, headers=TUS).status_code == 200
    with team_scope(team.pk):
        assert team.resumableuploads.get().path.exists()


@pytest.mark.parametrize("state", ["unfinished", "unknown"])
def test_uploads_that_are_not_there_yet(api, state):
    pk = pk_of(begin(api)["Location"]) if state == "unfinished" else "00000000-0000-0000-0000-000000000000"
    answer = api.post("/api/datasets/", {"name": "T", "train_upload": pk}, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "train_upload")


def test_an_upload_becomes_a_dataset_on_the_page(pages, team):
    browser, url = pages
    place = uploaded(browser, url, name="../../etc/<b>tickets</b>.csv")
    answer = browser.post(f"/t/{team.slug}/datasets/import/", {"name": "", "train_upload": pk_of(place)})
    assert answer.status_code == 400
    assert pk_of(place) in answer.content.decode()  # it need not come again
    answer = browser.post(f"/t/{team.slug}/datasets/import/", {"name": "Parts", "train_upload": pk_of(place)})
    assert answer.status_code == 302, answer.content.decode()
    with team_scope(team.pk):
        source = team.sourcefiles.get()
        assert (source.name, source.sha256) == ("b>.csv", SHA256)


@pytest.mark.django_db(transaction=True)
def test_throwing_away(api, team):
    place = uploaded(api)
    assert api.delete(place, headers=TUS).status_code == 204
    assert api.head(place, headers=TUS).status_code == 404
    assert not list((team.folder / "uploads").iterdir())


@pytest.mark.django_db(transaction=True)
def test_the_clock_throws_away_what_nobody_wants_any_more(api, team, actor):
    old, new = uploaded(api), uploaded(api)
    with team_scope(team.pk):
        drafts = [
            services.start_import(team=team, actor=actor, name=name, files={Split.TRAIN: upload(CONTENT)})
            for name in ("Old", "New")
        ]
        ResumableUpload.unscoped.filter(pk=pk_of(old)).update(expires_at=timezone.now() - timedelta(seconds=1))
        DatasetVersion.unscoped.filter(pk=drafts[0].pk).update(created_at=timezone.now() - timedelta(days=8))
    assert api.head(old, headers=TUS).status_code == 404  # its time is up, the clock or not
    with team_scope(team.pk):
        folders = {draft.pk: draft.folder for draft in drafts}
    orphans = [team.folder / "uploads" / f"{uuid4()}.bin" for _ in range(2)]
    for orphan in orphans:
        orphan.touch()
    os.utime(orphans[0], (0, 0))
    assert tasks.prune() == 3
    assert [orphan.exists() for orphan in orphans] == [False, True]  # the second may be about to get its row
    orphans[1].unlink()
    assert api.head(new, headers=TUS).status_code == 200
    assert [path.stem for path in (team.folder / "uploads").iterdir()] == [pk_of(new)]
    assert not folders[drafts[0].pk].exists()
    with team_scope(team.pk):
        assert [dataset.name for dataset in team.datasets.all()] == ["New"]


def test_two_parts_at_once(api, team):
    place = begin(api)["Location"]
    with team_scope(team.pk):
        upload = team.resumableuploads.get()
    with arrivals._locked(upload):
        assert send(api, place, CONTENT, 0).status_code == 423
    assert send(api, place, CONTENT, 0).status_code == 204


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_breaks_in_the_middle(live_server, api, token, team):
    content = csv_bytes(tickets(40_000))
    assert len(content) > 3_000_000
    place = begin(api, size=len(content), sha256=hashlib.sha256(content).hexdigest())["Location"]
    server = urlsplit(live_server.url)
    lines = [
        f"PATCH {place} HTTP/1.1", f"Host: {server.netloc}", f"Authorization: Bearer {token}", "Tus-Resumable: 1.0.0",
        f"Content-Type: {PART}", "Upload-Offset: 0", f"Content-Length: {len(content)}", "", "",
    ]  # fmt: skip
    with socket.create_connection((server.hostname, server.port)) as connection:
        connection.sendall("\r\n".join(lines).encode() + content[:2_000_000])
    until = time.monotonic() + 20
    while (here := int(api.head(place, headers=TUS)["Upload-Offset"])) < 2_000_000 and time.monotonic() < until:
        time.sleep(0.1)
    assert 1_900_000 < here <= 2_000_000
    while (answer := send(api, place, content[here:], here)).status_code == 423 and time.monotonic() < until:
        time.sleep(0.1)  # the server has not noticed yet
    assert (answer.status_code, answer["Upload-Sha256"]) == (204, hashlib.sha256(content).hexdigest())
    with team_scope(team.pk):
        assert team.resumableuploads.get().path.read_bytes() == content


def test_a_file_just_over_the_limit_is_said_and_not_lost(pages, api, team, settings, tmp_path):
    settings.FILE_UPLOAD_TEMP_DIR = tmp_path
    settings.MAX_UPLOAD_BYTES = 1000
    browser, _url = pages
    address = f"/t/{team.slug}/datasets/import/"
    for size, status in ((1000, 302), (1001, 413), (1500, 413), (900_000, 413)):
        content = (b"prompt,response\n" + b"a,b\n" * (size // 4))[: size - 4].rstrip(b"\n,ab") + b"\n"
        content += b"x" * (size - len(content) - 3) + b",y\n"
        assert len(content) == size
        answer = browser.post(address, {"name": f"Size {size}", "train_file": upload(content)})
        assert answer.status_code == status, size
        if status == 413:
            assert "larger than" in answer.content.decode()
            answer = api.post("/api/datasets/", {"name": f"Size {size}", "train_file": upload(content)})
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
        assert not list(tmp_path.glob("*.upload*"))


@pytest.mark.parametrize("gone", ["before it is written", "while it is written"])
def test_a_part_of_an_upload_that_is_thrown_away_meanwhile(api, team, actor, monkeypatch, gone):
    place = begin(api)["Location"]
    append = arrivals.append

    def late(found: ResumableUpload, *args, **kwargs):
        written = append(found, *args, **kwargs) if gone == "while it is written" else None
        with team_scope(team.pk):
            arrivals.discard(upload=found, actor=actor)
        found.path.unlink(missing_ok=True)  # at the commit, which tests do not reach
        return append(found, *args, **kwargs) if written is None else written

    monkeypatch.setattr(arrivals, "append", late)
    assert send(api, place, CONTENT, 0).status_code == 404
    with team_scope(team.pk):
        assert not ResumableUpload.unscoped.exists()


def test_a_sender_who_went_away_does_not_keep_the_lock(rf, team, actor, api):
    """The server's socket times out while a part comes, and only then."""
    place = begin(api)["Location"]
    ours, theirs = socket.socketpair()
    request = rf.generic("PATCH", place, b"x", content_type=PART, headers={**TUS, "Upload-Offset": "0"})
    with ours, theirs, theirs.makefile("rb") as stream:
        ours.sendall(CONTENT[:100])
        request.META["gunicorn.socket"] = theirs
        request.META["CONTENT_LENGTH"] = str(len(CONTENT))
        request._stream, request._read_started = stream, False
        with team_scope(team.pk):
            upload = team.resumableuploads.get()
        begun = time.monotonic()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tus, "SILENCE_S", 0.2)
            answer = tus.patch(request, team, Actor(user=upload.created_by, token=None), upload.pk)
        assert (answer.status_code, theirs.gettimeout()) == (400, None)
    assert time.monotonic() - begun < 10
    assert send(api, place, CONTENT, 0).status_code in (204, 409)


@pytest.mark.django_db(transaction=True)
def test_memory_does_not_grow_with_a_part(live_server, api, token, team):
    size, block = 192 << 20, b"prompt,response\n" * 65_536
    place = begin(api, size=size)["Location"]
    server = urlsplit(live_server.url)
    lines = [
        f"PATCH {place} HTTP/1.1", f"Host: {server.netloc}", f"Authorization: Bearer {token}", "Tus-Resumable: 1.0.0",
        f"Content-Type: {PART}", "Upload-Offset: 0", f"Content-Length: {size}", "Connection: close", "", "",
    ]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with socket.create_connection((server.hostname, server.port)) as connection:
        connection.sendall("\r\n".join(lines).encode())
        for _ in range(size // len(block)):
            connection.sendall(block)
        assert b" 204 " in connection.recv(1000)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 48
    digest = hashlib.sha256()
    for _ in range(size // len(block)):
        digest.update(block)
    assert api.head(place, headers=TUS)["Upload-Sha256"] == digest.hexdigest()
