"""Forms of the deployments pages: shape only; what is allowed is checked by the services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.utils.functional import lazy
from django.utils.text import format_lazy
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from deployments.canaries import LEAST_SHARE, MOST_SHARE
from deployments.history import MAX_REASON
from deployments.models import ModelExport, PromotionPolicy
from deployments.policies import LONGEST_MS, SHARES
from deployments.request_log import MOST_DAYS
from deployments.services import LONGEST_SLEEP_MINUTES, MAX_ANSWER_TOKENS, MAX_SYSTEM_PROMPT
from experiments.models import Run
from portal.display import numbers
from portal.forms import TeamForm
from portal.models import Team, TeamSecret

GGUF_WEIGHTS = ModelExport.Weights.choices


class DeployForm(TeamForm):
    """Which run is deployed under which name, and what its model is told first."""

    run: Any = forms.ModelChoiceField(
        label=_("Run"), queryset=Run.unscoped.none(), help_text=_("Only runs that have finished can be deployed.")
    )
    name = forms.CharField(
        label=_("Name"),
        max_length=60,
        help_text=_("Your systems call the model by this name. A name that exists gets a new version."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    step = forms.IntegerField(
        label=_("Step"),
        required=False,
        min_value=1,
        help_text=_("A checkpoint that the run has kept. Empty: its result."),
    )
    system_prompt = forms.CharField(
        label=_("System prompt"),
        required=False,
        max_length=MAX_SYSTEM_PROMPT,
        strip=False,
        help_text=_("Put before requests that bring none. The one from training works best."),
        widget=forms.Textarea(attrs={"rows": 4}),
    )
    bind_to_schema = forms.BooleanField(
        label=_("Hold answers to the dataset's schema"),
        required=False,
        help_text=_("Every answer is then JSON of this schema, unless a request brings its own."),
    )
    max_tokens = forms.IntegerField(
        label=_("Most tokens of an answer"),
        required=False,
        min_value=1,
        max_value=MAX_ANSWER_TOKENS,
        help_text=_("Longer answers are cut off. Empty: requests decide."),
    )
    thresholds = forms.CharField(
        label=_("Abstain below"),
        required=False,
        max_length=2000,
        help_text=_(
            "Least confidence by field, one in each line, such as queue = 0.8; label = 0.8 for a classification. "
            "Decisions below it abstain, and answers with their confidence mark such a field for a person."
        ),
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )
    note = forms.CharField(
        label=_("Why"), required=False, max_length=MAX_REASON, help_text=_("Shown in the history of the deployment.")
    )

    def clean_thresholds(self) -> dict[str, float]:
        """Return the least confidences by field."""
        found: dict[str, float] = {}
        for line in filter(str.strip, self.cleaned_data["thresholds"].splitlines()):
            name, _sign, number = line.rpartition("=")
            try:
                least = float(number)
            except ValueError:
                least = -1.0
            if not name.strip() or not 0 <= least <= 1:
                raise forms.ValidationError(
                    gettext("“%(line)s” is no field with a number from 0 to 1, such as queue = 0.8.")
                    % {"line": line.strip()[:80]}
                )
            found[name.strip()] = least
        return found

    def __init__(self, *args: Any, team: Team, **kwargs: Any) -> None:
        super().__init__(*args, team=team, **kwargs)
        deployable = team.runs.filter(adapter__isnull=False).select_related("experiment").order_by("-queued_at")
        self.fields["run"].queryset = deployable  # type: ignore[attr-defined]

    @property
    def given_system_prompt(self) -> str | None:
        """The system prompt, or None if the form that was sent had no such field."""
        prompt: str = self.cleaned_data["system_prompt"].replace("\r\n", "\n")
        return prompt if self.add_prefix("system_prompt") in self.data else None


class PromoteForm(forms.Form):
    """Why a version shall answer, and whether it shall although the gate holds it back."""

    reason = forms.CharField(
        label=_("Why"), required=False, max_length=MAX_REASON, help_text=_("Shown in the history of the deployment.")
    )
    override = forms.BooleanField(label=_("Let it answer although a rule fails"), required=False)


class CanaryForm(forms.Form):
    """Which share of the requests a version gets beside the one that answers, and whether although a rule fails."""

    share = forms.IntegerField(
        label=_("Share of the requests"),
        min_value=LEAST_SHARE,
        max_value=MOST_SHARE,
        initial=10,
        help_text=_("1 to 50 per cent of the requests to the plain name. Requests to a version by its number stay."),
    )
    reason = forms.CharField(
        label=_("Why"), required=False, max_length=MAX_REASON, help_text=_("Shown in the history of the deployment.")
    )
    override = forms.BooleanField(label=_("Let it answer although a rule fails"), required=False)


class SleepForm(forms.Form):
    """After how long without a request a deployment sleeps."""

    sleep_after_minutes = forms.IntegerField(
        label=_("Sleep after"),
        required=False,
        min_value=1,
        max_value=LONGEST_SLEEP_MINUTES,
        help_text=_(
            "Minutes without a request, then the adapter makes room for others. The next request wakes it and waits "
            "a moment. Empty: it never sleeps."
        ),
    )


class RetirementForm(forms.Form):
    """On which day a deployment answers for the last time."""

    retires_on = forms.DateField(
        label=_("Last day"),
        required=False,
        widget=forms.DateInput({"type": "date"}),
        help_text=_("In UTC. Programs that list models are told this date. Empty: no end is set."),
    )


class LogForm(forms.Form):
    """Whether texts of requests are kept, and for how long."""

    logs_text = forms.BooleanField(
        label=_("Keep what is asked and answered"),
        required=False,
        help_text=_("Everybody in the team can read it then. Switched off, counts and times are kept only."),
    )
    log_days = forms.IntegerField(
        label=_("Days"), min_value=1, max_value=MOST_DAYS, help_text=_("Then a text is deleted by itself.")
    )


class CorrectionForm(forms.Form):
    """What an answer should have been."""

    correction = forms.CharField(
        label=_("What the answer should have been"),
        required=False,
        strip=False,
        help_text=_("Empty takes a correction back."),
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
    )


class FileExportForm(forms.Form):
    """In which form a model is exported as a file."""

    format = forms.ChoiceField(
        label=_("Format"),
        choices=[
            ("merged", _("Merged model: safetensors, for transformers, vLLM and others")),
            *((f"gguf:{value}", format_lazy("GGUF, {words}", words=label)) for value, label in GGUF_WEIGHTS),
        ],
        help_text=_("Merged models need no adapter any more. GGUF files run in llama.cpp and Ollama."),
    )


class PushForm(TeamForm):
    """Where on the hub a model goes, with which credential."""

    repository = forms.CharField(
        label=_("Repository"),
        max_length=120,
        help_text=_("owner/name on the hub; it is made if it does not exist."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    secret: Any = forms.ModelChoiceField(
        label=_("Credential"),
        queryset=None,
        help_text=_("A hub token that may write, from the team's secrets."),
    )
    is_private = forms.BooleanField(label=_("Private repository"), required=False)
    whole_model = forms.BooleanField(label=_("Push the merged model instead of the adapter"), required=False)

    def __init__(self, *args: Any, team: Team, **kwargs: Any) -> None:
        super().__init__(*args, team=team, **kwargs)
        tokens = team.teamsecrets.filter(kind=TeamSecret.Kind.HUB_TOKEN)
        self.fields["secret"].queryset = tokens  # type: ignore[attr-defined]


def _percent(name: str, label: Any, words: Any) -> forms.FloatField:
    """Return a field in percent for a share of `PromotionPolicy`, whose default it names."""
    help_text = format_lazy("{} {}", words, _default_words(name, numbers.percentage, 100))
    return forms.FloatField(label=label, required=False, min_value=0, max_value=100, help_text=help_text)


def _default_words(name: str, write: Callable[[float], str], scale: float = 1) -> Any:
    default = getattr(PromotionPolicy(), name)
    if default is None:
        return _("Not asked by default.")
    return format_lazy(_("Default: {default}."), default=lazy(write, str)(default * scale))


class PolicyForm(forms.Form):
    """What a version has to reach before it may answer; shares in percent."""

    is_on = forms.BooleanField(
        label=_("Hold back versions that break a rule"), required=False, help_text=_("On by default.")
    )
    needs_same_rows = forms.BooleanField(
        label=_("Compare figures of the same held-out rows only"),
        required=False,
        help_text=_("A version that was measured on other rows than the one that answers is held back. On by default."),
    )
    min_macro_f1 = _percent(
        "min_macro_f1", _("Least macro-F1"),
        _("In percent, over all closed fields; the mean score where there are none."),
    )  # fmt: skip
    max_f1_drop = _percent(
        "max_f1_drop", _("Largest drop of macro-F1"), _("In percentage points, beside the version that answers now.")
    )
    max_recall_drop = _percent(
        "max_recall_drop", _("Largest drop of a class's recall"),
        _("In percentage points, for every class with 10 held-out rows or more; one that is not found any more has 0."),
    )  # fmt: skip
    max_invalid_json = _percent(
        "max_invalid_json", _("Most answers that are no JSON"), _("In percent of the held-out rows.")
    )
    max_median_ms = forms.IntegerField(
        label=_("Longest median time"), required=False, min_value=1, max_value=LONGEST_MS,
        help_text=format_lazy(
            "{} {}",
            _("In milliseconds, of at least 20 requests to name@v2 or the like within seven days."),
            _default_words("max_median_ms", "{:g} ms".format),
        ),
    )  # fmt: skip
    max_median_rise = _percent(
        "max_median_rise", _("Largest rise of the median time"),
        _("In percent of that of the version that answers now, if both have had 20 requests within seven days."),
    )  # fmt: skip

    @staticmethod
    def initial_of(policy: PromotionPolicy) -> dict[str, Any]:
        """Return what the form shows of rules."""
        shares = {name: getattr(policy, name) for name in SHARES}
        percents = {name: None if share is None else round(share * 100, 4) for name, share in shares.items()}
        known = {name: getattr(policy, name) for name in ("is_on", "needs_same_rows", "max_median_ms")}
        return {**percents, **known}

    @property
    def shares(self) -> dict[str, float | None]:
        """The shares that were typed, in 0..1."""
        given = self.cleaned_data
        return {name: None if given[name] is None else given[name] / 100 for name in SHARES}


class AskForm(forms.Form):
    """One question to the playground from a browser without JavaScript."""

    model = forms.CharField(max_length=200)
    system = forms.CharField(required=False, max_length=MAX_SYSTEM_PROMPT)
    prompt = forms.CharField(max_length=100_000)
    temperature = forms.FloatField(required=False, min_value=0, max_value=2)
    max_tokens = forms.IntegerField(required=False, min_value=1, max_value=4096)

    def body(self) -> dict[str, Any]:
        """Return the question as the body of a chat request."""
        given = self.cleaned_data
        system = [{"role": "system", "content": given["system"]}] if given["system"] else []
        return {
            "model": given["model"],
            "messages": [*system, {"role": "user", "content": given["prompt"]}],
            "temperature": given["temperature"] or 0,
            "max_tokens": given["max_tokens"] or 256,
        }
