"""Give memory that was freed back to the system."""

import ctypes


def release_memory() -> None:
    """Return what the C library keeps for later; does nothing where it has no `malloc_trim` (that is glibc's).

    Weights are freed to the library's heap, of which much lies below what is still in use, so that without this a
    process stays as large as the largest set of models that it ever held. Takes milliseconds; call it on a thread.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc, or no way to ask
        return
    trim(ctypes.c_size_t(0))
