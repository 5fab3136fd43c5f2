"""What engines say about themselves, relayed for monitoring with the node and the base model of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from deployments import engine_client
from deployments.engine_client import EngineTarget
from deployments.models import Engine
from portal.prometheus import gauge, labelled
from portal.rls import all_teams

MOST_LINES: Final = 5_000  # of one engine
AT_A_TIME: Final = 16
_TYPE = re.compile(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary|untyped)")
_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{(?P<labels>(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\.)*",?)*)\})?'
    r" (?P<value>[+-]?(?:Inf|NaN|[0-9.]+(?:[eE][+-]?[0-9]+)?))(?: -?[0-9]+)?"
)
_ENDINGS = ("_bucket", "_sum", "_count", "_total", "_created")


@dataclass
class _Family:
    kind: str
    lines: list[str] = field(default_factory=list)


def engine_lines() -> Iterable[str]:
    """Return the lines of all engines, those of one name together. Waits for engines, a few seconds at most."""
    with all_teams("engines belong to nobody"):
        engines = list(Engine.objects.select_related("node", "base_model").order_by("node__name", "base_model__slug"))
    labels = [{"node": engine.node.name, "base_model": engine.base_model.slug} for engine in engines]
    targets = [EngineTarget(one.url, one.access_key) if _is_ready(one) else None for one in engines]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        texts = list(pool.map(lambda target: engine_client.metrics_of(target) if target else None, targets))
    answered = {
        (one["node"], one["base_model"]): int(text is not None) for one, text in zip(labels, texts, strict=True)
    }
    up = gauge("tuneport_engine_up", "Whether the engine told its figures.", answered, ["node", "base_model"])
    families: dict[str, _Family] = {}
    for own, text in zip(labels, texts, strict=True):
        if text is not None:
            _collect(text, own, families)
    return [*up.lines(), *_lines(families)]


def _is_ready(engine: Engine) -> bool:
    return engine.status == Engine.Status.READY and bool(engine.url)


def _lines(families: Mapping[str, _Family]) -> Iterator[str]:
    for name, family in sorted(families.items()):
        yield f"# TYPE {name} {family.kind}"
        yield from family.lines


def _collect(text: str, own: Mapping[str, str], families: dict[str, _Family]) -> None:
    """Add an engine's samples to their families, with the labels that tell whose they are."""
    kinds: dict[str, str] = {}
    front = labelled(own)[1:-1]
    for line in text.splitlines()[:MOST_LINES]:
        if told := _TYPE.fullmatch(line):
            kinds[told[1]] = told[2]
            continue
        found = _SAMPLE.fullmatch(line)
        if not found:
            continue  # help, blank, or nothing that Prometheus could read
        name = _family_of(found["name"], kinds)
        family = families.setdefault(name, _Family(kinds.get(name, "untyped")))
        rest = (found["labels"] or "").rstrip(",")
        if family.kind == kinds.get(name, "untyped") and not re.search(r"(?:^|,)(?:node|base_model)=", rest):
            family.lines.append(f"{found['name']}{{{front}{',' if rest else ''}{rest}}} {found['value']}")


def _family_of(name: str, kinds: Mapping[str, str]) -> str:
    """Return the name under which a sample's kind was told: a bucket belongs to its histogram."""
    if name in kinds:
        return name
    return next((short for end in _ENDINGS if (short := name.removesuffix(end)) in kinds), name)
