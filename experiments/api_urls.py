"""Addresses of the resource API of experiments, runs and adapters."""

from django.urls import path

from experiments import api, api_judge, api_sweeps, api_tracker

app_name = "experiments-api"
urlpatterns = [
    path("base-models/", api.BaseModels.as_view(), name="base_models"),
    path("experiments/", api.Experiments.as_view(), name="experiments"),
    path("experiments/<uuid:pk>/", api.ExperimentDetail.as_view(), name="experiment"),
    path("runs/", api.Runs.as_view(), name="runs"),
    path("runs/<uuid:pk>/", api.RunDetail.as_view(), name="run"),
    path("runs/<uuid:pk>/cancel/", api.RunCancel.as_view(), name="run_cancel"),
    path("runs/<uuid:pk>/metrics/", api.RunMetrics.as_view(), name="run_metrics"),
    path("runs/<uuid:pk>/events/", api.RunEvents.as_view(), name="run_events"),
    path("runs/<uuid:pk>/samples/", api.RunSamples.as_view(), name="run_samples"),
    path("runs/<uuid:pk>/evaluation/", api.RunEvaluation.as_view(), name="run_evaluation"),
    path("runs/<uuid:pk>/judgements/", api_judge.RunJudgements.as_view(), name="run_judgements"),
    path("tracker/", api_tracker.Tracker.as_view(), name="tracker"),
    path("judge/", api_judge.Judge.as_view(), name="judge"),
    path("sweeps/", api_sweeps.Sweeps.as_view(), name="sweeps"),
    path("sweeps/<uuid:pk>/", api_sweeps.SweepDetail.as_view(), name="sweep"),
    path("sweeps/<uuid:pk>/cancel/", api_sweeps.SweepCancel.as_view(), name="sweep_cancel"),
    path("adapters/", api.Adapters.as_view(), name="adapters"),
    path("adapters/<uuid:pk>/", api.AdapterDetail.as_view(), name="adapter"),
    path("adapters/<uuid:pk>/download/", api.AdapterDownload.as_view(), name="adapter_download"),
]
