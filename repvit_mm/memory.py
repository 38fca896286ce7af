"""Reuse of freed memory in processes that compute on a CPU."""
import ctypes
import os
import platform

#: Of glibc's ``malloc.h``.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Environment variables of glibc, and names in its GLIBC_TUNABLES, with which a user chooses it.
_VARIABLES = ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'MALLOC_MMAP_MAX_')
_TUNABLES = ('glibc.malloc.trim_threshold', 'glibc.malloc.mmap_threshold', 'glibc.malloc.mmap_max')


def keep_freed_memory() -> bool:
    """Let this process, and processes forked from it, keep the memory that it frees until it ends.

    By default glibc returns feature maps to the system when they are freed, and the next ones are mapped page by page,
    while the convolutions wait: tens of thousands of times in a training step. The peak of the memory stays the same.

    Returns:
        Whether it was enabled. Only glibc can, and its own environment variables take precedence.
    """
    tunables = os.environ.get('GLIBC_TUNABLES', '')
    if (platform.libc_ver()[0] != 'glibc' or any(name in os.environ for name in _VARIABLES)
            or any(name in tunables for name in _TUNABLES)):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Blocks from this size on have a mapping of their own; glibc before 2.35 refuses more than 32 MB.
    is_set = any(mallopt(_MMAP_THRESHOLD, size) for size in (2 ** 30, 2 ** 25))
    return bool(mallopt(_TRIM_THRESHOLD, 2 ** 31 - 1)) and is_set
