"""What the machine does to us, however it is spelled: a disk that takes no more, and memory that is used up."""

from __future__ import annotations

import errno
import re

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNWRITABLE = FULL | {errno.EROFS, errno.EIO}
# NumPy drops the error number of a short write, safetensors and tokenizers put it into words, torch does neither.
_FULL_IN_WORDS = re.compile(
    r"^\d+ requested and \d+ written$|os error (28|27|122)\b|No space left on device|inline_container\.cc.*unexpected pos"
)
_MEMORY_IN_WORDS = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED|Cannot allocate memory"
)


def disk_full(error: BaseException) -> bool:
    """Whether there is no room for what was being written."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return isinstance(error, Exception) and bool(_FULL_IN_WORDS.search(str(error)))


def disk_failed(error: BaseException) -> bool:
    """Whether nothing can be written, for whatever reason."""
    return disk_full(error) or (isinstance(error, OSError) and error.errno in _UNWRITABLE)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the processor's or the accelerator's."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch says it with a RuntimeError, of a class of its own for an accelerator.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(_MEMORY_IN_WORDS.search(str(error)))
    )
