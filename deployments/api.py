"""The resource API of deployments."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import canaries, services, traffic
from deployments import serializers as shapes
from deployments.models import Deployment, DeploymentVersion
from deployments.prompts import schema_of
from deployments.states import canary_standing, standings
from portal.api.pagination import PAGE_PARAMETERS, PAGE_SCHEMA, Pages, page_of
from portal.api.views import TeamAPIView
from portal.errors import NotFound
from portal.models import Scope
from portal.views.errors import default_message

_SCOPES = {
    "GET": Scope.DEPLOYMENTS_READ.value,
    "POST": Scope.DEPLOYMENTS_WRITE.value,
    "PUT": Scope.DEPLOYMENTS_WRITE.value,
    "PATCH": Scope.DEPLOYMENTS_WRITE.value,
    "DELETE": Scope.DEPLOYMENTS_WRITE.value,
}
_DETAIL = {200: shapes.DeploymentDetailSerializer}


class _DeploymentView(TeamAPIView):
    """What the views of one deployment share."""

    scopes = _SCOPES

    def deployments(self) -> QuerySet[Deployment]:
        """Return the team's deployments with what the serializers read."""
        versions = [
            f"{name}__adapter__{of}"
            for name in ("live_version", "next_version", "canary_version")
            for of in ("run", "base_model")
        ]
        return self.team.deployments.select_related("team", *versions)

    def deployment(self, pk: uuid.UUID) -> Deployment:
        """Return the team's deployment with this key, or 404."""
        return get_object_or_404(self.deployments(), pk=pk)

    def shown(self, pk: uuid.UUID, status: int = 200) -> Response:
        """Return a deployment as it is now."""
        prefetched = self.deployments().prefetch_related("versions__adapter__run", "versions__adapter__base_model")
        return Response(shapes.DeploymentDetailSerializer(prefetched.get(pk=pk)).data, status=status)

    def version(self, deployment: Deployment, number: int) -> DeploymentVersion:
        """Return a deployment's version by its number. Raises: NotFound."""
        rows: QuerySet[DeploymentVersion] = deployment.versions.select_related("deployment__team", "adapter")
        version = rows.filter(number=number).first()
        if version is None:
            raise NotFound(default_message(404), param="version")
        return version

    def read(self, serializer: Any) -> dict[str, Any]:
        """Return the checked input of the request, or raise the error that names the field."""
        given = serializer(data=self.request.data, context={"team": self.team})
        given.is_valid(raise_exception=True)
        checked: dict[str, Any] = given.validated_data
        return checked


class Deployments(_DeploymentView):
    """Deployments of the team."""

    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="deployments_list",
        responses=page_of("Deployment", shapes.DeploymentSerializer),
        parameters=PAGE_SCHEMA,
    )
    def get(self, request: Request) -> Response:
        """List deployments by name."""
        pages = Pages()
        page = pages.paginate_queryset(self.deployments(), request, view=self)
        known = {"standings": standings(self.team, page or [])}
        return pages.get_paginated_response(shapes.DeploymentSerializer(page, many=True, context=known).data)

    @extend_schema(
        operation_id="deployments_create",
        request=shapes.DeploySerializer,
        responses={201: shapes.DeploymentDetailSerializer},
    )
    def post(self, request: Request) -> Response:
        """Deploy a run under a name. It answers as soon as its adapter is loaded: ask again until `state` is ready."""
        given = self.read(shapes.DeploySerializer)
        schema = schema_of(given["run"].dataset_version) if given.pop("bind_to_schema") else None
        version = services.deploy_run(team=self.team, actor=self.actor, response_schema=schema, **given)
        return self.shown(version.deployment_id, status=201)


class DeploymentDetail(_DeploymentView):
    """One deployment."""

    @extend_schema(operation_id="deployments_retrieve", responses=_DETAIL)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Show a deployment with its versions."""
        return self.shown(self.deployment(pk).pk)

    @extend_schema(operation_id="deployments_update", request=shapes.SleepSerializer, responses=_DETAIL)
    def patch(self, request: Request, pk: uuid.UUID) -> Response:
        """Change when it sleeps."""
        deployment = self.deployment(pk)
        minutes = self.read(shapes.SleepSerializer)["sleep_after_minutes"]
        services.set_sleep(deployment=deployment, actor=self.actor, minutes=minutes)
        return self.shown(pk)

    @extend_schema(operation_id="deployments_delete", responses={204: None})
    def delete(self, request: Request, pk: uuid.UUID) -> Response:
        """Delete a deployment and its versions; runs and adapters stay."""
        services.delete_deployment(deployment=self.deployment(pk), actor=self.actor)
        return Response(status=204)


class DeploymentPromote(_DeploymentView):
    """Which version answers."""

    @extend_schema(operation_id="deployments_promote", request=shapes.PromoteSerializer, responses=_DETAIL)
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Let a version answer once it is loaded; an earlier number rolls back."""
        deployment = self.deployment(pk)
        given = self.read(shapes.PromoteSerializer)
        version = self.version(deployment, given.pop("version"))
        services.promote_version(version=version, actor=self.actor, **given)
        return self.shown(deployment.pk)


class DeploymentCanary(_DeploymentView):
    """A version that answers a share of the requests."""

    @extend_schema(operation_id="deployments_canary", responses=shapes.CanarySerializer)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Show the canary beside the live version: requests, errors, times and corrections since it began."""
        deployment = self.deployment(pk)
        canary, standing = deployment.canary_version, canary_standing(deployment)
        shown = {
            "version": canary.number if canary is not None else None,
            "share": deployment.canary_share,
            "since": deployment.canary_since,
            "state": standing.state.value if standing is not None else None,
            "error": standing.error if standing is not None else "",
            "sides": traffic.side_by_side(deployment),
        }
        return Response(shapes.CanarySerializer(shown).data)

    @extend_schema(
        operation_id="deployments_canary_set", request=shapes.SetCanarySerializer, responses={200: _DETAIL[200]}
    )
    def put(self, request: Request, pk: uuid.UUID) -> Response:
        """Start a canary, or change its share. One that breaks a rule needs `override` and a reason from an admin."""
        deployment = self.deployment(pk)
        given = self.read(shapes.SetCanarySerializer)
        version = self.version(deployment, given.pop("version"))
        canaries.set_canary(version=version, actor=self.actor, **given)
        return self.shown(pk)

    @extend_schema(operation_id="deployments_canary_take_back", responses=_DETAIL)
    def delete(self, request: Request, pk: uuid.UUID) -> Response:
        """Take the canary back: the live version answers all requests again. A second call changes nothing."""
        canaries.take_back(deployment=self.deployment(pk), actor=self.actor)
        return self.shown(pk)


class DeploymentStop(_DeploymentView):
    """Stopping."""

    @extend_schema(operation_id="deployments_stop", request=None, responses=_DETAIL)
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Refuse requests until it is started again."""
        services.stop_deployment(deployment=self.deployment(pk), actor=self.actor)
        return self.shown(pk)


class DeploymentStart(_DeploymentView):
    """Starting."""

    @extend_schema(operation_id="deployments_start", request=None, responses=_DETAIL)
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Answer requests again, as soon as the adapter is loaded."""
        services.start_deployment(deployment=self.deployment(pk), actor=self.actor)
        return self.shown(pk)


class DeploymentWake(_DeploymentView):
    """Waking."""

    @extend_schema(operation_id="deployments_wake", request=None, responses=_DETAIL)
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Have a sleeping deployment loaded before somebody asks it; one that is awake stays so for its minutes."""
        services.wake_deployment(deployment=self.deployment(pk), actor=self.actor)
        return self.shown(pk)
