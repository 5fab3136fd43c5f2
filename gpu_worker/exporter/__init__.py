"""Turns an adapter and its base model into one model that needs neither: safetensors or GGUF. Pure: numpy, no torch.

`python -m gpu_worker.exporter JOB_DIR` reads JOB_DIR/export.json, writes JSON lines with the progress, and leaves one
file. Tensors pass through one at a time, so that memory holds the largest of them, not the model.
"""
