"""`upgrade`: pack a run folder's trials into archives, as those of a stack are stored from the start."""

from __future__ import annotations

from argparse import Namespace

from calib_bench.commands.command import RUN, Command
from calib_bench.errors import StoreError, counted


def _call(arguments: Namespace) -> int:
    """Pack the run folder and say what was done.

    Raises:
        StoreError: the folder is no run folder, or holds trials that are not whole.
        DiskFull: an archive cannot be written.
    """
    from calib_bench.store.store import Store

    store = Store(arguments.run, "read")
    packed, broken = store.upgrade()
    print(f"{counted(packed, 'trial')} put into archives, in {store.label}/trials")
    if broken:
        raise StoreError("\n".join([f"{counted(len(broken), 'trial')} not whole, left in place:", *broken]))
    return 0


COMMAND = Command(
    "upgrade",
    """\
Packs the trials of a run folder into archives of up to 128: the folder of an older version, with three files a trial,
becomes one with a few files. No number changes. It may be repeated, and stopped at any time; earlier versions of
calib_bench cannot read the folder afterwards.""",
    (RUN,),
    ("upgrade runs/digits-separation", "upgrade out/cifar10-separation", "upgrade s3://bucket/runs/digits-separation"),
    _call,
)
