"""How the C libraries under torch wait and allocate in children that compute: both are read from the environment."""

# Threads that wait for each other soon sleep: on a machine that does other things too, spinning for long made a step
# take five times as long, since the one waited for could not get a core. A tenth of a millisecond covers most waits,
# though, and waking up takes as long. Read when OpenMP is loaded.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
# Tensors lie in pages of 2 MB where the kernel has them: each step asks for hundreds of megabytes, and fetching those
# in pages of 4 kB takes time. Not for engines, whose weights lie in such pages anyway: they would keep a third more
# memory. Read when a process starts, so only its parent can say it.
ALLOCATING = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
