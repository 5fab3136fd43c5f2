"""Counts and times in Prometheus' text format. Labels are model names and routes, never anything a user typed."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from gpu_worker.engine.core import EngineStats

SECONDS = (0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)


@dataclass
class Histogram:
    """How many observations stayed within each bound, in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.total += seconds
        bucket = next((index for index, bound in enumerate(SECONDS) if seconds <= bound), len(SECONDS))
        self.counts[bucket] += 1

    def lines(self, name: str) -> Iterator[str]:
        """Yield the histogram's lines."""
        yield f"# TYPE {name} histogram"
        cumulative = 0
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self.counts, strict=True):
            cumulative += count
            yield f'{name}_bucket{{le="{bound}"}} {cumulative}'
        yield f"{name}_sum {self.total:.6f}"
        yield f"{name}_count {cumulative}"


@dataclass
class HttpMetrics:
    """What the server counts by itself; everything else comes from the engine's statistics."""

    responses: Counter[tuple[str, int]] = field(default_factory=Counter)
    first_token: Histogram = field(default_factory=Histogram)
    duration: Histogram = field(default_factory=Histogram)

    def observe(self, begun: float, first_output: float | None) -> None:
        """Count a generation that ends now; both times are readings of the monotonic clock."""
        self.duration.observe(time.monotonic() - begun)
        if first_output is not None:
            self.first_token.observe(first_output - begun)


def render_metrics(http: HttpMetrics, stats: EngineStats) -> str:
    """Return the text of /metrics."""
    lines = ["# TYPE engine_http_responses_total counter"]
    for (route, status), count in sorted(http.responses.items()):
        lines.append(f'engine_http_responses_total{{route="{route}",status="{status}"}} {count}')
    lines.append("# TYPE engine_sequences_finished_total counter")
    for reason, count in sorted(stats.finished.items()):
        lines.append(f'engine_sequences_finished_total{{reason="{reason}"}} {count}')
    lines += ["# TYPE engine_self_check gauge", f'engine_self_check{{result="{stats.self_check}"}} 1']
    for name, kind, value in _figures(stats):
        lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
    lines += http.first_token.lines("engine_time_to_first_token_seconds")
    lines += http.duration.lines("engine_request_seconds")
    return "\n".join(lines) + "\n"


def _figures(stats: EngineStats) -> list[tuple[str, str, float]]:
    return [
        ("engine_steps_total", "counter", stats.steps),
        ("engine_prompt_tokens_total", "counter", stats.prompt_tokens),
        ("engine_prompt_tokens_cached_total", "counter", stats.cached_tokens),
        ("engine_generated_tokens_total", "counter", stats.generated_tokens),
        ("engine_sequences_running", "gauge", stats.running),
        ("engine_sequences_waiting", "gauge", stats.waiting),
        ("engine_cache_used_share", "gauge", round(stats.cache_used_share, 4)),
        ("engine_cache_prefix_blocks", "gauge", stats.cached_blocks),
        ("engine_adapters_loaded", "gauge", stats.adapters),
        ("engine_adapters_parked", "gauge", stats.parked_adapters),
        ("engine_adapter_evictions_total", "counter", stats.evictions),
    ]
