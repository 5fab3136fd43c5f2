"""Pages and API of sources elsewhere: who may, what is refused, what is shown; and workers that are lost."""

from __future__ import annotations

import os
from datetime import timedelta
from uuid import UUID

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets_app import tasks
from datasets_app.claims import ClaimLost
from datasets_app.models import Dataset, DatasetVersion, RemoteFetch
from datasets_app.remote import fetching, lifecycle
from datasets_app.remote.services import MOST_AT_ONCE, start_fetch
from datasets_app.remote.spec import KINDS, read_source, shown_address
from portal import secrets
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.models import Quota, Role
from portal.rls import all_teams, team_scope
from tests.datasets_app.files import csv_bytes, tickets
from tests.datasets_app.remote.conftest import fetch_of, fresh, sources_of
from tests.datasets_app.remote.loopback import Answer, serving
from tests.processes import environment

IMPORT = "/t/service-desk/datasets/import/"


def newest() -> DatasetVersion:
    with all_teams("test"):
        return DatasetVersion.unscoped.order_by("-created_at").select_related("dataset", "team").first()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_page(browser, kind, ready_version):
    page = browser.get(f"{IMPORT}{kind}/").content.decode()
    assert "What happens" in page
    assert f'href="{IMPORT}{kind}/" aria-current="page"' in page
    other = browser.get(f"/t/service-desk/datasets/{ready_version.dataset_id}/import/{kind}/").content.decode()
    assert 'name="name"' not in other


def test_kinds_that_do_not_exist(browser):
    assert browser.get(f"{IMPORT}ftp/").status_code == 404
    assert f'href="{IMPORT}huggingface/"' in browser.get(IMPORT).content.decode()


def test_from_the_form_to_the_mapping(browser):
    with serving(lambda *_: Answer(csv_bytes(tickets(12)))) as web:
        sent = browser.post(f"{IMPORT}url/", {"name": "Tickets", "source_url": f"{web.url}/t.csv?sig=CANARY"})
        version = newest()
        address = f"/t/service-desk/dataset-versions/{version.pk}/"
        assert sent.headers["Location"] == address
        waiting = browser.get(address).content.decode()
        assert "Waiting for a free worker" in waiting
        assert "CANARY" not in waiting
        assert browser.get(f"{address}fetching/").status_code == 200
        assert browser.get(f"{address}mapping/").status_code == 200  # too early: shows how far it is
        fetching.run(version.pk)
    done = browser.get(f"{address}fetching/")
    assert done.status_code == 286
    assert browser.get(address).headers["Location"] == f"{address}mapping/"
    assert "t.csv" in browser.get(f"{address}mapping/").content.decode()
    assert fresh(version).status == "draft"


@pytest.mark.parametrize(
    ("kind", "sent", "words"),
    [
        ("url", {"source_url": "ftp://x/y"}, "begins with https://"),
        ("url", {"source_url": "https://me:CANARY@example.org/x"}, "must not carry a name or password"),
        ("url", {}, "This field is required"),
        ("kaggle", {"source_dataset": "x; id"}, "owner/slug"),
        ("s3", {"source_bucket": "B", "source_key": "a"}, "lower-case"),
        ("s3", {"source_bucket": "tickets", "source_key": "a", "source_region": "eu west"}, "eu-central-1"),
        ("azure", {"source_account": "a b", "source_container": "abc", "source_blob": "x"}, "3 to 24"),
        ("huggingface", {"source_dataset": "../../etc"}, "owner/name"),
        ("huggingface", {"source_dataset": "a/b", "source_secret": "not-ours"}, "not one of the available choices"),
    ],
)
def test_forms_say_what_is_wrong_and_make_nothing(browser, kind, sent, words):
    answer = browser.post(f"{IMPORT}{kind}/", {"name": "Tickets", **sent})
    assert answer.status_code == 400
    assert words in answer.content.decode()
    with all_teams("test"):
        assert not Dataset.unscoped.exists()


BAD_SLUGS = [
    "x; id",
    "owner/slug; id", "owner/slug && id", "$(id)/x", "`id`/x", "owner", "owner/slug/more", "../slug", "owner/..",
    "owner/slug\n", "owner/slug?x=1", "owner/slug#x", "-rf/slug", "owner/slug --help", "https://kaggle.com/owner/slug",
    "owner%2fslug", "", "owner /slug", "owner/sl ug", "@owner/slug", 5, None, ["owner/slug"], {"a": 1}, True,
]  # fmt: skip


