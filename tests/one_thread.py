"""Pytest plugin: mathematics in one thread, because all processors work on tests already.

Threads of several test processes that share the processors wait for each other most of the time, and torch's wait by
spinning: tests of training took five times as long. Read when torch and numpy are imported, and inherited by children.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
