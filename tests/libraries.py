"""Imports what our programs import, for the process that `tests.forked` forks them from.

Nothing here reads an environment variable that a test sets for a program, and nothing starts threads.
"""

import importlib
import os
import sys

from gpu_worker.trainer.__main__ import ENVIRONMENT

os.environ.update(ENVIRONMENT)  # as the programs do before they import these
del sys.modules["gpu_worker.trainer.__main__"]  # it is a program, and will be run

for _name in (
    "torch", "transformers.models.llama.modeling_llama", "transformers.generation.utils", "peft", "safetensors.torch",
    "sklearn.linear_model", "sklearn.feature_extraction.text", "llguidance", "uvicorn", "starlette.applications",
    "django.core.management", "django.db.backends.postgresql.base", "httpx", "pyarrow.parquet", "pyarrow.compute",
    "pydantic", "yaml", "tokenizers", "jinja2",
):  # fmt: skip
    importlib.import_module(_name)
