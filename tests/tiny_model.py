"""The model of most tests: made on the spot, in a tenth of a second."""

from gpu_worker.benchmarks.tiny_model import make_tiny_model

__all__ = ["make_tiny_model"]
