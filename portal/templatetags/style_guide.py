"""Made-up rows for the style guide page, so that it shows every component without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from django import forms, template
from django.core.paginator import Paginator

from portal.display import numbers, shapes
from portal.templatetags.ui import STATUSES

register = template.Library()


class SampleForm(forms.Form):
    """One field of each kind."""

    name = forms.CharField(label="Name", max_length=80, help_text="Shown in lists. You can change it later.")
    recipe = forms.ChoiceField(
        label="Recipe",
        choices=[("fast", "Fast"), ("balanced", "Balanced"), ("best", "Best")],
        initial="balanced",
        widget=forms.RadioSelect,
    )
    learning_rate = forms.FloatField(label="Learning rate", min_value=1e-7, max_value=0.1, initial=0.001)
    max_minutes = forms.FloatField(label="Most time", required=False, min_value=0.1, help_text="Empty: no limit.")
    batch_size = forms.IntegerField(label="Batch size", min_value=1, max_value=1024, initial=8)
    quantization = forms.ChoiceField(label="Quantization", choices=[("none", "None"), ("int8", "8 bit")])
    block = forms.IntegerField(label="Block size", initial=64, help_text="Only with quantization.")
    notes = forms.CharField(label="Notes", required=False, widget=forms.Textarea(attrs={"rows": 3}))
    scopes = forms.MultipleChoiceField(
        label="May be used to",
        choices=[("inference", "Call deployments"), ("datasets", "Read datasets")],
        initial=["inference"],
        widget=forms.CheckboxSelectMultiple,
    )
    early_stop = forms.BooleanField(label="Stop when it no longer improves", required=False, initial=True)
    file = forms.FileField(label="Table of examples")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["max_minutes"].unit = "minutes"  # type: ignore[attr-defined]
        self.fields["batch_size"].unit = "rows"  # type: ignore[attr-defined]
        self.fields["block"].shown_if = ("quantization", ("int8",))  # type: ignore[attr-defined]


@register.simple_tag
def style_guide_samples() -> dict[str, Any]:
    """Return everything that templates/portal/style_guide.html shows."""
    now = datetime.now(UTC)
    faulty = SampleForm({"name": "", "learning_rate": "7", "recipe": "fast", "batch_size": "8", "block": "64"})
    faulty.is_valid()
    return {
        "now": now,
        "form": SampleForm(),
        "faulty": faulty,
        "descriptions": {
            "fast": "A first look in a few minutes.",
            "balanced": "Good quality in reasonable time. Start here.",
            "best": "More epochs and a larger adapter. Takes longest.",
        },
        "states": list(STATUSES)[:11],
        "runs": [_run(number, now) for number in range(4)],
        "page": Paginator(range(238), 25).page(3),
        "losses": [2.4, 1.9, 1.5, 1.2, 1.02, 0.81, 0.74, 0.66, 0.61, 0.58, 0.52, 0.5],
        "fields": [
            {"label": "service", "value": 0.962, "compared": 0.41, "low": 0.941, "high": 0.978, "note": "9 values"},
            {"label": "category", "value": 0.934, "compared": 0.37, "low": 0.908, "high": 0.957, "note": "5 values"},
            {"label": "urgency", "value": 0.871, "compared": 0.29, "low": 0.838, "high": 0.902, "note": "4 values"},
            {"label": "user_id", "value": 0.988, "compared": 0.62, "low": 0.974, "high": 0.997, "note": "open"},
        ],
        "labels": [
            {"label": label, "value": count}
            for label, count in (("Incident", 1842), ("Question", 1204), ("Bug", 611), ("Change", 207), ("Other", 38))
        ],
        "lengths": [
            {"label": f"{start}–{start + 31}", "value": count}
            for start, count in zip(range(0, 384, 32), [12, 96, 310, 522, 480, 331, 190, 97, 41, 18, 6, 2], strict=True)
        ],
        "ranks": shapes.scatter(
            [
                {"x": place, "y": loss, "label": f"{loss}", "is_marked": loss == 0.41}
                for place, loss in ((0, 0.62), (0, 0.58), (1, 0.47), (1, 0.52), (2, 0.41), (2, 0.44))
            ],
            places=["4", "8", "16"],
            write=numbers.significant,
        ),
        "confusion": [("Bug", [58, 3, 1]), ("Incident", [2, 91, 6]), ("Question", [0, 4, 77])],
        "classes": ["Bug", "Incident", "Question"],
        "log": [
            SimpleNamespace(at=now - timedelta(seconds=60 - index), level=level, text=words)
            for index, (level, words) in enumerate(
                [
                    ("info", "Loading SmolLM2-135M (269 MB)"),
                    ("info", "Tokenised 3,902 rows in 1.4 s; 3 rows are longer than 512 tokens and were cut"),
                    ("warning", "Micro-batch 8 did not fit; continuing with 4, the result is the same"),
                    ("error", "A row may hold <script>alert(1)</script>: it is shown, never run"),
                ]
            )
        ],
        "models": [("ticket-triage", "ticket-triage (live)"), ("smollm2-135m", "SmolLM2 135M, untuned")],
    }


def _run(number: int, now: datetime) -> SimpleNamespace:
    statuses = ("running", "succeeded", "failed", "queued")
    return SimpleNamespace(
        number=14 - number,
        name=("Rank 32, longer", "Balanced on v3", "Learning rate 0.01", "Fast check of v4 with Russian tickets")[
            number
        ],
        status=statuses[number],
        rows=3902 - number * 311,
        loss=(0.4213, 0.3871, None, None)[number],
        seconds=(754, 1912, 43, None)[number],
        started_at=now - timedelta(minutes=13 * (number + 1) ** 3),
    )
