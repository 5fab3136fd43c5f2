"""How the C libraries under torch wait, allocate and remember in children that compute: read from the environment."""

# Threads that wait for each other soon sleep: on a machine that does other things too, spinning for long made a step
# take five times as long, since the one waited for could not get a core. A tenth of a millisecond covers most waits,
# though, and waking up takes as long. Read when OpenMP is loaded.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
# Tensors lie in pages of 2 MB where the kernel has them: each step asks for hundreds of megabytes, and fetching those
# in pages of 4 kB takes time. Not for engines, whose weights lie in such pages anyway: they would keep a third more
# memory. Read when a process starts, so only its parent can say it.
ALLOCATING = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# An engine's steps have many different sizes. Kernels for all of them, and the descriptions of those kernels, of which
# each takes 0.8 MB, are memory that is hardly ever used again: a thousand are kept where nothing else is said.
# Read at the first product.
REMEMBERING = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "24", "LRU_CACHE_CAPACITY": "64"}
