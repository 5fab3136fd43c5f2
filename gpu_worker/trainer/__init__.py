"""Teaches a base model a table of examples: a job folder in, events and a LoRA adapter out.

Runs as a process of its own, `python -m gpu_worker.trainer JOB_DIR`, and knows neither Django nor the portal. It reads
`spec.json` and `data/*.jsonl`, writes JSON lines to standard output and checkpoints and the adapter into the folder.

    job.py          the run from beginning to end             loop.py         steps, checks, stops
    spec.py         what was ordered                          plan.py         which rows in which step, learning rate
    rows.py         rows as token ids                         learner.py      what a way of learning must offer
    general.py      any model: transformers + peft            fast/           llama-shaped models on CPU, by hand
    parameters.py   the adapter's tensors and their optimizer checkpoints.py  saved state, verified at resume
    events.py errors.py limits.py storage.py                  small things all of the above need
"""
