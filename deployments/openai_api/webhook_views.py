"""The addresses under /v1/webhook_endpoints: who is told when jobs and batches end."""

from __future__ import annotations

from typing import Any, Final

from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.openai_api import parameters
from deployments.openai_api.base import OpenAIView
from deployments.openai_api.document import operation, page_of
from deployments.openai_api.ids import find, listed, read_page
from deployments.webhooks import services
from deployments.webhooks.models import EVENT_TYPES, WebhookEndpoint
from portal.errors import InvalidInput
from portal.models import Scope
from portal.rls import team_scope

Body = dict[str, Any]
PREFIX: Final = "we_"
TAG: Final = "webhooks"


class WebhookView(OpenAIView):
    """What the addresses of endpoints share."""

    scopes = {"GET": Scope.RUNS_READ.value, "POST": Scope.RUNS_WRITE.value, "DELETE": Scope.RUNS_WRITE.value}
    counts_at_once = in_one_transaction = reads_body = True

    def endpoint(self, endpoint_id: str) -> WebhookEndpoint:
        """Return an endpoint of the team. Raises: NotFound."""
        rows = self.team.webhookendpoints.select_related("team")
        return find(rows, PREFIX, endpoint_id, param="webhook_endpoint_id")

    def sent(self, known: frozenset[str]) -> Body:
        """Return the body, of known parameters. Raises: InvalidInput naming the parameter."""
        # An SDK leaves the body out where it has nothing to say.
        body = parameters.require_object(self.request.data if self.request.META.get("CONTENT_LENGTH") else {})
        for name in body:
            if name not in known:
                raise parameters.unsupported(name)
        return body


class WebhookEndpoints(WebhookView):
    """GET and POST /v1/webhook_endpoints."""

    query_parameters = frozenset({"after", "limit"})

    @operation("listWebhookEndpoints", "WebhookEndpointList", tag=TAG, query=page_of(100))
    def get(self, request: Request) -> Response:
        """List the team's endpoints, the newest first."""
        page = read_page(request, usual=20, most=100)
        rows = self.team.webhookendpoints.all()
        return Response(listed(rows, page, prefix=PREFIX, shape=lambda row: dict(services.as_object(row))))

    @operation("createWebhookEndpoint", "WebhookEndpointWithSecret", takes="WebhookEndpointRequest", tag=TAG)
    def post(self, request: Request) -> Response:
        """Make an endpoint; its signing secret is told in this answer only."""
        body = self.sent(frozenset(("name", "url", "event_types")))
        for name in ("name", "url", "event_types"):
            if body.get(name) in (None, "", []):
                raise parameters.MissingParameter(_("'%(name)s' is missing.") % {"name": name}, param=name)
        made, secret = services.create(team=self.team, actor=self.actor, **body)
        return Response(services.as_object(made, secret))


class WebhookEndpointView(WebhookView):
    """What the addresses of one endpoint share: first it is looked for, then a body is read, then something is done."""

    in_one_transaction = False

    def found(self, endpoint_id: str) -> WebhookEndpoint:
        """Return an endpoint of the team. Raises: NotFound."""
        with team_scope(self.team.pk):
            return self.endpoint(endpoint_id)


class WebhookEndpointDetail(WebhookEndpointView):
    """GET, POST and DELETE /v1/webhook_endpoints/{id}."""

    @operation("retrieveWebhookEndpoint", "WebhookEndpoint", tag=TAG)
    def get(self, request: Request, endpoint_id: str) -> Response:
        """Describe an endpoint."""
        return Response(services.as_object(self.found(endpoint_id)))

    @operation("updateWebhookEndpoint", "WebhookEndpoint", takes="WebhookEndpointChange", tag=TAG)
    def post(self, request: Request, endpoint_id: str) -> Response:
        """Change an endpoint; what is left out stays."""
        endpoint = self.found(endpoint_id)
        body = self.sent(frozenset(("name", "url", "event_types", "enabled")))
        wanted = {name: value for name, value in body.items() if value is not None}
        if "enabled" in wanted:
            wanted["is_active"] = _flag("enabled", wanted.pop("enabled"))
        with team_scope(self.team.pk):
            changed = services.change(endpoint=endpoint, actor=self.actor, **wanted)
        return Response(services.as_object(changed))

    @operation("deleteWebhookEndpoint", "Deleted", tag=TAG)
    def delete(self, request: Request, endpoint_id: str) -> Response:
        """Delete an endpoint; nothing more is sent there."""
        with team_scope(self.team.pk):
            services.delete(endpoint=self.endpoint(endpoint_id), actor=self.actor)
        return Response({"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True})


class WebhookSecretRotation(WebhookEndpointView):
    """POST /v1/webhook_endpoints/{id}/rotate_secret."""

    scopes = {"POST": Scope.RUNS_WRITE.value}

    @operation("rotateWebhookSecret", "WebhookEndpointWithSecret", takes="WebhookRotation", tag=TAG)
    def post(self, request: Request, endpoint_id: str) -> Response:
        """Give an endpoint a new secret, told in this answer only."""
        endpoint = self.found(endpoint_id)
        option = "keep_old_secret_active_for_24_hours"
        keeps = self.sent(frozenset((option,))).get(option)
        keep_old = _flag(option, keeps if keeps is not None else False)
        with team_scope(self.team.pk):
            secret = services.rotate_secret(endpoint=endpoint, actor=self.actor, keep_old=keep_old)
        return Response(services.as_object(endpoint, secret))


class WebhookTest(WebhookEndpointView):
    """POST /v1/webhook_endpoints/{id}/test."""

    scopes = {"POST": Scope.RUNS_WRITE.value}

    @operation("testWebhookEndpoint", "WebhookEndpointTest", takes="WebhookTestRequest", tag=TAG)
    def post(self, request: Request, endpoint_id: str) -> Response:
        """Send a sample now, and say what the receiver answered; no transaction is open meanwhile."""
        endpoint = self.found(endpoint_id)
        event_type = parameters.required_text(self.sent(frozenset(("event_type",))), "event_type", limit=100)
        with team_scope(self.team.pk):
            delivery = services.prepare_test(endpoint=endpoint, actor=self.actor, event_type=event_type)
        answer = services.run_test(delivery)
        if answer.status is None:
            # Not a 5xx: the SDK would send the sample again by itself.
            raise InvalidInput(answer.problem, param="webhook_endpoint_id", code="endpoint_unreachable")
        return Response(
            {
                "object": "webhook_endpoint.test",
                "webhook_endpoint_id": endpoint.public_id,
                "event_type": event_type,
                "status_code": answer.status,
                "success": True,
            }
        )


class WebhookEventTypes(WebhookView):
    """GET /v1/webhook_event_types."""

    scopes = {"GET": Scope.RUNS_READ.value}

    @operation("listWebhookEventTypes", "WebhookEventTypeList", tag=TAG)
    def get(self, request: Request) -> Response:
        """List the events that can be sent."""
        return Response({"object": "list", "data": list(EVENT_TYPES)})


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(_("'%(name)s' has to be true or false.") % {"name": name}, param=name)
    return value
