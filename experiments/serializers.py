"""What the API says about experiments, runs, adapters and base models: allow-lists, field by field."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from pydantic import ValidationError
from rest_framework import serializers

from datasets_app.models import DatasetVersion, Split
from experiments.continuing import required_settings
from experiments.hyperparameter_words import refusal_words
from experiments.hyperparameters import PROBLEM_TYPES, Hyperparameters
from experiments.models import Adapter, Evaluation, Experiment, MetricPoint, Priority, Run, RunEvent, RunSample
from experiments.preflight import prediction_of
from experiments.recipes import RECIPES, advise
from experiments.services import require_allowed
from experiments.situations import situation_of
from portal.models import BaseModel, Team
from portal.scoping import narrow_to_team

# What can be asked for in so many words; evaluations of kept weights have an address of their own.
ORDERED_KINDS = [(kind.value, kind.label) for kind in (Run.Kind.TRAINING, Run.Kind.PREFLIGHT)]


class TeamSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """A serializer for input whose references are limited to the team in its context."""

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        team: Team | None = self.context.get("team")
        if team is not None:
            narrow_to_team(fields, team)
        return fields


class NamedField(serializers.SlugRelatedField[Any]):
    """Names a row by its slug; a name that no database takes is the name of nothing."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, str) and "\0" in data:
            self.fail("does_not_exist", slug_name=self.slug_field, value="")
        return super().to_internal_value(data)


class BaseModelSerializer(serializers.ModelSerializer[BaseModel]):
    """A base model that teams may tune."""

    class Meta:
        model = BaseModel
        fields = ["slug", "name", "revision", "parameters", "context_tokens", "size_bytes", "licence"]


class ExperimentSerializer(serializers.ModelSerializer[Experiment]):
    """An experiment."""

    run_count = serializers.IntegerField(read_only=True)

    class Meta:
        model = Experiment
        fields = ["id", "name", "notes", "created_at", "run_count"]
        read_only_fields = ["id", "created_at"]


class RunSerializer(serializers.ModelSerializer[Run]):
    """A run with its state and progress."""

    experiment_name = serializers.CharField(source="experiment.name", read_only=True)
    base_model = serializers.SlugRelatedField(slug_field="slug", read_only=True)  # type: ignore[var-annotated]
    adapter = serializers.SerializerMethodField()
    progress = serializers.FloatField(read_only=True)
    deploy_as = serializers.CharField(read_only=True)  # '' where nothing is deployed, which no slug is
    prediction = serializers.SerializerMethodField()

    class Meta:
        model = Run
        fields = [
            "id", "experiment", "experiment_name", "kind", "sweep", "number", "dataset_version", "base_model",
            "base_revision", "recipe", "hyperparameters", "gpus", "config_hash", "deploy_as", "continue_from",
            "start_adapter", "priority",
            "status", "phase", "progress", "step",
            "total_steps", "eta_s", "attempt", "queued_at", "started_at", "ended_at", "error_code", "error_message",
            "gpu_seconds", "adapter", "prediction",
        ]  # fmt: skip
        read_only_fields = fields

    def get_adapter(self, run: Run) -> str | None:
        """The adapter that the run left, if it did."""
        adapter = getattr(run, "adapter", None)
        return str(adapter.pk) if adapter else None

    def get_prediction(self, run: Run) -> dict[str, Any] | None:
        """What a trial tells about the whole run: seconds, peak memory, cost; null for other runs."""
        prediction = prediction_of(run)
        return prediction.to_dict() if prediction else None


class KeptStep(serializers.Serializer[Any]):
    """Which of the weights that a run has kept."""

    step = serializers.IntegerField(min_value=0, max_value=2**31 - 1)


class RunPriority(serializers.Serializer[Any]):
    """Which of the team's own waiting runs goes first: -1 low, 0 normal, 1 high."""

    priority = serializers.ChoiceField(choices=Priority.choices)

    def validate_priority(self, value: int) -> Priority:
        return Priority(value)


