"""`python -m tests.benchmarks.scaling [--out reports/scaling]`: what the full studies would take, as a page."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from calib_bench import discover, scale
from calib_bench.files import write_bytes
from calib_bench.resolve import resolve
from calib_bench.scale import Scale, number, size
from calib_bench.settings import parse
from calib_bench.store import Store

STUDIES = {
    "CIFAR-10": ("task=cifar10", "model=wrn_16_4,wrn_16_4_nonorm,wrn_28_10", "precision=bf16"),
    "IMDB": ("task=imdb", "model=gru_64,lstm_64"),
    "ImageNet": ("task=imagenet", "precision=bf16"),
}
"""The full studies: the tasks' own grids, five seeds (ImageNet three), every objective that the task names."""


def estimate(words: tuple[str, ...]) -> Scale:
    settings = resolve(parse(words))
    found = scale.estimate(settings, discover.study(settings.study), Store(Path("nothing/there"), "peek"))
    assert found is not None
    return found


def page(command: str) -> str:
    rows = []
    for name, words in STUDIES.items():
        found = estimate(words)
        low, high = found.gpu_hours / scale.SPREAD, found.gpu_hours * scale.SPREAD
        rows.append(
            f"| {name}, `{' '.join(words)}` | {found.trials:,} | {found.flops:.1e} | {number(found.gpu_hours)} "
            f"({number(low)}–{number(high)}) | {number(found.hours)} | {size(found.stored)} | "
            f"{size(found.checkpoints)} | {found.wandb_rows:,} |"
        )
    return PAGE.format(
        command=command, device=scale.DEVICE, rows="\n".join(rows), record=scale.RECORD_BYTES, row=scale.ROW_BYTES,
        history=scale.HISTORY_BYTES, states=scale.STATES, peak=scale.PEAK["bf16"] / 1e12, share=scale.UTILISATION,
        spread=scale.SPREAD, step=1000 * scale.STEP_SECONDS, start=scale.START_SECONDS,
    )  # fmt: skip


PAGE = """\
# What the full studies would take

Made by `{command}`; `python -m calib_bench plan task=imagenet gpus=64 price=P` prints the same of any study. **No
GPU was measured for this page**: hours follow from counted operations and the assumptions below.

| study | trials | operations | GPU hours on one {device} | hours on 64 | stored | checkpoints | W&B rows |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

The cost is the GPU hours times what an hour costs you: `price=P` multiplies.

**Counted.** Trials: the planner's own, were every best rate in the middle of its grid; a grid that must grow adds
up to `extend` rates a side. Operations: forward and backward, layer by layer, every example of every epoch, with
the passes over the selection split. Stored bytes: 4 a logit of the selection, calibration and test splits, and
what `trial.json` ({record:,}) and `history.parquet` ({history:,} and {row} a row) took of trials on digits.
Checkpoints: {states} copies of the weights for each of 64 trials at once; they are removed as trials end.

**Assumed.** The {device} does {peak:.0f}e12 dense bf16 operations a second, as its maker states, and training
reaches {share:.0%} of that; the range in brackets is {spread:g} times fewer or more hours. An update takes at
least {step:g} ms, since a small model's kernels are launched one by one: this is what binds for the recurrent nets
and most of CIFAR-10, and compiled steps (`compile=yes`) lower it. A trial takes {start:g} s to start. On 64 GPUs a
trial is whole on one of them, the longest first, and tuning ends before the other seeds begin.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"), help="folder of README.md")
    args = parser.parse_args()
    command = shlex.join(["python", "-m", "tests.benchmarks.scaling", *sys.argv[1:]])
    write_bytes(args.out / "README.md", page(command).encode())
    print(f"written: {args.out / 'README.md'}")


if __name__ == "__main__":
    main()
