"""The Markdown of the recipes' benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.recipes import RECIPES
from experiments.scoring.names import CONSTRAINED, MAJORITY, SCORED, TFIDF, TUNED, UNTUNED
from gpu_worker.benchmarks import recipes_confidence
from gpu_worker.benchmarks.bars import table
from gpu_worker.benchmarks.processor_time import share_of
from gpu_worker.benchmarks.recipes_bars import bars

_WORDS = {
    MAJORITY: "most frequent answer",
    TFIDF: "TF-IDF + logistic regression",
    UNTUNED: "untuned model",
    TUNED: "free",
    CONSTRAINED: "within the schema",
    SCORED: "allowed values scored",
}
_CHOSEN = ("learning_rate", "epochs", "batch_size", "lora_r", "precision")
BARS_WORDS = "The bars hold for answers within the schema, which is how a deployment answers."

Result = Mapping[str, Any]


def render(results: Sequence[Result], *, source: str) -> str:
    """Return the section: recipes on test rows, what they took, and trials on validation rows."""
    order = list(RECIPES)
    recipes = sorted(
        (one for one in results if not one["is_trial"]),
        key=lambda one: (one["learned_rows"], order.index(one["recipe"])),
    )
    trials = sorted((one for one in results if one["is_trial"]), key=lambda one: one["subject"])
    parts = [
        "## Recipes",
        f"SmolLM2-135M-Instruct on {source}. Exact answers with their 95 % bootstrap interval, over all test rows; "
        "nothing was chosen by them.",
    ]
    if recipes:
        parts += [_costs(recipes), _quality(recipes)]
        if sure := recipes_confidence.calibrated(recipes):
            parts.append(recipes_confidence.table(sure))
        parts += [BARS_WORDS, table(bars(results, source=source))]
    if trials:
        rows = ", ".join(sorted({f"{one['asked_rows']}" for one in trials}))
        parts += [
            f"Trials, by which the recipes' values were chosen: exact answers to {rows} validation rows, which are not "
            "among those learned from.",
            _trials(trials),
        ]
    return "\n\n".join(parts)


def summary(result: Result) -> str:
    """Return one line on a result."""
    report, training = result["report"], result["training"]
    exact = ", ".join(f"{_WORDS[name]} {one['exact_match']:.1%}" for name, one in report.items() if one)
    return f"{training['step']} steps in {training['seconds'] / 60:.1f} min; exact: {exact}"


def _costs(recipes: Sequence[Result]) -> str:
    lines = [
        "| recipe | rows | epochs | batch | learning rate | rank | arithmetic | steps | training, min "
        "| processor time lost to other machines | useful tokens/s | peak memory, MB | answering the test rows, min |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in recipes:
        values, training = one["hyperparameters"], one["training"]
        lines.append(
            f"| {one['recipe']} | {one['learned_rows']:,} | {values['epochs']:g} | {values['batch_size']} "
            f"| {values['learning_rate']:g} | {values['lora_r']} | {_arithmetic(one)} | {training['step']:,} "
            f"| {training['seconds'] / 60:.1f} | {share_of(one.get('stolen_share'))} | {_speed(training):.0f} "
            f"| {training['peak_memory_bytes'] / 1e6:,.0f} | {one['evaluation_s'] / 60:.1f} |"
        )
    return "\n".join(lines)


def _quality(recipes: Sequence[Result]) -> str:
    fields = [field["name"] for field in recipes[0]["report"][TUNED]["fields"]]
    head = ["rows", "who answers", "exact", "valid JSON", "follows the schema"]
    head += [f"{name}, right" for name in fields] + [f"{name}, macro-F1" for name in fields]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for rows in dict.fromkeys(one["learned_rows"] for one in recipes):
        same = [one for one in recipes if one["learned_rows"] == rows]
        for name in (MAJORITY, TFIDF):
            found = next((one["report"][name] for one in same if one["report"].get(name)), None)
            if found:
                lines.append(_answers(f"{rows:,}", _WORDS[name], found))
        untuned = next((one["untuned"] for one in same if one["untuned"]), None)
        if untuned:
            lines.append(_answers(f"{rows:,}", f"{_WORDS[UNTUNED]}, {untuned['rows']} rows", untuned))
        for one in same:
            for way in (TUNED, CONSTRAINED, SCORED):
                if one["report"].get(way):
                    lines.append(_answers(f"{rows:,}", f"**{one['recipe']}**, {_WORDS[way]}", one["report"][way]))
    return "\n".join(lines)


def _answers(rows: str, who: str, found: Mapping[str, Any]) -> str:
    exact = f"{found['exact_match']:.1%} ({found['exact_match_low']:.1%}–{found['exact_match_high']:.1%})"
    right = [_share(field["accuracy"]) for field in found["fields"]]
    f1 = [_share(field["f1"]) for field in found["fields"]]
    cells = [rows, who, exact, _share(found["json_valid"]), _share(found["schema_valid"]), *right, *f1]
    return f"| {' | '.join(cells)} |"


def _trials(trials: Sequence[Result]) -> str:
    lines = [
        f"| trial | rows | {' | '.join(name.replace('_', ' ') for name in _CHOSEN)} | training, min | validation loss "
        "| exact, free | exact, within the schema | TF-IDF + logistic regression |",
        "|" + "---|" * (7 + len(_CHOSEN)),
    ]
    for one in trials:
        values, report = one["hyperparameters"], one["report"]
        loss, minutes = one["training"]["validation_loss"], one["training"]["seconds"] / 60
        told = [f"{values[name]:g}" if isinstance(values[name], float) else f"{values[name]}" for name in _CHOSEN]
        exact = [_share((report.get(name) or {}).get("exact_match")) for name in (TUNED, CONSTRAINED, TFIDF)]
        others = ", ".join(f"{name} {value}" for name, value in one["changes"].items() if name not in _CHOSEN)
        lines.append(
            f"| {one['recipe']}{f', {others}' if others else ''} | {one['learned_rows']:,} | {' | '.join(told)} "
            f"| {minutes:.1f} | {'–' if loss is None else f'{loss:.4f}'} | {' | '.join(exact)} |"
        )
    return "\n".join(lines)


def _arithmetic(one: Result) -> str:
    return "8 bit" if "8-bit" in one["training"]["why"] else "exact"


def _speed(training: Mapping[str, Any]) -> float:
    return float(training["trained_tokens"] / max(1e-9, training["seconds"] - training.get("validation_seconds", 0.0)))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
