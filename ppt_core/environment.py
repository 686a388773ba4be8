"""Environment variables that make torch, Numba and MKL run well together; to be set before they are imported."""

ENVIRONMENT = {
    # Torch and Numba each have a pool of OpenMP threads. Left alone, an idle thread spins for long and takes the core
    # from the other pool: stalls of 8 ms were seen. Asleep at once, it takes some 50 us to wake, in each of the fifty
    # parallel regions of a training step: 18 ms a step instead of 13. So it spins for a moment, then sleeps.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "20000",
    # MKL's sums must not depend on the number of threads.
    "MKL_CBWR": "AUTO,STRICT",
    # Rows of a large table lie on pages of 2 MB, not 4 kB: random reads take 10% less.
    "THP_MEM_ALLOC_ENABLE": "1",
}
