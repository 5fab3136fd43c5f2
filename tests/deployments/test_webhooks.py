"""C39: webhook endpoints with the official SDK, and deliveries that its `unwrap` believes, to a real receiver."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from datetime import timedelta

import openai
import pytest
from django.core.management import call_command
from django.utils import timezone
from openai import InvalidWebhookSignatureError, OpenAI

from deployments import tasks
from deployments.models import FineTuningJob, WebhookDelivery, WebhookEndpoint
from deployments.webhooks import outbox, sending, services
from deployments.webhooks.models import EVENT_TYPES
from experiments.models import Run
from experiments.services import cancel_run
from portal import outbound, secrets
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.models import AuditEvent, TeamSecret
from portal.rls import all_teams, team_scope
from tests.deployments.receiver import Received, Receiver
from tests.deployments.sdk import sdk
from tests.stage import *  # noqa: F403

pytestmark = [pytest.mark.slow, pytest.mark.django_db]

HOOK = {"name": "Status board", "event_types": list(EVENT_TYPES)}


@pytest.fixture
def client(token: str) -> OpenAI:
    return sdk(token)


@pytest.fixture
def receiver(settings) -> Iterator[Receiver]:
    settings.OUTBOUND_ALLOW = ["127.0.0.1"]
    with Receiver() as one:
        yield one


@pytest.fixture
def endpoint(client, receiver):
    """An endpoint that wants everything, with its secret."""
    return client.webhooks.create(url=receiver.url, **HOOK)


def row_of(public_id: str) -> WebhookEndpoint:
    with all_teams("test"):
        return WebhookEndpoint.unscoped.select_related("team").get(pk=public_id.removeprefix("we_"))


def emit(team, event_type: str, subject: str = "ftjob-1") -> WebhookDelivery:
    with team_scope(team.pk):
        outbox.emit(team, event_type, subject)
    return latest()


def latest() -> WebhookDelivery:
    with all_teams("test"):
        return WebhookDelivery.unscoped.select_related("endpoint__team").latest("created_at")


def let_pass(delivery: WebhookDelivery, **fields) -> None:
    with all_teams("test"):
        WebhookDelivery.unscoped.filter(pk=delivery.pk).update(next_try_at=timezone.now(), **fields)


def believed(client: OpenAI, received: Received, secret: str):
    return client.webhooks.unwrap(received.body, received.headers, secret=secret)


# --- endpoints ---------------------------------------------------------------------------------------------------


def test_an_endpoint_is_made_listed_changed_and_deleted(client, endpoint, team):
    assert endpoint.signing_secret.startswith("whsec_")
    assert endpoint.signing_secret_hint.endswith(endpoint.signing_secret[-4:])
    shown = client.webhooks.retrieve(endpoint.id)
    assert (shown.name, shown.event_types, shown.url) == (HOOK["name"], HOOK["event_types"], endpoint.url)
    assert "signing_secret" not in shown.model_dump()
    more = [
        client.webhooks.create(url="https://example.org/b", name=f"b{n}", event_types=["batch.failed"]) for n in (1, 2)
    ]
    listed = [one.id for one in client.webhooks.list(limit=1)]
    assert listed[:3] == [more[1].id, more[0].id, endpoint.id]
    changed = client.webhooks.update(endpoint.id, name="New", event_types=["batch.failed"])
    assert (changed.name, changed.event_types, changed.url) == ("New", ["batch.failed"], endpoint.url)
    assert client.webhooks.event_types.list().data == list(EVENT_TYPES)
    assert client.webhooks.delete(endpoint.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(endpoint.id)
    with team_scope(team.pk):
        assert team.teamsecrets.filter(kind=TeamSecret.Kind.WEBHOOK).count() == 2
        actions = set(AuditEvent.objects.filter(action__startswith="webhook").values_list("action", flat=True))
    assert actions == {"webhook.created", "webhook.changed", "webhook.deleted"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"url": "http://example.org/plain"}, "url"),
        ({"url": "https://10.0.0.1/inside"}, "url"),
        ({"url": "https://[::1]/inside"}, "url"),
        ({"url": "https://name:word@example.org/"}, "url"),
        ({"url": "ftp://example.org/"}, "url"),
        ({"url": ""}, "url"),
        ({"event_types": ["response.completed"]}, "event_types"),
        ({"event_types": []}, "event_types"),
        ({"name": "x" * 101}, "name"),
        ({"extra_body": {"secret": "mine"}}, "secret"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_said_by_name(client, change, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.webhooks.create(**{"url": "https://example.org/hook", **HOOK, **change})
    assert caught.value.param == param


def test_only_admins_of_the_team_manage_endpoints(client, endpoint, team, bob, alice, stage, make_token):
    theirs, nobodys = sdk(stage.other_token), f"we_{'0' * 32}"
    for act in (theirs.webhooks.retrieve, theirs.webhooks.delete, theirs.webhooks.rotate_secret):
        bodies = set()
        for name in (endpoint.id, nobodys):
            with pytest.raises(openai.NotFoundError) as caught:
                act(name)
            bodies.add(str(caught.value.body))
        assert len(bodies) == 1
    with team_scope(team.pk):
        team.memberships.filter(user=bob).update(role="editor")
    editor = sdk(make_token(team, bob))
    assert editor.webhooks.retrieve(endpoint.id).id == endpoint.id
    for refused in (
        lambda: editor.webhooks.create(url="https://example.org/x", **HOOK),
        lambda: editor.webhooks.update(endpoint.id, name="y"),
        lambda: editor.webhooks.delete(endpoint.id),
        lambda: editor.webhooks.rotate_secret(endpoint.id),
        lambda: editor.webhooks.test(endpoint.id, event_type="batch.failed"),
    ):
        with pytest.raises(openai.PermissionDeniedError):
            refused()


# --- what is sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_every_kind_of_event_is_believed_also_while_secrets_change(client, team, endpoint, receiver, event_type):
    delivery = emit(team, event_type, "ftjob-abc")
    tasks.send_webhook(str(delivery.pk))
    event = believed(client, receiver.received[-1], endpoint.signing_secret)
    assert (event.type, event.data.id, event.object) == (event_type, "ftjob-abc", "event")
    rotated = client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != endpoint.signing_secret
    tasks.send_webhook(str(emit(team, event_type).pk))
    for secret in (endpoint.signing_secret, rotated.signing_secret):
        assert believed(client, receiver.received[-1], secret).type == event_type
    with all_teams("test"):
        WebhookEndpoint.unscoped.update(old_secret_until=timezone.now())
    sending.prune()
    tasks.send_webhook(str(emit(team, event_type).pk))
    assert believed(client, receiver.received[-1], rotated.signing_secret)
    with pytest.raises(InvalidWebhookSignatureError):
        believed(client, receiver.received[-1], endpoint.signing_secret)
    with all_teams("test"):
        assert TeamSecret.unscoped.filter(kind=TeamSecret.Kind.WEBHOOK).count() == 1


def test_rotation_at_once_and_what_was_tampered_with(client, team, endpoint, receiver):
    rotated = client.webhooks.rotate_secret(endpoint.id)
    tasks.send_webhook(str(emit(team, "batch.completed").pk))
    (received,) = receiver.received
    with pytest.raises(InvalidWebhookSignatureError):
        believed(client, received, endpoint.signing_secret)
    with pytest.raises(InvalidWebhookSignatureError):
        believed(client, Received(received.headers, received.body + b" "), rotated.signing_secret)
    assert len(received.body) < 20_000


def test_secrets_are_sealed_and_sealed_again_with_a_new_key(endpoint, team, settings):
    row = row_of(endpoint.id)
    with team_scope(team.pk):
        sealed = team.teamsecrets.get(name=row.secret_name)
        assert endpoint.signing_secret.encode() not in bytes(sealed.ciphertext)
    settings.OLD_SECRETS_KEYS, settings.SECRETS_KEY = [settings.SECRETS_KEY], "another key of this installation " * 2
    call_command("rotatesecrets")
    settings.OLD_SECRETS_KEYS = []
    with team_scope(team.pk):
        assert secrets.reveal(team=team, name=row.secret_name) == endpoint.signing_secret


# --- when it is sent ---------------------------------------------------------------------------------------------


def test_an_event_is_written_with_what_it_tells_of_or_not_at_all(endpoint, team):
    def events() -> int:
        with all_teams("test"):
            return WebhookDelivery.unscoped.filter(status="pending").count()

    class Undone(Exception):
        pass

    with pytest.raises(Undone), team_scope(team.pk):  # noqa: PT012
        outbox.emit(team, "batch.completed", "batch_1")
        assert events() == 1
        raise Undone
    assert events() == 0


def queued_job(world) -> FineTuningJob:
    with team_scope(world.team.pk):
        Run.unscoped.filter(pk=world.run.pk).update(status="queued", ended_at=None)
        return FineTuningJob.unscoped.select_related("team", "run__experiment__team").get(pk=world.job.pk)


def test_the_end_of_a_run_is_told_as_the_end_of_its_job(client, endpoint, world, alice):
    job = queued_job(world)
    with team_scope(world.team.pk):
        cancel_run(run=job.run, actor=Actor(user=alice))
    told = latest()
    assert (told.event_type, told.subject) == ("fine_tuning.job.cancelled", job.public_id)
    for status in ("succeeded", "failed"):
        with all_teams("test"):
            Run.unscoped.filter(pk=job.run_id).update(status=status)
            outbox.run_ended(job.run_id)
        assert latest().event_type == f"fine_tuning.job.{status}"


def test_jobs_that_end_before_there_is_a_run_and_batches_are_told(client, endpoint):
    rows = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 8
    file = client.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    client.fine_tuning.jobs.cancel(job.id)
    assert (latest().event_type, latest().subject) == ("fine_tuning.job.cancelled", job.id)
    bad = client.files.create(file=("bad.jsonl", b'{"nothing": 1}\n'), purpose="fine-tune")
    failed = client.fine_tuning.jobs.create(model="tiny", training_file=bad.id)
    tasks.prepare_fine_tuning(failed.id.removeprefix("ftjob-"))
    assert (latest().event_type, latest().subject) == ("fine_tuning.job.failed", failed.id)
    asks = client.files.create(file=("asks.jsonl", b'{"custom_id": "a"}\n'), purpose="batch")
    batch = client.batches.create(input_file_id=asks.id, endpoint="/v1/completions", completion_window="24h")
    tasks.run_batch(batch.id.removeprefix("batch_"))
    assert (latest().event_type, latest().subject) == ("batch.failed", batch.id)


def test_only_what_an_endpoint_wants_is_sent_there(client, endpoint, team):
    client.webhooks.update(endpoint.id, event_types=["batch.failed"])
    with team_scope(team.pk):
        outbox.emit(team, "batch.completed", "batch_1")
        assert not team.webhookdeliverys.filter(status="pending").exists()


# --- when it does not arrive -------------------------------------------------------------------------------------


def test_what_fails_is_tried_again_under_the_same_id_until_it_arrives(team, endpoint, receiver):
    receiver.answer = (500, {})
    delivery = emit(team, "batch.completed")
    tasks.send_webhook(str(delivery.pk))
    tasks.send_webhook(str(delivery.pk))
    assert len(receiver.received) == 1, "not due yet, so a doubled message sends nothing"
    waits = []
    for _attempt in range(3):
        let_pass(delivery)
        tasks.send_webhook(str(delivery.pk))
        waits.append((latest().next_try_at - delivery.occurred_at).total_seconds())
    assert waits == sorted(waits)
    assert waits[-1] > 4_800, "the fifth try comes an hour and a half after the fourth"
    receiver.answer = (200, {})
    let_pass(delivery)
    tasks.send_webhook(str(delivery.pk))
    assert latest().status == "delivered"
    assert {one.headers["webhook-id"] for one in receiver.received} == {delivery.webhook_id}
    assert row_of(endpoint.id).failing_since is None


def test_the_receiver_says_when_to_come_back_and_redirects_are_not_followed(team, endpoint, receiver):
    receiver.answer = (429, {"Retry-After": "900"})
    delivery = emit(team, "batch.completed")
    tasks.send_webhook(str(delivery.pk))
    assert (latest().next_try_at - timezone.now()).total_seconds() > 880
    receiver.answer = (302, {"Location": receiver.url + "/elsewhere"})
    let_pass(delivery)
    tasks.send_webhook(str(delivery.pk))
    assert (latest().status, latest().answered, len(receiver.received)) == ("pending", 302, 2)


def test_after_a_day_a_delivery_is_given_up_and_after_three_its_endpoint(client, team, endpoint, receiver):
    receiver.answer = (500, {})
    delivery = emit(team, "batch.completed")
    let_pass(delivery, attempts=len(sending.TRIES_AFTER_S) - 1)
    tasks.send_webhook(str(delivery.pk))
    assert (latest().status, latest().problem) == ("failed", "The endpoint answers HTTP 500.")
    with all_teams("test"):
        WebhookEndpoint.unscoped.update(failing_since=timezone.now() - timedelta(days=4))
    tasks.send_webhook(str(emit(team, "batch.failed").pk))
    shown = client.webhooks.retrieve(endpoint.id)
    assert (shown.enabled, "three days" in shown.note) == (False, True)
    with team_scope(team.pk):
        outbox.emit(team, "batch.failed", "batch_2")
        assert not team.webhookdeliverys.filter(status="pending").exists()
    again = client.webhooks.update(endpoint.id, extra_body={"enabled": True})
    assert (again.enabled, again.note) == (True, None)


def test_an_endpoint_that_is_gone_is_switched_off_at_once(client, team, endpoint, receiver):
    receiver.answer = (410, {})
    tasks.send_webhook(str(emit(team, "batch.completed").pk))
    assert client.webhooks.retrieve(endpoint.id).enabled is False
    assert latest().status == "failed"


def test_nothing_goes_into_our_own_network(team, endpoint, receiver, settings):
    settings.OUTBOUND_ALLOW = []
    tasks.send_webhook(str(emit(team, "batch.completed").pk))
    assert receiver.received == []
    assert "public internet" in latest().problem


def test_lost_messages_are_found_by_the_clock(team, endpoint, receiver, monkeypatch):
    delivery = emit(team, "batch.completed")
    queued: list[str] = []
    monkeypatch.setattr(sending, "enqueue", lambda pk: queued.append(str(pk)))
    assert sending.sweep() == 1
    assert queued == [str(delivery.pk)]
    tasks.send_webhook(queued[0])
    assert sending.sweep() == 0


def test_a_sample_is_sent_at_once_and_its_answer_told(client, token, endpoint, receiver):
    receiver.answer = (418, {})
    result = client.webhooks.test(endpoint.id, event_type="batch.expired")
    assert (result.status_code, result.success, result.event_type) == (418, True, "batch.expired")
    assert believed(client, receiver.received[-1], endpoint.signing_secret).type == "batch.expired"
    client.webhooks.update(endpoint.id, url="http://127.0.0.1:9/nobody")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(token, retries=3).webhooks.test(endpoint.id, event_type="batch.expired")
    assert caught.value.code == "endpoint_unreachable"


# --- the pages ---------------------------------------------------------------------------------------------------

PAGE = "/t/service-desk/webhooks/"


def test_an_admin_makes_tests_rotates_and_forgets_an_endpoint_on_the_pages(client_for, alice, receiver, client, team):
    browser = client_for(alice)
    refused = browser.post(PAGE, {**HOOK, "url": "http://example.org/plain"})
    assert (refused.status_code, "https:// only" in refused.content.decode()) == (400, True)
    made = browser.post(PAGE, {**HOOK, "url": receiver.url}).content.decode()
    secret = re.search(r"whsec_[A-Za-z0-9+/=]{44}", html.unescape(made))[0]
    assert secret not in browser.get(PAGE).content.decode()
    with team_scope(team.pk):
        own = f"{PAGE}{team.webhookendpoints.get(is_active=True).pk}/"
    browser.post(f"{own}test/", {"event_type": "batch.failed"})
    assert believed(client, receiver.received[-1], secret).type == "batch.failed"
    rotated = html.unescape(browser.post(f"{own}rotate/", {"keep_old": "on"}).content.decode())
    new = re.search(r"whsec_[A-Za-z0-9+/=]{44}", rotated)[0]
    receiver.answer = (500, {})
    delivery = emit(team, "batch.completed")
    let_pass(delivery, attempts=len(sending.TRIES_AFTER_S) - 1)
    tasks.send_webhook(str(delivery.pk))
    assert "HTTP 500" in browser.get(own).content.decode()
    receiver.answer = (200, {})
    browser.post(f"/t/service-desk/webhook-deliveries/{delivery.pk}/resend/")
    tasks.send_webhook(str(delivery.pk))
    assert believed(client, receiver.received[-1], new).id == believed(client, receiver.received[-2], secret).id
    browser.post(f"{own}switch/", {"active": "0"})
    assert "Switched off" in browser.get(own).content.decode()
    browser.post(own, {"name": "Board", "url": receiver.url, "event_types": ["batch.failed"]})
    with team_scope(team.pk):
        row = team.webhookendpoints.get(url=receiver.url)
    assert (row.name, row.event_types, row.is_active) == ("Board", ["batch.failed"], False)
    browser.post(f"{own}delete/")
    assert browser.get(own).status_code == 404


# --- what must not go on for ever --------------------------------------------------------------------------------


def test_an_endpoint_that_answers_byte_by_byte_is_cut_off(team, endpoint, receiver, monkeypatch):
    """Each byte comes in time, the answer never does."""
    monkeypatch.setattr(sending, "TIMEOUT_S", 0.4)
    monkeypatch.setattr(outbound, "CONNECT_TIMEOUT_S", 0.4)
    receiver.drips = True
    delivery = emit(team, "batch.failed")
    started = time.monotonic()
    sending.send(delivery.pk)
    assert time.monotonic() - started < 5
    assert (latest().status, latest().answered) == ("pending", None)
    assert latest().problem


def test_a_delivery_whose_tries_never_end_is_given_up(team, endpoint, monkeypatch):
    def die(_delivery) -> None:
        raise RuntimeError("what nobody foresaw")

    delivery = emit(team, "batch.failed")
    let_pass(delivery, attempts=len(sending.TRIES_AFTER_S) - 1)
    monkeypatch.setattr(sending, "request", die)
    with pytest.raises(RuntimeError):
        sending.send(delivery.pk)
    let_pass(delivery)
    sending.send(delivery.pk)
    assert (latest().status, latest().problem) == ("failed", "No try came to an end.")


def test_a_sample_whose_sender_died_is_forgotten_in_time(team, endpoint, alice):
    with team_scope(team.pk):
        sample = services.prepare_test(endpoint=row_of(endpoint.id), actor=Actor(user=alice), event_type="batch.failed")
    with all_teams("test"):
        WebhookDelivery.unscoped.update(created_at=timezone.now() - sending.KEPT_FOR - timedelta(days=1))
        sending.prune()
        assert not WebhookDelivery.unscoped.filter(pk=sample.pk).exists()


def test_no_other_secret_takes_the_place_of_a_signing_secret(team, endpoint, alice):
    name, actor = row_of(endpoint.id).secret_name, Actor(user=alice)
    with team_scope(team.pk), pytest.raises(InvalidInput, match="taken by the signing secret"):
        secrets.store(team=team, kind=TeamSecret.Kind.HUB_TOKEN, name=name, text="mine", actor=actor)
