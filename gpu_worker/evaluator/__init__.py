"""Answers held-out rows with the untuned and the tuned model: `python -m gpu_worker.evaluator JOB_DIR`. No Django."""
