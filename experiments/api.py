"""The resource API of base models, experiments, runs and adapters."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import Count, QuerySet
from django.http import FileResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from experiments import measuring, services
from experiments import serializers as shapes
from experiments.models import TRAININGS, Adapter, Evaluation, Experiment, Run
from portal import archives, audit
from portal.api.pagination import PAGE_PARAMETERS, PAGE_SCHEMA, Pages, page_of
from portal.api.views import TeamAPIView
from portal.models import BaseModel, Scope

READ_WRITE = {"GET": Scope.RUNS_READ.value, "POST": Scope.RUNS_WRITE.value}


class PagedAPIView(TeamAPIView):
    """A view with lists in pages."""

    def paged(self, rows: QuerySet[Any], serializer: Any) -> Response:
        """Return one page of `rows`."""
        pages = Pages()
        page = pages.paginate_queryset(rows, self.request, view=self)
        return pages.get_paginated_response(serializer(page, many=True).data)

    def read(self, serializer: Any) -> Any:
        """Return the checked input of the request, or raise the error that names the field."""
        given = serializer(data=self.request.data, context={"team": self.team})
        given.is_valid(raise_exception=True)
        return given.validated_data

    def run_of(self, pk: uuid.UUID) -> Run:
        """Return the team's run with this key, or 404."""
        return get_object_or_404(_runs(self), pk=pk)


def _runs(view: TeamAPIView) -> QuerySet[Run]:
    runs = view.team.runs.select_related("experiment", "base_model", "adapter", "dataset_version")
    return runs.defer("dataset_version__report", "dataset_version__changes").order_by("-queued_at")


class BaseModels(PagedAPIView):
    """Base models that teams may tune."""

    scopes = Scope.RUNS_READ.value
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="base_models_list",
        responses=page_of("BaseModel", shapes.BaseModelSerializer),
        parameters=PAGE_SCHEMA,
    )
    def get(self, request: Request) -> Response:
        """List the allowed base models."""
        return self.paged(BaseModel.objects.filter(is_allowed=True), shapes.BaseModelSerializer)


class Experiments(PagedAPIView):
    """Experiments of the team."""

    scopes = READ_WRITE
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="experiments_list",
        responses=page_of("Experiment", shapes.ExperimentSerializer),
        parameters=PAGE_SCHEMA,
    )
    def get(self, request: Request) -> Response:
        """List experiments, newest first."""
        found = self.team.experiments.annotate(run_count=Count("runs", filter=TRAININGS)).order_by("-created_at")
        return self.paged(found, shapes.ExperimentSerializer)

    @extend_schema(
        operation_id="experiments_create", request=shapes.ExperimentChoice, responses={201: shapes.RunSerializer}
    )
    def post(self, request: Request) -> Response:
        """Create an experiment and start its first run."""
        choice = self.read(shapes.ExperimentChoice)
        run = services.start_experiment(team=self.team, actor=self.actor, **choice)
        return Response(shapes.RunSerializer(run).data, status=201)


class ExperimentDetail(PagedAPIView):
    """One experiment."""

    scopes = Scope.RUNS_READ.value

    @extend_schema(operation_id="experiments_retrieve", responses=shapes.ExperimentSerializer)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Show an experiment."""
        found = self.team.experiments.annotate(run_count=Count("runs", filter=TRAININGS))
        experiment: Experiment = get_object_or_404(found, pk=pk)
        return Response(shapes.ExperimentSerializer(experiment).data)


class Runs(PagedAPIView):
    """Runs of the team."""

    scopes = READ_WRITE
    query_parameters = PAGE_PARAMETERS | {"experiment", "status", "kind", "sweep"}

    @extend_schema(
        operation_id="runs_list",
        responses=page_of("Run", shapes.RunSerializer),
        parameters=[
            *PAGE_SCHEMA,
            OpenApiParameter("experiment", OpenApiTypes.UUID),
            OpenApiParameter("status", str),
            OpenApiParameter("kind", str),
            OpenApiParameter("sweep", OpenApiTypes.UUID),
        ],
    )
    def get(self, request: Request) -> Response:
        """List runs, newest first, narrowed by `experiment`, `sweep` or `status`; `kind` `preflight` lists trials."""
        filters = shapes.RunFilter(data=request.query_params)
        filters.is_valid(raise_exception=True)
        return self.paged(_runs(self).filter(**filters.conditions()), shapes.RunSerializer)

    @extend_schema(operation_id="runs_create", request=shapes.SubmitRun, responses={201: shapes.RunSerializer})
    def post(self, request: Request) -> Response:
        """Start a further run of an experiment."""
        run = services.submit_run(actor=self.actor, **self.read(shapes.SubmitRun))
        return Response(shapes.RunSerializer(run).data, status=201)


class RunDetail(PagedAPIView):
    """One run."""

    scopes = {"GET": Scope.RUNS_READ.value, "PATCH": Scope.RUNS_WRITE.value}

    @extend_schema(operation_id="runs_retrieve", responses=shapes.RunSerializer)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Show a run with its state and progress."""
        return Response(shapes.RunSerializer(self.run_of(pk)).data)

    @extend_schema(operation_id="runs_update", request=shapes.RunPriority, responses=shapes.RunSerializer)
    def patch(self, request: Request, pk: uuid.UUID) -> Response:
        """Let a waiting run go before or after the others of the team."""
        run = self.run_of(pk)
        services.set_priority(run=run, actor=self.actor, **self.read(shapes.RunPriority))
        return Response(shapes.RunSerializer(run).data)