class RunChoice(TeamSerializer):
    """What a new run learns from, on which model, and how."""

    dataset_version = serializers.PrimaryKeyRelatedField(queryset=DatasetVersion.unscoped.all())
    base_model = NamedField(slug_field="slug", queryset=BaseModel.objects.all())
    recipe = serializers.ChoiceField(choices=list(RECIPES), default="balanced")
    hyperparameters = serializers.DictField(
        required=False, help_text="Values that differ from the recipe's, by name. Unknown names are refused."
    )
    deploy_as = serializers.SlugField(max_length=60, required=False, default="")
    kind = serializers.ChoiceField(
        choices=ORDERED_KINDS,
        default=Run.Kind.TRAINING,
        help_text="`preflight`: try 20 steps instead, to tell time, memory and cost; nothing of it is kept.",
    )
    continue_from = serializers.PrimaryKeyRelatedField(
        queryset=Run.unscoped.filter(adapter__isnull=False),
        required=False,
        allow_null=True,
        help_text="A run whose adapter is where the new one starts; base model, rank and layers have to be the same.",
    )

    continue_step = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=2**31 - 1,
        help_text="From the weights that this run kept at the step, instead of from its result.",
    )

    def validate_base_model(self, value: BaseModel) -> BaseModel:
        """Refuse a model that is not allowed, which is no mistake in the request. Raises: Forbidden."""
        require_allowed(value)
        return value

    def validate_kind(self, value: str) -> Run.Kind:
        return Run.Kind(value)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Put recipe and given values together."""
        given = attrs.get("hyperparameters", {})
        kind = given.get("problem_type", "chat")
        known = kind if isinstance(kind, str) and kind in PROBLEM_TYPES else "chat"  # nonsense is refused below
        situation = situation_of(attrs["dataset_version"], attrs["base_model"], problem_type=known)
        values = advise(attrs["recipe"], situation).hyperparameters.model_dump()
        if parent := attrs.get("continue_from"):
            values |= required_settings(parent, attrs.get("continue_step"))
        try:
            attrs["hyperparameters"] = Hyperparameters(**{**values, **given})
        except ValidationError as error:
            problems = {
                ".".join(map(str, problem["loc"])) or "hyperparameters": [refusal_words(problem)]
                for problem in error.errors()
            }
            raise serializers.ValidationError({"hyperparameters": problems}) from error
        return attrs


class ExperimentChoice(RunChoice):
    """A new experiment with its first run."""

    name = serializers.CharField(max_length=120)
    notes = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")


class SubmitRun(RunChoice):
    """A further run of an experiment."""

    experiment = serializers.PrimaryKeyRelatedField(queryset=Experiment.unscoped.all())

    def validate_experiment(self, experiment: Experiment) -> Experiment:
        """Refuse strangers' experiments even if narrowing were forgotten."""
        if experiment.team_id != self.context["team"].pk:
            raise serializers.ValidationError(_("There is no such experiment."))
        return experiment


class RunFilter(serializers.Serializer):  # type: ignore[type-arg]
    """What a list of runs may be narrowed by; other names are ignored, nonsense is refused."""

    experiment = serializers.UUIDField(required=False)
    status = serializers.ChoiceField(choices=Run.Status.choices, required=False)
    kind = serializers.ChoiceField(choices=Run.Kind.choices, default=Run.Kind.TRAINING)
    sweep = serializers.UUIDField(required=False)

    def conditions(self) -> dict[str, Any]:
        """Return the checked conditions, by field."""
        return dict(self.validated_data)


class MetricPointSerializer(serializers.ModelSerializer[MetricPoint]):
    """What was measured at one step."""

    class Meta:
        model = MetricPoint
        fields = ["step", "values", "at"]


class RunEventSerializer(serializers.ModelSerializer[RunEvent]):
    """A line of the run's log."""

    class Meta:
        model = RunEvent
        fields = ["id", "at", "level", "kind", "message"]


class RunSampleSerializer(serializers.ModelSerializer[RunSample]):
    """Validation rows as the adapter answered them at one step."""

    class Meta:
        model = RunSample
        fields = ["step", "rows"]


class EvaluationSerializer(serializers.ModelSerializer[Evaluation]):
    """The quality report on held-out rows: `rows` of `rows_of_split` were asked."""

    rows_of_split = serializers.SerializerMethodField()

    class Meta:
        model = Evaluation
        fields = ["split", "rows", "rows_of_split", "report", "created_at"]

    def get_rows_of_split(self, evaluation: Evaluation) -> int:
        """How many rows the split has from which those that were asked are drawn."""
        return evaluation.run.dataset_version.row_count(Split(evaluation.split))


class AdapterSerializer(serializers.ModelSerializer[Adapter]):
    """LoRA weights that a run left behind."""

    base_model = serializers.SlugRelatedField(slug_field="slug", read_only=True)  # type: ignore[var-annotated]

    class Meta:
        model = Adapter
        fields = ["id", "run", "base_model", "step", "sha256", "size_bytes", "created_at"]
        read_only_fields = fields
