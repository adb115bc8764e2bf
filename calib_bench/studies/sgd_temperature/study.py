"""Does constant-rate SGD behave as a system at a temperature eta0 = rate / ((1 - momentum) batch)?

Theory is of batches drawn independently and of a loss with a minimum: the stationary loss lies (eta0 / 4) E||g_b||^2
above it, whatever batch size and momentum make eta0; a model that fits every label has no heat capacity. The trials are
those of `calib_bench.studies.sgd_temperature.arms`.
"""

from __future__ import annotations

from calib_bench.analysis.tables import make_tables
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Probe, Section, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.studies.sgd_temperature import arms, probes
from calib_bench.studies.sgd_temperature import figures as plots
from calib_bench.studies.sgd_temperature import rows as measured_rows
from calib_bench.studies.sgd_temperature.findings import gibbs_sentences, summary, verdict, warnings
from calib_bench.studies.sgd_temperature.read import read, read_gibbs, read_minimum
from calib_bench.studies.sgd_temperature.result import TemperatureResult
from calib_bench.studies.sgd_temperature.tables import TABLES


def plan(grid: Grid, scores: Scores) -> list[Trial]:
    """Every family's minimum and arms, and the one-parameter model."""
    wanted = [trial for family in arms.families(grid) for trial in family.trials()]
    return [*wanted, *(trial for arm in arms.gibbs(grid) for trial in arm.trials)]


def analyse(grid: Grid, store: Results) -> Analysis:
    """Stationary losses against theory.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    results, lost = [], []
    for family in arms.families(grid):
        minimum = read_minimum(store, family)
        if minimum is None:
            lost.append(
                f"{family.minimum.model}, beta={family.minimum.beta:g}: its minimum was not found, so the excess "
                "loss of its runs cannot be measured; see the failures for the cause."
            )
            continue
        results.append(measured_rows.FamilyResult(family, minimum, [read(store, arm, minimum) for arm in family.arms]))
    densities = [density for arm in arms.gibbs(grid) if (density := read_gibbs(store, arm)) is not None]
    frames = measured_rows.frames(results, densities)
    sentences = [sentence for one in results for sentence in verdict(one, len(results) > 1)]
    return Analysis(
        verdict=(*sentences, *gibbs_sentences(densities)),
        tables=make_tables(TABLES, frames, grid),
        warnings=(*lost, *warnings(grid, results)),
        result=TemperatureResult(grid.limit, grid.reference, families=results, densities=densities),
        summary=summary(results, frames["acceptance"]),
    )


STUDY = Study(
    question="Is the rate over the batch size a temperature: does it alone set the loss at which SGD settles?",
    plan=plan,
    analyse=analyse,
    figures={
        "heat": plots.heat,
        "collapse": plots.collapse,
        "cooling": plots.cooling,
        "adam": plots.adam,
        "gibbs": plots.gibbs,
    },
    defaults={
        "model": ("linear", "mlp_32"),
        "beta": (1.0,),
        "objective": (CROSS_ENTROPY,),
        "optimizer": ("sgd", "adam"),
        "lr": (0.016, 0.032, 0.064, 0.128),
        "momentum": (0.0, 0.5, 0.9),
        "batch": (4, 1, 16, 64),
        "epochs": (240,),
        "schedule": ("constant",),
        "warmup": (0.0,),
        "label_noise": (0.2,),
        "sampling": ("independent",),
        "seed": (0, 1, 2, 3),
    },
    sections=(
        Section(
            "Against theory",
            ("acceptance", "minima"),
            "Known answers serve as controls. Expected to change nothing: another batch size or momentum at "
            "equal eta0, a rate lowered and restored. Known changes: the loss with eta0, by the heat "
            "capacity of the minimum; the loss of a cooled run; the density of the one-parameter model.",
        ),
        Section("Heat capacity", ("heat",), "The loss at which SGD settles, over eta0."),
        Section("One temperature", ("collapse", "adam"), "The same eta0 by other batch sizes, momenta, and in Adam."),
        Section("Cooling and reheating", ("cooling",)),
        Section("The Gibbs density", ("gibbs",)),
    ),
    references=("mandt2017", "yaida2018", "malladi2022"),
    probes={
        "whole": Probe(columns=probes.whole),
        "minimum": Probe(arrays=probes.minimum),
        "logit": Probe(columns=probes.logit, arrays=probes.first_half),
    },
)
