"""The OpenAPI document against the running application: schemathesis makes requests of it and reads the answers by it.

What each address finds is there: the document is narrowed to the keys of one of everything. `SCHEMATHESIS_EXAMPLES`
says how many requests an address gets of each kind; a long run is `SCHEMATHESIS_EXAMPLES=100 pytest <this file>`.
"""

from __future__ import annotations

import copy
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from django.core import signals
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.config import SchemathesisConfig

from deployments.models import Engine
from portal.models import Node
from tests.deployments.fake_engine import FakeEngine
from tests.portal.test_route_matrix import API, address
from tests.stage import *  # noqa: F403
from tests.world import World

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "2"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
METHODS = ("get", "post", "put", "patch", "delete")
Document = dict[str, Any]


@pytest.fixture(scope="module")
def written() -> Document:
    """The document, written once."""
    return SchemaGenerator().get_schema(request=None, public=True)


@pytest.fixture
def engine(world: World, node: Node) -> Iterator[FakeEngine]:
    """An engine that answers as the tiny base model."""
    engine = FakeEngine().start()
    Engine.objects.create(
        node=node, base_model=world.run.base_model, status="ready", url=engine.url,
        access_key=engine.key,
    )  # fmt: skip
    yield engine
    engine.shutdown()
    engine.server_close()


@pytest.fixture
def in_this_transaction() -> Iterator[None]:
    """The end of a request must not close the test's own connection."""
    both = (signals.request_started, signals.request_finished)
    for signal in both:
        signal.disconnect(close_old_connections)
    yield
    for signal in both:
        signal.connect(close_old_connections)


def narrowed(document: Document, world: World) -> Document:
    """Return the document with keys that lead somewhere, so that more is seen than how it says 404."""
    found = copy.deepcopy(document)
    patterns = {path: _pattern(path) for path in sorted(found["paths"], key=lambda path: path.count("{"))}
    known: dict[str, dict[str, str]] = {}
    for name in API:  # an address belongs to the path with the least gaps: rows/search/ is no row
        matches = ((path, pattern.match(address(name, world))) for path, pattern in patterns.items())
        path, match = next(((path, match) for path, match in matches if match), ("", None))
        known[path] = match.groupdict() if match else {}
    for path, operations in found["paths"].items():
        keys = known.get(path, {})
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] in keys:
                    parameter["schema"] = {"type": "string", "enum": [keys[parameter["name"]]]}
    shapes = found["components"]["schemas"]
    for name, keys in _known_keys(world).items():
        for key, values in keys.items():
            shapes[name]["properties"][key] = {"type": "string", "enum": [*values, "nobody-has-this"]}
    return found


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)) + r"\Z")


def _known_keys(world: World) -> dict[str, dict[str, list[str]]]:
    return {
        "ChatRequest": {"model": ["tiny"]},
        "CompletionRequest": {"model": ["tiny"]},
        "DecisionRequest": {"model": ["tiny"]},
        "FineTuningRequest": {"model": ["tiny"], "training_file": [world.file.public_id]},
        "BatchRequest": {"input_file_id": [world.file.public_id]},
    }


@dataclass
class Seen:
    """What schemathesis saw: what is wrong, and the kinds of status (2 for 2xx) of each address."""

    faults: list[str] = field(default_factory=list)
    kinds: dict[str, Counter[int]] = field(default_factory=dict)
    asked: str = ""  # the last request, which is the one with the fault once there is one


def look(document: Document, token: str, *, under: str, methods: tuple[str, ...], mode: GenerationMode) -> Seen:
    """Return what schemathesis sees in the answers of all addresses below a path."""
    refusals = {"expected-statuses": ["400", "401", "403", "404", "405", "409", "413", "415", "422", "429", "503"]}
    config = SchemathesisConfig.from_dict(
        {
            "generation": {"allow-x00": True, "database": "none"},
            "checks": {"negative_data_rejection": refusals},  # 413: texts that are too long make bodies that are
        }
    )
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.app = get_wsgi_application()
    checks = [*CHECKS, negative_data_rejection] if mode == GenerationMode.NEGATIVE else CHECKS
    seen = Seen()
    for result in schema.get_all_operations():
        operation = result.ok()
        if not operation.path.startswith(under) or operation.method not in methods:
            continue
        try:
            seen.kinds[operation.label] = Counter()
            ask(operation, mode, checks, token, seen)
        except BaseExceptionGroup as group:
            seen.faults += [f"{operation.label}: {one}\n{seen.asked}" for one in group.exceptions]
        except Exception as error:
            seen.faults.append(f"{operation.label}: {type(error).__name__}: {error}\n{seen.asked}")
    return seen


def ask(operation: Any, mode: GenerationMode, checks: list[Any], token: str, seen: Seen) -> None:
    """Ask one address a few times, and take back what each request has done."""

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        assume([] not in (case.query or {}).values())  # an empty list is not sent, so nobody can refuse it
        with transaction.atomic():
            response = case.call(headers={"Authorization": f"Bearer {token}"})
            seen.kinds[operation.label][response.status_code // 100] += 1
            seen.asked = f"{case.method} {response.request.url} {response.status_code} {str(case.body)[:500]}"
            case.validate_response(response, checks=checks)
            transaction.set_rollback(True)

    one()


@pytest.mark.slow
@pytest.mark.django_db
def test_every_address_of_the_api_is_described(written, world):
    """Except for uploads in parts, which speak a protocol of their own (tus)."""
    patterns = [_pattern(path) for path in written["paths"]]
    for name in API:
        if name not in ("datasets-api:uploads", "datasets-api:upload"):
            assert any(pattern.match(address(name, world)) for pattern in patterns), name
    for path, operations in written["paths"].items():
        for method, operation in operations.items():
            assert operation["security"] == [{"apiToken": []}], (path, method)
            assert {"4XX", "5XX"} <= set(operation["responses"]), (path, method)


@pytest.mark.slow
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("under", "methods", "mode"),
    [
        ("/v1/", METHODS, GenerationMode.POSITIVE),
        ("/v1/", METHODS, GenerationMode.NEGATIVE),
        ("/api/", ("get",), GenerationMode.POSITIVE),
        ("/api/", METHODS[1:], GenerationMode.POSITIVE),
        ("/api/", METHODS[1:], GenerationMode.NEGATIVE),
    ],
)
def test_answers_are_as_the_document_says(written, world, token, engine, in_this_transaction, under, methods, mode):
    document = narrowed(written, world)
    seen = look(document, token, under=under, methods=methods, mode=mode)
    assert not seen.faults, "\n\n".join(seen.faults)
    if "get" in methods and mode == GenerationMode.POSITIVE:
        answered = [label for label, kinds in seen.kinds.items() if kinds[2]]
        assert len(answered) > len(seen.kinds) / 2, "most addresses were only seen saying no"