@pytest.mark.parametrize("slug", BAD_SLUGS)
def test_only_owner_and_slug_reach_kaggle(api, slug):
    answer = api.post(
        "/api/datasets/", {"name": "T", "source": {"kind": "kaggle", "dataset": slug}}, content_type="application/json"
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "source.dataset"
    with all_teams("test"):
        assert not DatasetVersion.unscoped.exists()


@pytest.mark.parametrize(
    ("source", "param"),
    [
        ("text", "source"),
        ([], "source"),
        ({}, "source.kind"),
        ({"kind": "ftp"}, "source.kind"),
        ({"kind": ["url"]}, "source.kind"),
        ({"kind": "url", "url": "https://a.example/x", "password": "x"}, "source"),
        ({"kind": "url", "url": "https://a b/x"}, "source.url"),
        ({"kind": "s3", "bucket": "tickets", "key": "a/../b"}, "source.key"),
        ({"kind": "s3", "bucket": "tickets", "key": "a", "secret": "nothing"}, "source.secret"),
        ({"kind": "huggingface", "dataset": "a/b", "revision": "x y"}, "source.revision"),
    ],
)
def test_the_api_names_what_is_wrong(api, source, param):
    answer = api.post("/api/datasets/", {"name": "T", "source": source}, content_type="application/json")
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"]["param"] == param


def test_the_api_fetches_and_imports(api, stranger_api):
    with serving(lambda *_: Answer(csv_bytes(tickets(12), header=("a", "b")))) as web:
        body = {
            "name": "T",
            "source": {"kind": "url", "url": f"{web.url}/t.csv"},
            "mapping": {"prompt": "a", "response": "b"},
        }
        made = api.post("/api/datasets/", body, content_type="application/json")
        assert made.status_code == 201, made.content
        address = f"/api/dataset-versions/{made.json()['id']}/"
        assert made.json()["status"] == "fetching"
        assert made.json()["fetch"]["kind"] == "url"
        fetching.run(UUID(made.json()["id"]))
    tasks.import_version(made.json()["id"])
    done = api.get(address).json()
    assert (done["status"], done["fetch"]["status"]) == ("ready", "done")
    assert done["mapping"]["prompt"] == "a"
    assert done["sources"][0]["origin"]["address"] == f"{web.url}/t.csv"
    assert stranger_api.get(address).status_code == 404
    version = api.post(
        f"/api/datasets/{made.json()['dataset']}/versions/",
        {"source": {"kind": "url", "url": f"{web.url}/u.csv"}},
        content_type="application/json",
    )
    assert version.json()["number"] == 2
    fetching.run(UUID(version.json()["id"]))
    failed = api.get(f"/api/dataset-versions/{version.json()['id']}/").json()["fetch"]
    assert (failed["status"], failed["error_code"]) == ("failed", "source_unreachable")


def test_files_and_a_source_together_are_refused(api):
    from tests.datasets_app.files import csv_upload

    sent = {
        "name": "T",
        "train_file": csv_upload(tickets(3)),
        "source": '{"kind": "url", "url": "https://a.example/x"}',
    }
    assert api.post("/api/datasets/", sent).json()["error"]["param"] == "source"


def test_a_secret_of_another_team_does_not_exist(team, other_team, charlie, actor, keep_secret):
    with team_scope(other_team.pk):
        secrets.store(team=other_team, kind="hub_token", name="theirs", text="x", actor=Actor(user=charlie))
    keep_secret("storage_key", "bucket", "a:b")
    with team_scope(team.pk):
        for name in ("theirs", "bucket", "nothing"):  # not ours; of another kind; of nobody
            with pytest.raises(InvalidInput) as refused:
                start_fetch(
                    team=team, actor=actor, name="T", source={"kind": "huggingface", "dataset": "a/b", "secret": name}
                )
            assert refused.value.param == "source.secret"


def test_failed_ones_are_tried_again_or_discarded(browser, client_for, bob, fetched):
    with serving(lambda *_: Answer(b"", 503)) as web:
        version = fetched({"kind": "url", "url": f"{web.url}/t.csv"})
    address = f"/t/service-desk/dataset-versions/{version.pk}/"
    page = browser.get(address).content.decode()
    assert "The files did not come" in page
    assert "answers with an error" in page
    assert "fetch-again" not in client_for(bob).get(address).content.decode()
    assert client_for(bob).post(f"{address}fetch-again/").status_code == 403
    assert browser.post(f"{address}fetch-again/").status_code == 302
    assert fetch_of(version).status == RemoteFetch.Status.QUEUED
    assert browser.post(f"{address}fetch-again/", follow=True).status_code == 200  # a second press changes nothing
    assert browser.post(f"{address}discard/").status_code == 302
    with all_teams("test"):
        assert not RemoteFetch.unscoped.filter(status=RemoteFetch.Status.QUEUED, version__deleted_at=None).exists()
    fetching.run(version.pk)  # the message that is still on the queue


def test_a_fetch_is_stopped_by_discarding_its_version(team, actor, browser, monkeypatch):
    def discard_first(job: lifecycle.FetchJob) -> str:
        assert browser.post(f"/t/service-desk/dataset-versions/{job.version_id}/discard/").status_code == 302
        return ""

    monkeypatch.setattr(lifecycle, "secret_of", discard_first)
    with serving(lambda *_: Answer(csv_bytes(tickets(30)))) as web:
        with team_scope(team.pk):
            version = start_fetch(team=team, actor=actor, name="T", source={"kind": "url", "url": f"{web.url}/t.csv"})
        fetching.run(version.pk)
    assert not any(path.is_file() for path in (team.folder / "datasets").rglob("*"))


def test_a_worker_that_was_given_up_leaves_the_files_of_its_successor_alone(team, actor, monkeypatch):
    gather, is_second = fetching.gather, []

    def slow(*arguments, **more):
        gathered = gather(*arguments, **more)
        if not is_second:
            is_second.append(True)
            with all_teams("test"):
                RemoteFetch.unscoped.update(heartbeat_at=timezone.now() - timedelta(days=1))
            assert lifecycle.requeue_stalled_fetches() == 1
            fetching.run(version.pk)
        return gathered

    monkeypatch.setattr(fetching, "gather", slow)
    with serving(lambda *_: Answer(csv_bytes(tickets(30)))) as web:
        with team_scope(team.pk):
            version = start_fetch(team=team, actor=actor, name="T", source={"kind": "url", "url": f"{web.url}/t.csv"})
        fetching.run(version.pk)
    assert fresh(version).status == "draft"
    with team_scope(team.pk):
        assert version.sources.get().path.read_bytes() == csv_bytes(tickets(30))


def test_what_there_is_no_room_for_is_not_fetched(team, fetched, monkeypatch):
    from portal import quotas
    from portal.errors import QuotaExceeded

    def full(team, kind, used, *, adding, lock):
        assert (kind, adding) == (Quota.STORAGE_BYTES, len(content))
        raise QuotaExceeded("No room.")

    content = csv_bytes(tickets(30))
    monkeypatch.setattr(quotas, "require_room", full)
    with serving(lambda *_: Answer(content)) as web:
        version = fetched({"kind": "url", "url": f"{web.url}/t.csv"})
    assert fetch_of(version).error == "No room."
    assert sources_of(version) == {}


def test_a_worker_that_was_lost_changes_nothing(team, actor, settings):
    with team_scope(team.pk):
        version = start_fetch(
            team=team, actor=actor, name="T", source={"kind": "url", "url": "http://127.0.0.1:9/t.csv"}
        )
    first = lifecycle.claim_fetch(version.pk)
    assert lifecycle.claim_fetch(version.pk) is None  # somebody works on it
    with team_scope(team.pk):
        RemoteFetch.unscoped.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    assert lifecycle.requeue_stalled_fetches() == 1
    second = lifecycle.claim_fetch(version.pk)
    assert second is not None
    with pytest.raises(ClaimLost):
        lifecycle.report_progress(first, 1, 2)
    lifecycle.report_progress(second, 1, 2)
    for _ in range(3):
        with team_scope(team.pk):
            RemoteFetch.unscoped.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
        lifecycle.claim_fetch(version.pk)
    assert fetch_of(version).error_code == "gave_up"


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_queue_starts_a_process_of_its_own(team, actor, monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TUNEPORT_EMBEDDED_PG", raising=False)
    monkeypatch.setenv("TUNEPORT_OUTBOUND_ALLOW", "127.0.0.1")
    with serving(lambda *_: Answer(csv_bytes(tickets(30)))) as web:
        with team_scope(team.pk):
            version = start_fetch(team=team, actor=actor, name="T", source={"kind": "url", "url": f"{web.url}/t.csv"})
        pid = fetching.spawn(version.pk)
        assert os.waitpid(pid, 0)[1] == 0
    assert fresh(version).status == "draft"
    assert tasks.fetch_version(str(version.pk)) is None  # a message that comes twice starts nothing
    assert fetching.spawn(version.pk) is None


def test_one_team_does_not_take_all_the_network(browser, api, team, actor):
    source = {"kind": "url", "url": "https://example.org/t.csv"}
    with team_scope(team.pk):
        for number in range(MOST_AT_ONCE):
            start_fetch(team=team, actor=actor, name=f"T{number}", source=source)
    answer = api.post("/api/datasets/", {"name": "T", "source": source}, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_fetches")
    page = browser.post(f"{IMPORT}url/", {"name": "T", "source_url": source["url"]})
    assert "Wait until one of them is here" in page.content.decode()


def test_who_lost_the_right_fetches_nothing(team, alice, actor):
    with team_scope(team.pk):
        version = start_fetch(team=team, actor=actor, name="T", source={"kind": "url", "url": "http://127.0.0.1:9/t"})
        team.memberships.filter(user=alice).update(role=Role.VIEWER)
    fetching.run(version.pk)
    assert "may no longer change datasets" in fetch_of(version).error


TEXT = st.text(max_size=30)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    st.one_of(
        st.none(),
        TEXT,
        st.dictionaries(TEXT, TEXT, max_size=3),
        st.builds(
            lambda kind, more: {"kind": kind, **more},
            st.sampled_from(KINDS),
            st.dictionaries(
                st.sampled_from(["url", "bucket", "key", "dataset", "account", "secret", "endpoint"]), TEXT
            ),
        ),
    )
)
def test_anything_is_a_source_or_a_refusal(given_source):
    param = ""
    try:
        source = read_source(given_source)
    except InvalidInput as refused:
        param = refused.param or "none"
    assert param.startswith("source") if param else "\n" not in shown_address(source)
