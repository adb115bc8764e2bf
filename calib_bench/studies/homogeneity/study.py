"""Does the learning rate follow beta by the degree of the net, and where does that stop?

The law: the best rate, and the one above which training fails, go as beta^(-2 / L) for gradient descent with or without
momentum and as beta^(-1 / L) for Adam, L the Euler degree of the net (`calib_bench.dynamics.euler_degree`). In lr_hom,
the rate times beta^(2 / L), both then stand still where training forgets the scale of its initial weights.

The rule, declared before any run: slopes are fitted for each seed over beta <= 0.1, with a t interval over seeds. A net
is *equivalent* to the law within `margin` where the interval of its slope in lr_hom lies inside (-margin, margin); an
*established miss* where the interval leaves out 0 and Holm's p over nets is below .05; a *suggestive miss* where only
the first holds; *inconclusive* otherwise. The regret of a carried rate is judged likewise, within `regret_margin`, and
the frontier over the scale of initial weights within the factor to which a frontier is known.

The default nets have depth 1 (softmax regression, L = 1) to 6, with biases or none, or layer normalization. A CNN
trains one trial at a time, at ten times the cost, and is asked for by name: `model=cnn_8_16`, L = 2.9.
"""

from __future__ import annotations

import pandas as pd

from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Probe, Role, Section, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.planning import tuning
from calib_bench.studies.homogeneity import figures, measure, nets
from calib_bench.studies.homogeneity.findings import summary, verdict, warnings
from calib_bench.studies.homogeneity.options import Options
from calib_bench.studies.homogeneity.result import HomogeneityResult
from calib_bench.studies.homogeneity.tables import law_tables


def plan(grid: Grid, scores: Scores) -> dict[Trial, Role]:
    """Every cell at every seed, brackets of the frontier, the controls, and what the carried rate is judged by.

    Raises:
        SettingsError: the law cannot be judged with these settings.
    """
    nets.check(grid)
    return tuning.planned(pair for net in nets.nets(grid, scores) for pair in nets.wanted(net, scores))


def analyse(grid: Grid, store: Results) -> Analysis:
    """Slopes, controls and regret of every net.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    options = Options.of(grid)
    every = nets.nets(grid, store.scores(grid.select))
    readings = [measure.read(net, store) for net in every if net.complete]
    rows = {
        "slopes": measure.slope_rows(readings, options.margin),
        "rates": measure.rate_rows(readings),
        "scaled_start": measure.start_rows(readings),
        "exact": measure.exact_rows([reading.net for reading in readings], store),
        "regret": measure.regret_rows(readings, store, options.regret_margin),
        "saddle": measure.saddle_rows(readings, store),
    }
    frames = {name: pd.DataFrame(table_rows) for name, table_rows in rows.items()}
    return Analysis(
        verdict=verdict(frames, options),
        summary=summary(frames, options),
        tables=law_tables(grid, frames, options),
        warnings=warnings(grid, frames, len(every) - len(readings)),
        result=HomogeneityResult(
            **{name: frames[name] for name in ("slopes", "rates", "regret", "saddle")},
            margin=options.margin,
            regret_margin=options.regret_margin,
            limit=grid.limit,
            arms=[arm for net in every for arm in net.arms],
        ),
    )


STUDY = Study(
    question="Does the learning rate follow beta by the degree of the net in its weights, and where does that stop?",
    plan=plan,
    analyse=analyse,
    figures={
        "slopes": figures.slopes,
        "over_beta": figures.over_beta,
        "regret": figures.regret,
        "saddle": figures.saddle,
    },
    defaults={
        "model": (
            "linear",
            "linear_nobias",
            "mlp_32",
            "mlp_32_nobias",
            "mlp_32_32",
            "mlp_32_32_nobias",
            "mlp_32_32_32_nobias",
            "mlp_32_32_32_32_nobias",
            "mlp_32_32_32_32_32_nobias",
            "mlp_32_32_layernorm",
        ),
        "objective": (CROSS_ENTROPY,),
        "beta": (0.01, 0.0316227766, 0.1, 0.316227766, 1.0),
        "optimizer": ("sgd", "adam"),
        "momentum": (0.0, 0.9),
        "lr_hom": tuple(float(f"{2 ** (k / 2):.10g}") for k in range(-6, 3)),
        "seed": (0, 1, 2, 3, 4, 5),
    },
    sections=(
        Section(
            "Slopes over beta beside the law",
            ("slopes",),
            "The law gives the slope from one number that is measured before training, the degree L. Zero in lr_hom "
            "means that a rate found at beta = 1 is the right one at the other beta too.",
        ),
        Section("Best rate and frontier over beta", ("over_beta", "rates")),
        Section("What a carried rate costs", ("regret",)),
        Section(
            "Where it stops",
            ("saddle",),
            "Small beta is a small start, which lies near a saddle. A run that has not left it early "
            "has no time to forget it, and then the law is no law of the whole run.",
        ),
        Section("Controls", ("exact", "scaled_start"), "Comparisons with a known answer."),
    ),
    references=("atanasov2025", "agarwala2023temperature", "schuirmann1987", "holm1979"),
    probes={"degree": Probe(arrays=measure.measure_degree)},
    options=Options,
)
