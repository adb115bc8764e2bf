"""Which arms of a grid can switch to another beta in the course of training, and at which times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from calib_bench import registry
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Trial
from calib_bench.planning.tuning import More
from calib_bench.studies.beta_switch.options import Options
from calib_bench.train.fusion import OPTIMIZERS, heads

TO, FROM = "reference to beta", "beta to reference"


@dataclass(frozen=True)
class Switch:
    """One switched arm: which way, at which share of the updates, and its template (rate and seed of no meaning)."""

    beta: float
    way: str
    at: float
    template: Trial


def switches(grid: Grid, templates: Iterable[Trial]) -> list[Switch]:
    """Those of a family's templates of the grid; none of an objective or recipe that does not allow it."""
    planned = []
    for objective, at_beta in _by_objective(templates).items():
        reference = at_beta.get(grid.reference)
        if reference is None or why_not(reference):
            continue
        for beta in sorted(set(at_beta) - {grid.reference}):
            for at in sorted(Options.of(grid).switch_times):
                to = {"beta": beta, "objective": objective, "switch_from": grid.reference, "switch_at": at}
                back = {"switch_from": beta, "switch_at": at}
                planned.append(Switch(beta, TO, at, reference.model_copy(update=to)))
                planned.append(Switch(beta, FROM, at, reference.model_copy(update=back)))
    return planned


def _by_objective(templates: Iterable[Trial]) -> dict[str, dict[float, Trial]]:
    at_beta: dict[str, dict[float, Trial]] = {}
    for template in templates:
        at_beta.setdefault(template.objective, {})[template.beta] = template
    return at_beta


def why_not(template: Trial) -> str:
    """Why beta cannot switch in such a trial; empty when it can."""
    if heads(template, registry.objectives()):
        return f"objective {template.objective} replaces the linear head, whose weights a switch rescales"
    if template.optimizer not in OPTIMIZERS:
        return f"how {template.optimizer}'s state is to be rescaled at a switch is not known"
    if template.clip:
        return "a bound on the gradient's norm depends on the scale of the head"
    if template.eps_scale != "none":
        return "Adam's eps follows beta, of which a switch has two"
    return "" if template.epochs else "it does not train"


def more(grid: Grid) -> More:
    """Templates of the switched arms, which are tuned beside the grid."""
    return lambda templates: [switch.template for switch in switches(grid, templates)]
