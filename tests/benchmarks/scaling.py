"""`python -m tests.benchmarks.scaling [--out reports/scaling]`: what the full studies would take, as a page."""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from calib_bench import registry
from calib_bench.core.settings import parse
from calib_bench.models import flops
from calib_bench.planning import cluster_estimate as scale
from calib_bench.planning import tuning
from calib_bench.planning.cluster_estimate import Scale, number, size
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store
from calib_bench.system.files import write_bytes

STUDIES = {
    "CIFAR-10": ("task=cifar10", "model=wrn_16_4,wrn_16_4_nonorm,wrn_28_10", "precision=bf16"),
    "IMDB": ("task=imdb", "model=gru_64,lstm_64"),
    "ImageNet": ("task=imagenet", "precision=bf16"),
}
"""The full studies: the tasks' own grids, five seeds (ImageNet three), every objective that the task names."""


def estimate(words: tuple[str, ...]) -> Scale:
    settings = resolve(parse(words))
    found = scale.estimate(settings, registry.study(settings.study), Store(Path("nothing/there"), "peek"))
    assert found is not None
    return found


def page(command: str, price: float, simulated: str) -> str:
    rows = []
    for name, words in STUDIES.items():
        found = estimate(words)
        low, high = found.gpu_hours / scale.SPREAD, found.gpu_hours * scale.SPREAD
        rows.append(
            f"| {name} | {found.trials:,} | {found.flops:.1e} | {number(found.gpu_hours)} "
            f"({number(low)} to {number(high)}) | {number(found.hours)} | {size(found.stored)} | "
            f"{size(found.checkpoints)} | {found.wandb_rows:,} | {found.gpu_hours * price:,.0f} "
            f"({low * price:,.0f} to {high * price:,.0f}) |"
        )
    words = "\n".join(f"- {name}: `{' '.join(given)}`" for name, given in STUDIES.items())
    return PAGE.format(
        command=command, device=scale.DEVICE, rows="\n".join(rows), words=words, record=scale.RECORD_BYTES,
        row=scale.ROW_BYTES, history=scale.HISTORY_BYTES, states=scale.STATES, half=scale.PEAK["bf16"] / 1e12,
        single=scale.PEAK["fp32"] / 1e12, share=scale.UTILISATION, spread=scale.SPREAD, step=1000 * scale.STEP_SECONDS,
        start=scale.START_SECONDS, price=price, models="\n".join(model_rows()), measured=measured(),
        simulated=simulated,
    )  # fmt: skip


def model_rows() -> Iterator[str]:
    """One row a model: what one of its trials is, and what its seconds on a GPU are made of."""
    for name, words in STUDIES.items():
        settings = resolve(parse(words))
        task = registry.task(settings.task)
        for template in {trial.model: trial for trial in tuning.templates(settings)}.values():
            forward, parameters = scale.model(template.model, task)
            steps = template.epochs * scale.per_epoch(template, task)
            compute = scale.flops(template, task) / (scale.PEAK[template.precision] * scale.UTILISATION)
            launches = steps * scale.STEP_SECONDS
            updates = f"{template.epochs} x {steps // template.epochs:,} of {template.batch}"
            yield (
                f"| {name} | {template.model} | {parameters:,} | {flops.TRAINING * forward:.2e} | "
                f"{template.precision} | {updates} | {compute:,.0f} s | {launches:,.0f} s | "
                f"{'operations' if compute > launches else 'updates'} |"
            )


def measured() -> str:
    """Bytes of records and histories of trials that are trained here and now, beside those that are computed with."""
    words = ["task=digits", "model=mlp_16", "beta=0.1,1", "lr_rel=0.25,0.5", "seed=0,1", "epochs=8", "extend=0"]
    words += ["interventions=no", "objective=cross_entropy", "calibrator=temperature_scaling", "wandb=disabled"]
    with tempfile.TemporaryDirectory(prefix="calib_bench-") as folder:
        command = [sys.executable, "-m", "calib_bench", "run", *words, f"out={folder}", "workers=1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = sorted(Path(folder).glob("*/trials/[!.]*/trial.json"))
        records = [path.stat().st_size for path in found]
        histories = [path.with_name("history.parquet") for path in found]
        bytes_, rows = [p.stat().st_size for p in histories], [len(pd.read_parquet(p)) for p in histories]
    expected = scale.HISTORY_BYTES + scale.ROW_BYTES * statistics.mean(rows)
    return (
        f"{len(found)} trials on digits, trained as this page was made: {statistics.mean(records):,.0f} bytes of "
        f"trial.json, {statistics.mean(bytes_):,.0f} of history.parquet with {statistics.mean(rows):g} rows, where "
        f"{scale.RECORD_BYTES:,} and {expected:,.0f} are computed with"
    )


SIMULATED = " What planning, storing and reporting 100,000 trials took is in [simulation.md](simulation.md)."

PAGE = """\
# What the full studies would take

Made by `{command}`; `python -m calib_bench plan task=imagenet gpus=64 price=P` prints the same of any study.
**No GPU was measured for this page**: hours and cost follow from counted operations and the assumptions below.

| study | trials | operations | GPU hours on one {device} | hours on 64, Ray | stored | checkpoints | W&B rows | cost |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

The studies are those that `python -m calib_bench run` starts with these words, and `executor=ray ray_address=auto` on a
cluster:
{words}

## Counted
Trials are the planner's own, were every best rate in the middle of its grid; a grid that must grow adds up to `extend`
rates a side. Operations are those of forward and backward passes, layer by layer, of every example of every epoch,
with the passes over the selection split; a multiply-add is two. Logits take 4 bytes each in the selection,
calibration and test splits. Checkpoints are {states} copies of the weights of each of 64 trials at once, and are
removed as trials end. W&B rows are those of every trial's history.

| study | model | parameters | operations an example | precision | updates | operations take | updates take | bound by |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{models}

Operations an example are of a forward and a backward pass. The last three columns are one trial on one {device}, by the
assumptions below; the longer of the two times counts.

## Measured
Sizes, on two processor cores without a GPU: {measured},
each row {row} bytes more than the {history:,} of an empty one.{simulated}

## Assumed
- The {device} does {half:.0f}e12 dense operations a second in bf16 and {single:.0f}e12 in fp32, as its maker states,
  and training reaches {share:.0%} of that.
- The range in brackets is {spread:g} times fewer or more hours: the share above is no better known than that.
- An update takes at least {step:g} ms, since a small model's kernels are launched one by one. Where this binds,
  compiled steps (`compile=yes`) and recorded CUDA graphs lower it, and so would several trials on one GPU
  (`ray_gpus=0.5`).
- A trial takes {start:g} s to start: imports, data, compilation.
- On 64 GPUs a trial is whole on one of them, the longest first, and tuning ends before the other seeds begin: the
  least that this can take is two trials one after the other, which is what ImageNet shows. `gang=8` trains one trial on
  several.
- An hour of one GPU costs {price:g}, in any currency: no offer was looked up. Other prices scale the last column.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"), help="folder of README.md")
    parser.add_argument("--price", type=float, default=3.0, help="of one GPU for an hour, in any currency")
    args = parser.parse_args()
    command = shlex.join(["python", "-m", "tests.benchmarks.scaling", *sys.argv[1:]])
    simulated = SIMULATED if (args.out / "simulation.md").exists() else ""
    write_bytes(args.out / "README.md", page(command, args.price, simulated).encode())
    print(f"written: {args.out / 'README.md'}")


if __name__ == "__main__":
    main()
