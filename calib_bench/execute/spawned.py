"""Worker processes that leave the caller's own script alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_LOCK = Lock()


@contextmanager
def apart_from_main() -> Iterator[None]:
    """Processes that are spawned in here do not run the main script again.

    Python would have each import the script that the user started, so as to find what is defined there. Workers here
    need nothing of it, and a script without `if __name__ == "__main__":` would start the whole job once more in each.
    """
    main = sys.modules["__main__"]
    with _LOCK:
        spec, script = getattr(main, "__spec__", None), vars(main).pop("__file__", None)
        main.__spec__ = None
        try:
            yield
        finally:
            main.__spec__ = spec
            if script is not None:
                main.__file__ = script
