"""No process outlives the one that asked for its work."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(by: signal.Signals) -> None:
    """This process gets the signal `by` when the thread that started it ends, whatever ended it.

    On other systems than Linux it finds out when it next writes to its pipe.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:
            os.kill(os.getpid(), by)
