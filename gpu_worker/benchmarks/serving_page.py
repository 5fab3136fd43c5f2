"""The serving benchmark's figures, and the table that says what was measured and how the answers agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpu_worker.benchmarks.processor_time import share_of
from gpu_worker.benchmarks.serving_bars import WITHIN_SCHEMA
from gpu_worker.benchmarks.serving_workload import Workload

EXACT = "Tuneport engine, fp32"
"""Whose answers, asked the same in the same form, stand beside all others' figures."""


@dataclass(frozen=True)
class Figures:
    """One subject on one kind of request. Times in seconds, memory in bytes; None: not measured."""

    subject: str
    latency_s: float
    first_token_s: float
    one_adapter_per_s: float
    mixed_per_s: float | None
    mixed_p95_s: float | None
    equal: str
    resident_bytes: int
    cold_start_s: float
    hot_add_s: float | None = None
    crowd_one_per_s: float | None = None
    crowd_mixed_per_s: float | None = None
    stolen_share: float | None = None
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What was answered in each round, by its name in `serving_load.rounds_of`."""

    @property
    def form(self) -> str:
        """The end of the subject's name that says what its answers are held to."""
        return WITHIN_SCHEMA if self.subject.endswith(WITHIN_SCHEMA) else ""


def agreed(answers: Sequence[str], others: Sequence[str]) -> str:
    """Return how many answers are the others', as n/N; the longer list is compared as far as the shorter goes."""
    equal = sum(own == other for own, other in zip(answers, others, strict=False))
    return f"{equal}/{min(len(answers), len(others))}"


def render(figures: Sequence[Figures], workload: Workload, *, source: str, in_flight: int, crowd: int) -> str:
    """Return the table and a sentence on what was done."""
    lines = [
        "## Serving",
        "",
        f"SmolLM2-135M-Instruct with {len(workload.adapters)} LoRA adapters (r = 16, all linear layers), trained on "
        f"the same rows with differently named answers; greedy, {len(workload.conversations)} requests from {source} "
        f"of {workload.prompt_tokens:.0f} prompt tokens on average and at most {workload.max_tokens} answer tokens; "
        f"{in_flight} and {crowd} requests in flight for the rates. float32 unless a row says otherwise. Tuneport over "
        "HTTP, transformers without. For its rates Tuneport is asked everything twice, one adapter and mixed ones in "
        "turn, the others once. Within the schema an answer may rightly differ from transformers' free one. In "
        "brackets beside a figure: how many of the answers that it was measured on are those of the "
        f"{EXACT}, asked the same in the same round and in the same form.",
        "",
        f"| engine | alone: latency, s | first token, s | {in_flight} in flight, one adapter: requests/s "
        f"| {len(workload.adapters)} mixed | mixed: p95, s | {crowd} in flight, one adapter | mixed "
        "| answers equal transformers' | resident, MB | cold start, s | hot add, s "
        "| processor time lost to other machines |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    exact = {row.form: row for row in figures if row.subject == EXACT + row.form}
    lines += [_line(row, exact.get(row.form)) for row in figures]
    return "\n".join(lines)


def _line(row: Figures, exact: Figures | None) -> str:
    measured = [
        (row.latency_s, 2, "alone"),
        (row.first_token_s, 2, "first"),
        (row.one_adapter_per_s, 2, "one"),
        (row.mixed_per_s, 2, "mixed"),
        (row.mixed_p95_s, 1, "mixed"),
        (row.crowd_one_per_s, 2, "one, crowd"),
        (row.crowd_mixed_per_s, 2, "mixed, crowd"),
    ]
    cells = [_number(value, digits) + _beside(row, exact, asked) for value, digits, asked in measured]
    return (
        f"| {row.subject} | {' | '.join(cells)} | {row.equal} | {row.resident_bytes / 1e6:,.0f} "
        f"| {row.cold_start_s:.1f} | {_number(row.hot_add_s)} | {share_of(row.stolen_share)} |"
    )


def _beside(row: Figures, exact: Figures | None, asked: str) -> str:
    if exact is None or exact is row or asked not in row.answers:
        return ""
    return f" ({agreed(row.answers[asked], exact.answers[asked])})"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
