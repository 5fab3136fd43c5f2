"""Every route × method × actor. A new URL without a row here fails."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from portal.access import policy_of
from portal.models import Role
from portal.rls import all_teams
from tests.stage import *  # noqa: F403
from tests.world import World

pytestmark = pytest.mark.slow

METHODS = ("get", "post", "put", "patch", "delete")


Key = Callable[[World], dict[str, Any]]
NOTHING: Key = lambda world: {}  # noqa: E731
DATASET: Key = lambda world: {"pk": world.version.dataset_id}  # noqa: E731
DELETED: Key = lambda world: {"pk": world.deleted_version.dataset_id}  # noqa: E731
DELETED_VERSION: Key = lambda world: {"pk": world.deleted_version.pk}  # noqa: E731
VERSION: Key = lambda world: {"pk": world.version.pk}  # noqa: E731
EXPERIMENT: Key = lambda world: {"pk": world.run.experiment_id}  # noqa: E731
SWEEP: Key = lambda world: {"pk": world.run.sweep_id}  # noqa: E731
RUN: Key = lambda world: {"pk": world.run.pk}  # noqa: E731
ADAPTER: Key = lambda world: {"pk": world.adapter.pk}  # noqa: E731
EXPORT: Key = lambda world: {"pk": world.export.pk}  # noqa: E731
DEPLOYMENT: Key = lambda world: {"pk": world.deployment.pk}  # noqa: E731
DEPLOYMENT_VERSION: Key = lambda world: {"pk": world.deployment_version.pk}  # noqa: E731
MEMBERSHIP: Key = lambda world: {"pk": world.membership.pk}  # noqa: E731
INVITATION: Key = lambda world: {"pk": world.invitation.pk}  # noqa: E731
TOKEN: Key = lambda world: {"pk": world.token.pk}  # noqa: E731
SERVICE_ACCOUNT: Key = lambda world: {"pk": world.service_account.pk}  # noqa: E731
TEAM: Key = lambda world: {"slug": world.team.slug}  # noqa: E731
PERSON: Key = lambda world: {"pk": world.token.created_by_id}  # noqa: E731
FILE: Key = lambda world: {"file_id": world.file.public_id}  # noqa: E731
JOB: Key = lambda world: {"job_id": world.job.public_id}  # noqa: E731
BATCH: Key = lambda world: {"batch_id": world.batch.public_id}  # noqa: E731
ENDPOINT: Key = lambda world: {"endpoint_id": world.webhook.public_id}  # noqa: E731
WEBHOOK: Key = lambda world: {"pk": world.webhook.pk}  # noqa: E731
NODE: Key = lambda world: {"name": "local"}  # noqa: E731

# route name → how its object is found; pages get the team's slug besides.
ROUTES: dict[str, Key] = {
    "portal:home": NOTHING,
    "portal:healthz": NOTHING,
    "portal:metrics": NOTHING,
    "portal:readyz": NOTHING,
    "portal:profile": NOTHING,
    "account_login": NOTHING,
    "account_logout": NOTHING,
    "account_inactive": NOTHING,
    "account_signup": NOTHING,
    "account_reauthenticate": NOTHING,
    "account_email": NOTHING,
    "account_email_verification_sent": NOTHING,
    "account_confirm_email": lambda world: {"key": "none"},
    "account_change_password": NOTHING,
    "account_set_password": NOTHING,
    "account_reset_password": NOTHING,
    "account_reset_password_done": NOTHING,
    "account_reset_password_from_key": lambda world: {"uidb36": "0", "key": "none"},
    "account_reset_password_from_key_done": NOTHING,
    "mfa_authenticate": NOTHING,
    "mfa_login_webauthn": NOTHING,
    "mfa_index": NOTHING,
    "mfa_reauthenticate": NOTHING,
    "mfa_activate_totp": NOTHING,
    "mfa_deactivate_totp": NOTHING,
    "mfa_view_recovery_codes": NOTHING,
    "mfa_generate_recovery_codes": NOTHING,
    "mfa_download_recovery_codes": NOTHING,
    "mfa_list_webauthn": NOTHING,
    "mfa_add_webauthn": NOTHING,
    "mfa_reauthenticate_webauthn": NOTHING,
    "mfa_edit_webauthn": lambda world: {"pk": 1},
    "mfa_remove_webauthn": lambda world: {"pk": 1},
    "usersessions_list": NOTHING,
    "socialaccount_connections": NOTHING,
    "socialaccount_login_cancelled": NOTHING,
    "socialaccount_login_error": NOTHING,
    "openid_connect_login": lambda world: {"provider_id": "none"},
    "openid_connect_callback": lambda world: {"provider_id": "none"},
    "portal:leaving": NOTHING,
    "portal:style_guide": NOTHING,
    "portal:dashboard": NOTHING,
    "portal:active_runs": NOTHING,
    "portal:members": NOTHING,
    "portal:invite": NOTHING,
    "portal:leave_team": NOTHING,
    "portal:demand_second_factor": NOTHING,
    "portal:change_role": MEMBERSHIP,
    "portal:remove_member": MEMBERSHIP,
    "portal:resend_invitation": INVITATION,
    "portal:revoke_invitation": INVITATION,
    "portal:accept_invitation": INVITATION,
    "portal:invitation": lambda world: {"token": "none"},
    "portal:second_factor_needed": NOTHING,
    "portal:tokens": NOTHING,
    "portal:revoke_token": TOKEN,
    "portal:rotate_token": TOKEN,
    "portal:service_accounts": NOTHING,
    "portal:usage": NOTHING,
    "portal:usage_export": NOTHING,
    "portal:switch_service_account": SERVICE_ACCOUNT,
    "portal:schema": NOTHING,
    "portal:api_docs": NOTHING,
    "portal:secrets": NOTHING,
    "portal:delete_secret": lambda world: {"pk": world.run.pk},
    "portal:audit": NOTHING,
    "portal:audit_export": NOTHING,
    "portal:end_impersonation": NOTHING,
    "portal:dismiss_announcement": lambda world: {"pk": world.run.pk},
    "platform:overview": NOTHING,
    "platform:teams": NOTHING,
    "platform:teams_new": NOTHING,
    "platform:teams_detail": TEAM,
    "platform:team_limits": TEAM,
    "platform:limits": NOTHING,
    "platform:usage": NOTHING,
    "platform:usage_export": NOTHING,
    "platform:teams_archive": TEAM,
    "platform:teams_restore": TEAM,
    "platform:teams_delete": TEAM,
    "platform:people": NOTHING,
    "platform:people_detail": PERSON,
    "platform:people_change": lambda world: {**PERSON(world), "change": "reactivate"},
    "platform:nodes": NOTHING,
    "platform:nodes_drain": NODE,
    "platform:nodes_slots": NODE,
    "platform:nodes_remove": NODE,
    "platform:models": NOTHING,
    "platform:models_allow": lambda world: {"slug": world.run.base_model.slug},
    "platform:maintenance": NOTHING,
    "platform:announcements": NOTHING,
    "platform:announcements_withdraw": lambda world: {"pk": world.run.pk},
    "platform:audit": NOTHING,
    "platform:audit_export": NOTHING,
    "experiments:platform_runs": NOTHING,
    "experiments:platform_runs_cancel": RUN,
    "experiments:platform_runs_priority": RUN,
    "deployments:platform_deployments": NOTHING,
    "deployments:platform_deployments_stop": DEPLOYMENT,
    "experiments:list": NOTHING,
    "experiments:new": NOTHING,
    "experiments:hyperparameters": NOTHING,
    "experiments:detail": EXPERIMENT,
    "experiments:sweep": SWEEP,
    "experiments:sweep_cancel": SWEEP,
    "experiments:queue": NOTHING,
    "experiments:run": RUN,
    "experiments:run_status": RUN,
    "experiments:run_rows": RUN,
    "experiments:metrics": RUN,
    "experiments:log": RUN,
    "experiments:whole_log": RUN,
    "experiments:log_text": RUN,
    "experiments:quality": RUN,
    "experiments:answers": RUN,
    "experiments:tracker": NOTHING,
    "experiments:tracker_test": NOTHING,
    "experiments:tracker_delete": NOTHING,
    "experiments:judge": NOTHING,
    "experiments:judge_delete": NOTHING,
    "experiments:judgement": RUN,
    "experiments:judge_ask": RUN,
    "experiments:judge_cancel": RUN,
    "experiments:predictions": RUN,
    "experiments:settings": RUN,
    "experiments:settings_yaml": RUN,
    "experiments:cancel": RUN,
    "experiments:rerun": RUN,
    "experiments:pause": RUN,
    "experiments:resume": RUN,
    "experiments:priority": RUN,
    "experiments:adapter_download": RUN,
    "experiments:kept_download": lambda world: {**RUN(world), "step": 2},
    "experiments:evaluate_kept": lambda world: {**RUN(world), "step": 2},
    "experiments-api:base_models": NOTHING,
    "experiments-api:experiments": NOTHING,
    "experiments-api:experiment": EXPERIMENT,
    "experiments-api:runs": NOTHING,
    "experiments-api:run": RUN,
    "experiments-api:run_cancel": RUN,
    "experiments-api:run_metrics": RUN,
    "experiments-api:run_events": RUN,
    "experiments-api:run_evaluation": RUN,
    "experiments-api:run_judgements": RUN,
    "experiments-api:tracker": NOTHING,
    "experiments-api:judge": NOTHING,
    "experiments-api:run_samples": RUN,
    "experiments-api:sweeps": NOTHING,
    "experiments-api:sweep": SWEEP,
    "experiments-api:sweep_cancel": SWEEP,
    "experiments-api:adapters": NOTHING,
    "experiments-api:adapter": ADAPTER,
    "experiments-api:adapter_download": ADAPTER,
    "datasets:list": NOTHING,
    "datasets:import": NOTHING,
    "datasets:uploads": NOTHING,
    "datasets:upload": RUN,
    "datasets-api:uploads": NOTHING,
    "datasets-api:upload": RUN,
    "datasets:import_from": lambda world: {"kind": "url"},
    "datasets:new_version_from": lambda world: {**DATASET(world), "kind": "s3"},
    "datasets:fetching": VERSION,
    "datasets:fetch_again": VERSION,
    "datasets:detail": DATASET,
    "datasets:delete": DATASET,
    "datasets:new_version": DATASET,
    "datasets:version": VERSION,
    "datasets:mapping": VERSION,
    "datasets:progress": VERSION,
    "datasets:without_faulty": VERSION,
    "datasets:discard": VERSION,
    "datasets:deleted": NOTHING,
    "datasets:restore": DELETED,
    "datasets:purge": DELETED,
    "datasets:restore_version": DELETED_VERSION,
    "datasets:purge_version": DELETED_VERSION,
    "datasets:change_rows": VERSION,
    "datasets:row": lambda world: {**VERSION(world), "row_id": 1},
    "datasets:change_row": lambda world: {**VERSION(world), "row_id": 1},
    "datasets:changes": VERSION,
    "datasets:save_changes": VERSION,
    "datasets:discard_changes": VERSION,
    "datasets:download": lambda world: {**VERSION(world), "split": "train", "kind": "csv"},
    "datasets:diff": DATASET,
    "datasets:doctor": VERSION,
    "datasets:doctor_progress": VERSION,
    "datasets:doctor_start": VERSION,
    "datasets:doctor_cancel": VERSION,
    "datasets:doctor_fix": VERSION,
    "datasets:doctor_finding": lambda world: {**VERSION(world), "code": "duplicate"},
    "datasets:schema": VERSION,
    "datasets:schema_edit": VERSION,
    "datasets:schema_rename": VERSION,
    "datasets:schema_export": VERSION,
    "datasets-api:list": NOTHING,
    "datasets-api:detail": DATASET,
    "datasets-api:versions": DATASET,
    "datasets-api:version": VERSION,
    "datasets-api:rows": VERSION,
    "datasets-api:doctor": VERSION,
    "datasets-api:finding": lambda world: {**VERSION(world), "code": "duplicate"},
    "datasets-api:fixes": VERSION,
    "datasets-api:schema": VERSION,
    "datasets-api:row_search": VERSION,
    "datasets-api:row": lambda world: {**VERSION(world), "row_id": 1},
    "datasets-api:changes": VERSION,
    "datasets-api:derive": VERSION,
    "datasets-api:diff": VERSION,
    "datasets-api:download": VERSION,
    "datasets-api:restore_version": DELETED_VERSION,
    "datasets-api:deleted": NOTHING,
    "datasets-api:restore": DELETED,
    "deployments:list": NOTHING,
    "deployments:deploy": NOTHING,
    "deployments:detail": DEPLOYMENT,
    "deployments:state": DEPLOYMENT,
    "deployments:stop": DEPLOYMENT,
    "deployments:start": DEPLOYMENT,
    "deployments:delete": DEPLOYMENT,
    "deployments:promote": DEPLOYMENT_VERSION,
    "deployments:canary": DEPLOYMENT_VERSION,
    "deployments:canary_end": DEPLOYMENT,
    "deployments:policy": NOTHING,
    "deployments:exports": RUN,
    "deployments:exports_list": RUN,
    "deployments:export_adapter": RUN,
    "deployments:model_card": RUN,
    "deployments:export_download": EXPORT,
    "deployments:export_delete": EXPORT,
    "deployments:sleep": DEPLOYMENT,
    "deployments:retirement": DEPLOYMENT,
    "deployments:traffic": DEPLOYMENT,
    "deployments:log": DEPLOYMENT,
    "deployments:log_settings": DEPLOYMENT,
    "deployments:log_delete": DEPLOYMENT,
    "deployments:log_take": DEPLOYMENT,
    "deployments:log_record": lambda world: {**DEPLOYMENT(world), "record": world.record.pk},
    "deployments:playground": NOTHING,
    "deployments:chat": NOTHING,
    "deployments:warm": NOTHING,
    "deployments:sample": NOTHING,
    "deployments-api:deployments": NOTHING,
    "deployments-api:deployment": DEPLOYMENT,
    "deployments-api:deployment_promote": DEPLOYMENT,
    "deployments-api:deployment_canary": DEPLOYMENT,
    "deployments-api:deployment_stop": DEPLOYMENT,
    "deployments-api:deployment_start": DEPLOYMENT,
    "deployments-api:deployment_wake": DEPLOYMENT,
    "deployments-api:deployment_check": DEPLOYMENT,
    "deployments-api:deployment_requests": DEPLOYMENT,
    "deployments-api:deployment_request": lambda world: {**DEPLOYMENT(world), "record": world.record.pk},
    "deployments-api:deployment_log": DEPLOYMENT,
    "deployments-api:policy": NOTHING,
    "deployments-api:exports": RUN,
    "deployments-api:export": EXPORT,
    "deployments-api:export_file": EXPORT,
    "deployments:webhooks": NOTHING,
    "deployments:webhooks_detail": WEBHOOK,
    "deployments:webhooks_test": WEBHOOK,
    "deployments:webhooks_rotate": WEBHOOK,
    "deployments:webhooks_switch": WEBHOOK,
    "deployments:webhooks_delete": WEBHOOK,
    "deployments:webhooks_resend": lambda world: {"pk": world.delivery.pk},
    "openai:chat": NOTHING,
    "openai:completions": NOTHING,
    "openai:decisions": NOTHING,
    "openai:models": NOTHING,
    "openai:model": lambda world: {"model_id": world.deployment.name},
    "openai:files": NOTHING,
    "openai:file": FILE,
    "openai:file_content": FILE,
    "openai:grader_validate": NOTHING,
    "openai:grader_run": NOTHING,
    "openai:jobs": NOTHING,
    "openai:job": JOB,
    "openai:job_events": JOB,
    "openai:job_checkpoints": JOB,
    "openai:job_cancel": JOB,
    "openai:job_pause": JOB,
    "openai:job_resume": JOB,
    "openai:webhook_endpoints": NOTHING,
    "openai:webhook_endpoint": ENDPOINT,
    "openai:webhook_rotate_secret": ENDPOINT,
    "openai:webhook_test": ENDPOINT,
    "openai:webhook_event_types": NOTHING,
    "openai:batches": NOTHING,
    "openai:batch": BATCH,
    "openai:batch_cancel": BATCH,
}


def named_routes(patterns: Any = None, namespace: str = "") -> dict[str, Any]:
    """Return the callback of every route by its full name."""
    found: dict[str, Any] = {}
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        if isinstance(pattern, URLResolver):
            inner = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            found |= named_routes(pattern.url_patterns, inner)
        elif isinstance(pattern, URLPattern):
            found[f"{namespace}{pattern.name}"] = pattern.callback
    return found


@functools.cache
def known_routes() -> dict[str, Any]:
    """Return all routes, looked for once."""
    return named_routes()


def kind_of(name: str) -> str:
    return policy_of(known_routes()[name]).kind


PAGES = [name for name in ROUTES if kind_of(name) == "team"]
API = [name for name in ROUTES if kind_of(name) == "token"]
OWN = [name for name in ROUTES if kind_of(name) == "signed-in"]
PUBLIC = [name for name in ROUTES if kind_of(name) == "public"]
PLATFORM = [name for name in ROUTES if kind_of(name) == "platform-admin"]


def address(name: str, world: World) -> str:
    team = {"team": world.team.slug} if kind_of(name) == "team" else {}
    return reverse(name, kwargs={**team, **ROUTES[name](world)})


def test_every_route_has_a_row():
    assert set(named_routes()) == set(ROUTES)


@pytest.mark.parametrize("name", PAGES)
def test_pages(name, world, client_for, alice, bob, charlie):
    url, role = address(name, world), policy_of(known_routes()[name]).role
    anonymous, stranger, viewer = Client(), client_for(charlie), client_for(bob)
    for method in METHODS:
        away = getattr(anonymous, method)(url)
        assert (away.status_code, away.headers.get("Location", "").split("?")[0]) == (302, "/login/")
        assert getattr(stranger, method)(url).status_code == 404
        if role != Role.VIEWER:
            assert getattr(viewer, method)(url).status_code == 403
    for browser in [viewer, client_for(alice)] if role == Role.VIEWER else [client_for(alice)]:
        assert browser.get(url).status_code not in (302, 401, 403, 500)
    nowhere = url.replace(world.team.slug, "no-such-team", 1)
    assert viewer.get(nowhere).status_code == 404


@pytest.mark.parametrize("name", OWN)
def test_pages_of_ones_own_need_a_person(name, world, client_for, bob, token):
    """Nobody's page, so anonymous callers sign in first; a bearer token is no sign-in here."""
    url = address(name, world)
    with_token = Client(headers={"Authorization": f"Bearer {token}"})
    for anonymous in (Client(), with_token):
        for method in METHODS:
            away = getattr(anonymous, method)(url)
            assert (away.status_code, away.headers.get("Location", "").split("?")[0]) == (302, "/login/")
    assert client_for(bob).get(url).status_code not in (401, 403, 500)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_pages_break_for_nobody(name, world, client_for, bob):
    for browser in (Client(), client_for(bob)):
        for method in METHODS:
            assert getattr(browser, method)(address(name, world)).status_code != 500


