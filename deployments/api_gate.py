"""The resource API of the gate: the team's rules for promoting versions, and what they say of one."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import gate, policies
from deployments.models import PromotionPolicy
from portal.api.views import TeamAPIView
from portal.errors import InvalidInput, NotFound
from portal.models import Scope
from portal.views.errors import default_message

_SHOWN = (
    "deployment__team", "adapter__run__evaluation", "adapter__base_model",
    "deployment__live_version__adapter__run__evaluation",
)  # fmt: skip


def _share(words: str) -> serializers.FloatField:
    return serializers.FloatField(min_value=0, max_value=1, allow_null=True, default=None, help_text=words)


class PromotionPolicySerializer(serializers.ModelSerializer[PromotionPolicy]):
    """What a version has to reach before it may answer; shares of 1, and null for what is not asked."""

    is_on = serializers.BooleanField(help_text="whether versions that break a rule are held back")
    min_macro_f1 = _share("least macro-F1")
    max_f1_drop = _share("largest drop of macro-F1 beside the version that answers")
    max_recall_drop = _share("largest drop of the recall of a class with 10 held-out rows or more")
    max_invalid_json = _share("most held-out answers that are no JSON")
    max_median_ms = serializers.IntegerField(
        min_value=1, max_value=policies.LONGEST_MS, allow_null=True, default=None, help_text="longest median time"
    )
    max_median_rise = _share("largest rise of the median time beside the version that answers")
    needs_same_rows = serializers.BooleanField(
        default=False, help_text="whether both versions have to be measured on the same held-out rows"
    )

    class Meta:
        model = PromotionPolicy
        fields = ["is_on", *policies.SHARES, "max_median_ms", "needs_same_rows"]


class RuleSerializer(serializers.Serializer[Any]):
    """One rule with both figures, in words."""

    code = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    bound = serializers.CharField()
    candidate = serializers.CharField()
    live = serializers.CharField(allow_null=True)
    has_passed = serializers.BooleanField()


class VersionCheckSerializer(serializers.Serializer[Any]):
    """What the rules say of a version beside the one that answers."""

    version = serializers.IntegerField()
    has_passed = serializers.BooleanField()
    is_same_rows = serializers.BooleanField(help_text="whether both figures are of the same held-out rows")
    rules = RuleSerializer(many=True)


class Policy(TeamAPIView):
    """The team's rules."""

    scopes = {"GET": Scope.DEPLOYMENTS_READ.value, "PUT": Scope.DEPLOYMENTS_WRITE.value}

    @extend_schema(operation_id="promotion_policy_retrieve", responses=PromotionPolicySerializer)
    def get(self, request: Request) -> Response:
        """Show the rules that a version has to keep before it may answer."""
        return Response(PromotionPolicySerializer(gate.policy_of(self.team)).data)

    @extend_schema(
        operation_id="promotion_policy_replace",
        request=PromotionPolicySerializer,
        responses={200: PromotionPolicySerializer},
    )
    def put(self, request: Request) -> Response:
        """Replace the rules; for tokens of the team's admins. What is left out is not asked any more."""
        form = PromotionPolicySerializer(data=request.data)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        policy = policies.set_policy(
            team=self.team,
            actor=self.actor,
            is_on=given["is_on"],
            shares={name: given[name] for name in policies.SHARES},
            max_median_ms=given["max_median_ms"],
            needs_same_rows=given["needs_same_rows"],
        )
        return Response(PromotionPolicySerializer(policy).data)


class VersionCheck(TeamAPIView):
    """What the rules say of a version."""

    scopes = Scope.DEPLOYMENTS_READ.value
    query_parameters = frozenset({"version"})

    @extend_schema(
        operation_id="deployments_check",
        parameters=[OpenApiParameter("version", int, required=True, description="Number of the version.")],
        responses=VersionCheckSerializer,
    )
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Check a version before it is promoted: each rule with its figures."""
        deployment = get_object_or_404(self.team.deployments, pk=pk)
        number = request.query_params.get("version", "")
        if not (number.isascii() and number.isdecimal() and len(number) < 10):
            raise InvalidInput(default_message(400), param="version")
        versions = self.team.deploymentversions.select_related(*_SHOWN)
        version = versions.filter(deployment=deployment, number=int(number)).first()
        if version is None:
            raise NotFound(default_message(404), param="version")
        judgement = gate.judge(version.deployment, version)
        return Response(
            VersionCheckSerializer(
                {
                    "version": version.number,
                    "has_passed": judgement.has_passed,
                    "is_same_rows": judgement.is_same_rows,
                    "rules": [dataclasses.asdict(rule) for rule in judgement.rules],
                }
            ).data
        )
