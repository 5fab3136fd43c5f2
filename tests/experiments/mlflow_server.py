"""A tracking server on this machine that keeps what MLflow's REST API is told, with that server's limits."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

MISSING = (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No such thing."})


class Refused(Exception):
    """What the server answers instead of doing what it was asked."""

    def __init__(self, status: int, message: str, code: str = "INVALID_PARAMETER_VALUE") -> None:
        super().__init__(message)
        self.answer = (status, {"error_code": code, "message": message})


class MlflowServer:
    """`failing`: an answer that everything gets. `key`: the Authorization that is wanted."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.failing: tuple[int, dict[str, Any]] | None = None
        self.key = ""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply({})

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body: dict[str, Any]) -> None:
                status, content = server.answer(self.path, body, self.headers.get("Authorization", ""))
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> MlflowServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, target: str, body: Mapping[str, Any], key: str) -> tuple[int, dict[str, Any]]:
        """Do what is asked and return status and content."""
        parts = urlsplit(target)
        method = parts.path.removeprefix("/api/2.0/mlflow/")
        self.asked.append(method)
        if self.failing:
            return self.failing
        if key != self.key:
            return 401, {}
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()} | dict(body)
        try:
            return getattr(self, "_" + method.replace("/", "_").replace("-", "_"))(asked)
        except Refused as refused:
            return refused.answer
        except KeyError:
            return MISSING

    def _experiments_get_by_name(self, asked: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        known = self.experiments[asked["experiment_name"]]
        return 200, {"experiment": {"experiment_id": known, "name": asked["experiment_name"]}}

    def _experiments_create(self, asked: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        if asked["name"] in self.experiments:
            raise Refused(400, "It exists already.", "RESOURCE_ALREADY_EXISTS")
        self.experiments[asked["name"]] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[asked["name"]]}

    def _runs_search(self, asked: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        name, wanted = asked["filter"].removeprefix("tags.").split(" = ")
        found = [
            {"info": {"run_id": key}}
            for key, run in self.runs.items()
            if run["experiment"] in asked["experiment_ids"] and run["tags"].get(name.strip("`")) == wanted.strip("'")
        ]
        return 200, {"runs": found[: asked["max_results"]]} if found else {}

    def _runs_create(self, asked: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        if asked["experiment_id"] not in self.experiments.values():
            raise KeyError
        key = f"{len(self.runs):032x}"
        tags = {one["key"]: one["value"] for one in asked["tags"]}
        self.runs[key] = {
            "experiment": asked["experiment_id"], "name": asked["run_name"], "tags": tags, "params": {}, "metrics": {},
            "status": "RUNNING", "start_time": asked["start_time"],
        }  # fmt: skip
        return 200, {"run": {"info": {"run_id": key}}}

    def _runs_log_batch(self, asked: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        run = self.runs[asked["run_id"]]
        metrics, params = asked.get("metrics", []), asked.get("params", [])
        if len(metrics) > 1000 or len(params) > 100 or len(metrics) + len(params) > 1000:
            raise Refused(400, "Too many at a time.")
        for one in params:
            if (
                not one["value"]
                or len(one["value"]) > 6000
                or run["params"].get(one["key"], one["value"]) != one["value"]
            ):
                raise Refused(400, f"The parameter {one['key']} cannot be changed or is empty.")
            run["params"][one["key"]] = one["value"]
        for one in metrics:
            if not isinstance(one["value"], int | float) or one["timestamp"] < 10**12:
                raise Refused(400, f"The metric {one['key']} is no number with a time.")
            run["metrics"].setdefault(one["key"], {})[one["step"]] = one["value"]
        return 200, {}

    def _runs_update(self, asked: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        self.runs[asked["run_id"]] |= {"status": asked["status"], "end_time": asked["end_time"]}
        return 200, {"run_info": {"run_id": asked["run_id"]}}