@pytest.mark.parametrize("name", PLATFORM)
def test_the_console_exists_for_platform_admins_only(name, world, client_for, alice, bob, charlie, paula):
    url = address(name, world)
    assert url.startswith("/platform/")
    browsers = [client_for(person) for person in (alice, bob, charlie)]
    for method in METHODS:
        away = getattr(Client(), method)(url)
        assert (away.status_code, away.headers.get("Location", "").split("?")[0]) == (302, "/login/")
        for browser in browsers:
            assert getattr(browser, method)(url).status_code == 404
    answer = client_for(paula).get(url)
    assert answer.status_code not in (302, 401, 403, 500)
    assert answer.status_code != 404 or name == "platform:announcements_withdraw"  # there is none in this world


@pytest.mark.parametrize("name", API)
def test_api(name, world, api, stranger_api, client_for, alice, make_token):
    url = address(name, world)
    powerless = Client(headers={"Authorization": f"Bearer {make_token(world.team, alice, scopes=['inference'])}"})
    own_object = bool(ROUTES[name](world))
    without_token = (Client(), client_for(alice), Client(headers={"Authorization": "Bearer tnp_x"}))
    for method in METHODS:
        if getattr(api, method)(url).status_code == 405:
            continue
        for refused in without_token:
            answer = getattr(refused, method)(url)
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        if not name.startswith("openai:"):
            assert getattr(powerless, method)(url).status_code == 403
        if own_object:
            assert getattr(stranger_api, method)(url).status_code == 404
    assert api.get(url).status_code != 500


@pytest.mark.parametrize("name", [name for name in API if name not in ("openai:chat",)])
def test_a_deactivated_member_is_out(name, world, alice, api, client_for):
    alice.is_active = False
    alice.save()
    assert api.get(address(name, world)).status_code == 401
    assert client_for(alice).get(f"/t/{world.team.slug}/").status_code in (302, 404)


def test_a_removed_member_is_a_stranger_at_once(world, bob, client_for):
    browser = client_for(bob)
    assert browser.get(f"/t/{world.team.slug}/").status_code == 200
    with all_teams("test"):
        bob.memberships(manager="unscoped").all().delete()
    assert browser.get(f"/t/{world.team.slug}/").status_code == 404
