"""Child processes that start at once and share their memory: forked from a server that has imported what they need.

Importing torch takes two seconds and 300 MB of each process that does it. The server is Python's own, see
`multiprocessing.forkserver`: a process without threads and without a GPU, which ends with those that use it. Where
there can be none, processes are spawned.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from calib_bench.system import shutdown

PRELOADED = (
    "calib_bench.commands.run_study",
    "calib_bench.tracking.logging_process",
    "calib_bench.studies.separation.study",
    "torch.fx.experimental.symbolic_shapes",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
)
"""What the server imports, by name: these modules stand above this one."""
SIGNALS = (*shutdown.SIGNALS, *shutdown.WARNINGS)
_main_lock = threading.Lock()
_started = threading.Event()


def start() -> bool:
    """Start the server unless it runs; it imports while this process goes on. Returns whether there can be one."""
    if sys.platform != "linux":  # macOS aborts processes that are forked after some of its libraries are loaded
        return False
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    # Batch systems and terminals signal every process: the server heeds none, and its children when they are ready.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with apart_from_main():
            forkserver.ensure_running()
        _started.set()
    except OSError:  # no memory, or a temporary folder whose name is too long for a socket
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return True


def runs() -> bool:
    """Whether this process has started the server."""
    return _started.is_set()


def context() -> ForkServerContext | SpawnContext:
    """The context of `multiprocessing` whose processes and queues are used: of the server, or else of spawning."""
    return multiprocessing.get_context("forkserver") if start() else multiprocessing.get_context("spawn")


@contextmanager
def apart_from_main() -> Iterator[None]:
    """Keep processes that are started within the block from running the main script again.

    Python would have each process import the script that the user started. Workers here need nothing of it, and a
    script without `if __name__ == "__main__":` would start the whole job once more in each.
    """
    main = sys.modules["__main__"]
    with _main_lock:
        spec, script = getattr(main, "__spec__", None), vars(main).pop("__file__", None)
        main.__spec__ = None
        try:
            yield
        finally:
            main.__spec__ = spec
            if script is not None:
                main.__file__ = script


# in the child


def call(module: str, *arguments: Any) -> None:
    """Call `main` of a module, which this child process alone imports."""
    importlib.import_module(module).main(*arguments)


def settle(environ: Mapping[str, str]) -> None:
    """Set up this child process: it takes over the environment of the process that asked for it."""
    gc.freeze()  # what the server imported is never collected, and stays shared
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None  # asked for again


def heed() -> None:
    """Take signals, those too that came before this process was ready for them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def end_with_parent() -> None:
    """End this process when the one that asked for it has ended, or the server that would tell of its end."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(starter: int) -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive() and os.getppid() == starter:
        parent.join(1.0)
    os._exit(1)