class RunCancel(PagedAPIView):
    """Stopping a run."""

    scopes = Scope.RUNS_WRITE.value

    @extend_schema(operation_id="runs_cancel", request=None, responses=shapes.RunSerializer)
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Stop a run after its current step; what it has learned is kept."""
        run = self.run_of(pk)
        services.cancel_run(run=run, actor=self.actor)
        return Response(shapes.RunSerializer(self.run_of(pk)).data)


class RunMetrics(PagedAPIView):
    """The figures of a run, step by step."""

    scopes = Scope.RUNS_READ.value
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="runs_metrics",
        responses=page_of("MetricPoint", shapes.MetricPointSerializer),
        parameters=PAGE_SCHEMA,
    )
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """List metric points in the order of steps."""
        return self.paged(self.run_of(pk).metrics.order_by("step"), shapes.MetricPointSerializer)


class RunEvents(PagedAPIView):
    """The log of a run."""

    scopes = Scope.RUNS_READ.value
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="runs_events",
        responses=page_of("RunEvent", shapes.RunEventSerializer),
        parameters=PAGE_SCHEMA,
    )
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """List log lines, oldest first."""
        return self.paged(self.run_of(pk).events.order_by("id"), shapes.RunEventSerializer)


class RunSamples(PagedAPIView):
    """What the adapter answered to validation rows while it was trained."""

    scopes = Scope.RUNS_READ.value
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="runs_samples",
        responses=page_of("RunSample", shapes.RunSampleSerializer),
        parameters=PAGE_SCHEMA,
    )
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """List sampled answers, first step first."""
        return self.paged(self.run_of(pk).samples.order_by("step"), shapes.RunSampleSerializer)


class RunEvaluation(PagedAPIView):
    """The quality report of a run."""

    scopes = READ_WRITE

    @extend_schema(operation_id="runs_evaluation", responses=shapes.EvaluationSerializer)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Show how the tuned and the untuned model answered the held-out rows; 404 until it is there."""
        rows = Evaluation.unscoped.filter(team=self.team).select_related("run__dataset_version")
        return Response(shapes.EvaluationSerializer(get_object_or_404(rows, run=self.run_of(pk))).data)

    @extend_schema(operation_id="runs_evaluate", request=shapes.KeptStep, responses={201: shapes.RunSerializer})
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Measure weights that the run has kept on validation rows; the answer is a run of the kind `evaluation`."""
        run = self.run_of(pk)
        evaluation = measuring.evaluate_kept(run=run, actor=self.actor, **self.read(shapes.KeptStep))
        return Response(shapes.RunSerializer(evaluation).data, status=201)


class Adapters(PagedAPIView):
    """Adapters of the team."""

    scopes = Scope.RUNS_READ.value
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="adapters_list",
        responses=page_of("Adapter", shapes.AdapterSerializer),
        parameters=PAGE_SCHEMA,
    )
    def get(self, request: Request) -> Response:
        """List adapters, newest first."""
        return self.paged(_adapters(self), shapes.AdapterSerializer)


class AdapterDetail(PagedAPIView):
    """One adapter."""

    scopes = Scope.RUNS_READ.value

    @extend_schema(operation_id="adapters_retrieve", responses=shapes.AdapterSerializer)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Show an adapter."""
        return Response(shapes.AdapterSerializer(get_object_or_404(_adapters(self), pk=pk)).data)


class AdapterDownload(PagedAPIView):
    """The files of an adapter."""

    scopes = Scope.RUNS_READ.value

    @extend_schema(
        operation_id="adapters_download",
        responses={(200, "application/zip"): OpenApiResponse(OpenApiTypes.BINARY, description="The PEFT folder")},
    )
    def get(self, request: Request, pk: uuid.UUID) -> FileResponse:
        """Download an adapter as a ZIP of its PEFT folder."""
        adapter: Adapter = get_object_or_404(_adapters(self), pk=pk)
        audit.read(self.team, self.actor, "adapter.downloaded", adapter)
        return archives.folder_response(adapter.folder, f"adapter-{adapter.pk}.zip")


def _adapters(view: TeamAPIView) -> QuerySet[Adapter]:
    return view.team.adapters.select_related("base_model").order_by("-created_at")
