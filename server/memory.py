"""Give memory that was freed back to the system."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
# The highest values to which glibc raises them by itself, on 64 bits, as a program frees larger and larger blocks. Once
# one of them was set it no longer does, so they are set to where a server that runs for long arrives anyway.
_TRIM, _MMAP = 64 << 20, 32 << 20
_BLOCK = 1 << 17  # above FASTBIN_CONSOLIDATION_THRESHOLD: to free so much makes glibc look at the top of the heap


def release_memory() -> None:
    """Return what the C library keeps for later use; does nothing where the library is not glibc.

    Weights are freed to the heap of the thread that allocated them. glibc keeps up to 64 MiB at the top of each, and
    everything below what is still in use; without this a process stays as large as the largest set of models that it
    ever held. Call it on the thread that allocated, because only the top of its own heap can be given back. Takes
    milliseconds.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return
    library.malloc.restype = ctypes.c_void_p
    library.mallopt(_M_TRIM_THRESHOLD, 0)
    library.free(ctypes.c_void_p(library.malloc(ctypes.c_size_t(_BLOCK))))  # the top
    library.malloc_trim(ctypes.c_size_t(0))  # and what lies below
    library.mallopt(_M_TRIM_THRESHOLD, _TRIM)
    library.mallopt(_M_MMAP_THRESHOLD, _MMAP)
