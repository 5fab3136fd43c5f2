"""One of everything that a team can own, for tests that walk all pages and routes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from datasets_app.models import DatasetVersion
from deployments.models import (
    ApiFile,
    BatchJob,
    Deployment,
    DeploymentVersion,
    FineTuningJob,
    InferenceRecord,
    ModelExport,
    WebhookDelivery,
    WebhookEndpoint,
)
from experiments.hyperparameters import Hyperparameters, config_hash
from experiments.models import Adapter, Run
from portal.models import ApiToken, BaseModel, Invitation, Membership, Role, ServiceAccount, Team
from portal.rls import team_scope


@dataclass
class World:
    """One of everything that belongs to `team`."""

    team: Team
    version: DatasetVersion
    run: Run
    adapter: Adapter
    deployment: Deployment
    deployment_version: DeploymentVersion
    token: ApiToken
    service_account: ServiceAccount
    membership: Membership
    invitation: Invitation
    deleted_version: DatasetVersion
    file: ApiFile
    job: FineTuningJob
    batch: BatchJob
    record: InferenceRecord
    export: ModelExport
    webhook: WebhookEndpoint
    delivery: WebhookDelivery


def make_world(team: Team, base_model: BaseModel, ready_version: DatasetVersion) -> World:
    """Give `team` a finished run with an adapter, a deployment of it and whatever else it owns already."""
    with team_scope(team.pk):
        experiment = team.experiments.create(name="Question")
        chosen = Hyperparameters()
        sweep = team.sweeps.create(experiment=experiment, values={"lora_r": [8, 16]})
        run = team.runs.create(
            experiment=experiment,
            sweep=sweep,
            number=1,
            dataset_version=ready_version,
            base_model=base_model,
            base_revision=base_model.revision,
            hyperparameters=chosen.model_dump(mode="json"),
            config_hash=config_hash(chosen),
            status=Run.Status.SUCCEEDED,
            ended_at=timezone.now(),
        )
        team.runsamples.create(run=run, step=1, rows=[{"row": 2, "prompt": "Hi", "expected": "{}", "answer": "{}"}])
        team.firstbatchs.create(run=run, rows=[{"given": [["Hi", 1]], "learned": [["{}", 1]]}])
        adapter = team.adapters.create(
            run=run, result_of=run, base_model=base_model, step=1, sha256="0" * 64, size_bytes=1
        )
        adapter.folder.mkdir(parents=True)
        (adapter.folder / "adapter_config.json").write_text("{}")
        kept = run.folder / "kept" / "step-2"
        kept.mkdir(parents=True)
        (kept / "adapter_config.json").write_text("{}")
        deployment = team.deployments.create(name="triage")
        live = team.deploymentversions.create(deployment=deployment, number=1, adapter=adapter)
        deployment.live_version = live
        deployment.canary_version = team.deploymentversions.create(deployment=deployment, number=2, adapter=adapter)
        deployment.canary_share, deployment.canary_since = 10, timezone.now()
        deployment.save()
        team.deploymentevents.create(
            deployment=deployment, action="deployment.promoted", version=1, actor="somebody", reason="A reason to keep"
        )
        team.promotionpolicys.create()
        team.judgesettings.create(address="https://judge.example/v1", model="big")
        tracker = team.trackersettings.create(address="https://mlflow.example", experiment="Tuneport")
        team.trackedruns.create(tracker=tracker, run=run, status="failed", problem="The tracker answers HTTP 500.")
        record = team.inferencerecords.create(version=live, model="triage", status=200, duration_ms=5)
        team.loggedtexts.create(
            record=record, deployment=deployment, kept_until=timezone.now() + timedelta(days=1), answer="{}",
            messages=[{"role": "user", "content": "Hi"}],
        )  # fmt: skip
        export = team.modelexports.create(adapter=adapter, kind="gguf", status="failed", error="It was too large.")
        account = team.serviceaccounts.create(name="Service desk")
        membership = team.memberships.get(role=Role.VIEWER)
        expires_at = timezone.now() + timedelta(days=1)
        digest = team.pk.hex * 2  # of no token, and another one for each team
        invitation = team.invitations.create(email="dora@example.org", digest=digest, expires_at=expires_at)
        gone = team.datasets.create(name="Deleted", deleted_at=timezone.now())
        deleted_version = team.datasetversions.create(
            dataset=gone, number=1, status=DatasetVersion.Status.READY, deleted_at=gone.deleted_at
        )
        file = team.apifiles.create(
            purpose=ApiFile.Purpose.FINE_TUNE, status="processed", name="rows.jsonl", size_bytes=2, sha256="0" * 64
        )
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_text("{}")
        job = team.finetuningjobs.create(
            base_model=base_model, asked_model=base_model.slug, training_file=file, files_hash="0" * 64, seed=1,
            training_file_id_shown=file.public_id, model_name=f"ft:tiny:{team.slug}::1", state="submitted", run=run,
            dataset_version=ready_version, metadata={"ticket": "4711"},
        )  # fmt: skip
        batch = team.batchjobs.create(
            endpoint="/v1/chat/completions", input_file=file, input_file_id_shown=file.public_id, status="completed",
            expires_at=expires_at, metadata={"quarter": "last"},
        )  # fmt: skip
        webhook = team.webhookendpoints.create(
            name="Status board", url="https://example.org/hook", event_types=["batch.completed"], secret_hint="abcd",
            is_active=False, note="Nothing has arrived there for three days.",
        )  # fmt: skip
        delivery = team.webhookdeliverys.create(
            endpoint=webhook, event_id=team.pk, event_type="batch.completed", subject=batch.public_id, status="failed",
            occurred_at=timezone.now(), answered=500, problem="The endpoint answers HTTP 500.",
        )  # fmt: skip
        return World(
            team,
            ready_version,
            run,
            adapter,
            deployment,
            live,
            team.apitokens.get(),
            account,
            membership,
            invitation,
            deleted_version,
            file,
            job,
            batch,
            record,
            export,
            webhook,
            delivery,
        )
