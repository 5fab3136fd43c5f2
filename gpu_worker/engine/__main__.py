"""`python -m gpu_worker.engine --base-model DIR --name SLUG --port 0 --ready-file PATH`: serve until SIGTERM.

The bearer key that every route but /health demands is read from ENGINE_API_KEY.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from gpu_worker.computing import REMEMBERING, WAITING

# Read by libraries at import: nothing is ever fetched.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    **WAITING,
    **REMEMBERING,
}


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's values."""
    parser = argparse.ArgumentParser(prog="python -m gpu_worker.engine", description="Serve a base model and adapters.")
    parser.add_argument("--base-model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--name", required=True, help="model name under which the bare base model is called")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port, written to the ready file")
    parser.add_argument("--ready-file", type=Path, help="written when requests are served: pid, port, host")
    parser.add_argument("--state-dir", type=Path, help="where the self-check keeps its reference (default: beside it)")
    parser.add_argument("--runner", choices=("auto", "decoder", "transformers"), default="auto")
    parser.add_argument("--skip-self-check", action="store_true", help="do not compare with transformers at start-up")
    parser.add_argument("--weights", choices=("fp32", "bf16", "int8"), help="arithmetic of the base model")
    parser.add_argument("--max-running", type=int)
    parser.add_argument("--max-waiting", type=int)
    parser.add_argument("--max-context", type=int)
    parser.add_argument("--kv-cache-mb", type=int)
    parser.add_argument("--lora-rank-budget", type=int)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Serve; return the exit code."""
    options = parse_arguments(arguments)
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    api_key = os.environ.pop("ENGINE_API_KEY", "")
    if not api_key:
        sys.stderr.write("ENGINE_API_KEY is not set: the engine serves no one without a key.\n")
        return 2
    from gpu_worker.engine.serve import serve
    from gpu_worker.trainer.limits import die_with_parent

    die_with_parent()
    return serve(options, api_key=api_key)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
