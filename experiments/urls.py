"""Addresses of experiments and runs."""

from django.urls import path

from experiments.views import answers, experiments, judge, kept, platform, quality, run_log, runs, sweeps, trackers

app_name = "experiments"
urlpatterns = [
    path("platform/runs/", platform.runs, name="platform_runs"),
    path("platform/runs/<uuid:pk>/cancel/", platform.cancel, name="platform_runs_cancel"),
    path("platform/runs/<uuid:pk>/priority/", platform.priority, name="platform_runs_priority"),
    path("t/<slug:team>/experiments/", experiments.index, name="list"),
    path("t/<slug:team>/experiments/new/", experiments.new, name="new"),
    path("t/<slug:team>/experiments/new/hyperparameters/", experiments.hyperparameters, name="hyperparameters"),
    path("t/<slug:team>/experiments/<uuid:pk>/", experiments.detail, name="detail"),
    path("t/<slug:team>/sweeps/<uuid:pk>/", sweeps.sweep, name="sweep"),
    path("t/<slug:team>/sweeps/<uuid:pk>/cancel/", sweeps.cancel, name="sweep_cancel"),
    path("t/<slug:team>/tracker/", trackers.index, name="tracker"),
    path("t/<slug:team>/tracker/test/", trackers.test, name="tracker_test"),
    path("t/<slug:team>/tracker/delete/", trackers.delete, name="tracker_delete"),
    path("t/<slug:team>/judge/", judge.index, name="judge"),
    path("t/<slug:team>/judge/delete/", judge.delete, name="judge_delete"),
    path("t/<slug:team>/runs/<uuid:pk>/judgement/", judge.judgement, name="judgement"),
    path("t/<slug:team>/runs/<uuid:pk>/judgement/ask/", judge.ask, name="judge_ask"),
    path("t/<slug:team>/runs/<uuid:pk>/judgement/cancel/", judge.cancel, name="judge_cancel"),
    path("t/<slug:team>/queue/", runs.queue, name="queue"),
    path("t/<slug:team>/runs/<uuid:pk>/", runs.run, name="run"),
    path("t/<slug:team>/runs/<uuid:pk>/status/", runs.run_status, name="run_status"),
    path("t/<slug:team>/runs/<uuid:pk>/rows/", runs.run_rows, name="run_rows"),
    path("t/<slug:team>/runs/<uuid:pk>/metrics/", runs.metrics, name="metrics"),
    path("t/<slug:team>/runs/<uuid:pk>/log/", run_log.log, name="log"),
    path("t/<slug:team>/runs/<uuid:pk>/log/all/", run_log.whole_log, name="whole_log"),
    path("t/<slug:team>/runs/<uuid:pk>/log.txt", run_log.log_text, name="log_text"),
    path("t/<slug:team>/runs/<uuid:pk>/quality/", quality.report, name="quality"),
    path("t/<slug:team>/runs/<uuid:pk>/quality/rows/", answers.rows, name="answers"),
    path("t/<slug:team>/runs/<uuid:pk>/quality/predictions.csv", quality.predictions, name="predictions"),
    path("t/<slug:team>/runs/<uuid:pk>/settings/", runs.settings, name="settings"),
    path("t/<slug:team>/runs/<uuid:pk>/settings.yaml", runs.settings_yaml, name="settings_yaml"),
    path("t/<slug:team>/runs/<uuid:pk>/cancel/", runs.cancel, name="cancel"),
    path("t/<slug:team>/runs/<uuid:pk>/priority/", runs.priority, name="priority"),
    path("t/<slug:team>/runs/<uuid:pk>/rerun/", runs.rerun, name="rerun"),
    path("t/<slug:team>/runs/<uuid:pk>/pause/", runs.pause, name="pause"),
    path("t/<slug:team>/runs/<uuid:pk>/resume/", runs.resume, name="resume"),
    path("t/<slug:team>/runs/<uuid:pk>/adapter.zip", kept.adapter_download, name="adapter_download"),
    path("t/<slug:team>/runs/<uuid:pk>/kept/<int:step>/adapter.zip", kept.kept_download, name="kept_download"),
    path("t/<slug:team>/runs/<uuid:pk>/kept/<int:step>/evaluate/", kept.evaluate, name="evaluate_kept"),
]
