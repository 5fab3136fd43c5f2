"""The resource API of sweeps."""

from __future__ import annotations

import uuid
from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from experiments import sweeps
from experiments.api import READ_WRITE, PagedAPIView
from experiments.models import Sweep
from experiments.serializers import SubmitRun
from experiments.sweep_plan import MOST_RUNS, BadSweep, Values, checked_values
from portal.api.pagination import PAGE_PARAMETERS, PAGE_SCHEMA, page_of
from portal.models import Scope


class SweepSerializer(serializers.ModelSerializer[Sweep]):
    """A sweep with its runs; `best_run` is the finished one whose adapter has the lowest validation loss."""

    runs = serializers.SerializerMethodField()
    best_run = serializers.SerializerMethodField()

    class Meta:
        model = Sweep
        fields = ["id", "experiment", "method", "values", "rule", "created_at", "runs", "best_run"]
        read_only_fields = fields

    def get_runs(self, sweep: Sweep) -> list[str]:
        """The runs, in the order of their numbers."""
        return [str(run.pk) for run in sorted(sweep.runs.all(), key=lambda run: run.number)]

    def get_best_run(self, sweep: Sweep) -> str | None:
        """The best run, null until one has finished."""
        best = sweeps.best_of(list(sweep.runs.all()))
        return str(best.pk) if best else None


class SweepChoice(SubmitRun):
    """Several runs of an experiment; `hyperparameters` are the same in all of them, `values` differ."""

    kind = None  # type: ignore[assignment]
    deploy_as = None  # type: ignore[assignment]
    values = serializers.DictField(
        help_text='Lists of values by hyperparameter; for `random` also ranges, as {"lora_r": ["4..64"]}.'
    )
    method = serializers.ChoiceField(choices=Sweep.Method.choices, default=Sweep.Method.GRID)
    runs = serializers.IntegerField(min_value=2, max_value=MOST_RUNS, required=False, default=8)
    rule = serializers.ChoiceField(
        choices=Sweep.Rule.choices,
        default=Sweep.Rule.MEDIAN,
        help_text="Which runs are stopped before their end: `none`; `median`, those worse than the median of the "
        "others; `halving`, the worse half at 1/8, 1/4 and 1/2 of the way (of 8 runs).",
    )
    only_count = serializers.BooleanField(
        default=False, help_text="Say how many runs it makes and what they cost, and start nothing."
    )

    def validate_values(self, given: dict[str, Any]) -> Values:
        """Read ranges, and refuse what is no hyperparameter."""
        try:
            return checked_values(given)
        except BadSweep as error:
            raise serializers.ValidationError(str(error)) from None


class SweepPlanSerializer(serializers.Serializer[Any]):
    """What a sweep would make and cost."""

    runs = serializers.IntegerField(help_text="how many")
    seconds = serializers.FloatField(allow_null=True, help_text="of a node at most, null if nobody can say")
    expected_seconds = serializers.FloatField(allow_null=True, help_text="if losers are stopped as the rule means to")
    cost = serializers.FloatField(allow_null=True)
    currency = serializers.CharField()
    refusal = serializers.CharField(help_text="why the team's limits have no room; empty if they have")


class Sweeps(PagedAPIView):
    """Sweeps of the team."""

    scopes = READ_WRITE
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="sweeps_list",
        responses=page_of("Sweep", SweepSerializer),
        parameters=PAGE_SCHEMA,
    )
    def get(self, request: Request) -> Response:
        """List sweeps, newest first."""
        return self.paged(self.team.sweeps.prefetch_related("runs").order_by("-created_at"), SweepSerializer)

    @extend_schema(
        operation_id="sweeps_create", request=SweepChoice, responses={201: SweepSerializer, 200: SweepPlanSerializer}
    )
    def post(self, request: Request) -> Response:
        """Start a sweep, or with `only_count` say what it would make and cost."""
        given = self.read(SweepChoice)
        names = ("values", "method", "runs", "rule")
        base = given["hyperparameters"]
        choice = sweeps.Choice(base=base, seed=base.seed, **{name: given[name] for name in names})
        where = {name: given[name] for name in ("dataset_version", "base_model")}
        if given["only_count"]:
            plan = sweeps.plan_sweep(team=self.team, choice=choice, **where)
            facts = {
                name: getattr(plan, name) for name in ("seconds", "expected_seconds", "cost", "currency", "refusal")
            }
            return Response(SweepPlanSerializer({**facts, "runs": len(plan.runs)}).data)
        sweep = sweeps.start_sweep(
            experiment=given["experiment"],
            actor=self.actor,
            choice=choice,
            recipe=given["recipe"],
            continue_from=given.get("continue_from"),
            continue_step=given.get("continue_step"),
            **where,
        )
        return Response(SweepSerializer(sweep).data, status=201)


class SweepDetail(PagedAPIView):
    """One sweep."""

    scopes = Scope.RUNS_READ.value

    @extend_schema(operation_id="sweeps_retrieve", responses=SweepSerializer)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Show a sweep with its best run."""
        return Response(SweepSerializer(_sweep_of(self, pk)).data)


class SweepCancel(PagedAPIView):
    """Stopping a sweep."""

    scopes = Scope.RUNS_WRITE.value

    @extend_schema(operation_id="sweeps_cancel", request=None, responses=SweepSerializer)
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Stop all runs of a sweep that have not ended."""
        sweep = _sweep_of(self, pk)
        sweeps.cancel_sweep(sweep=sweep, actor=self.actor)
        return Response(SweepSerializer(_sweep_of(self, pk)).data)


def _sweep_of(view: PagedAPIView, pk: uuid.UUID) -> Sweep:
    found: Sweep = get_object_or_404(view.team.sweeps.prefetch_related("runs"), pk=pk)
    return found
