"""Settings x study -> Plan: deduplicated trials, what is already done, and the rest grouped for execution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from calib_bench import registry
from calib_bench.core.config_file import RUN_FILE, as_toml
from calib_bench.core.settings import Settings
from calib_bench.core.study import Role, Study
from calib_bench.core.trial import Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import spelled_out
from calib_bench.planning.tuning import label, planned, with_role
from calib_bench.store.store import Store
from calib_bench.system import files
from calib_bench.system.files import digest_of
from calib_bench.train.fusion import fuse_key

Group = tuple[Trial, ...]
"""Trials that run together: several are trained as one stacked model."""


@dataclass(frozen=True)
class Plan:
    """What a round would run.

    Attributes:
        roles: every trial wanted so far, and what it is for.
        done: how many of them the store already holds.
        groups: the others, grouped.
        failed: how many were tried and could not be finished.
    """

    roles: dict[Trial, Role]
    done: int
    groups: tuple[Group, ...]
    failed: int = 0

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial wanted so far."""
        return tuple(self.roles)

    @property
    def pending(self) -> int:
        """Trials still to run."""
        return len(self.trials) - self.done - self.failed


def make(settings: Settings, study: Study, store: Store, workers: int = 1, device: str = "cpu") -> Plan:
    """The plan for resolved settings, given what the store holds.

    Raises:
        SettingsError: the plan of a plug-in changes from one call to the next.
    """
    store.refresh()
    roles = _wanted(settings, study, store.scores(settings.select))
    if settings.plugins and roles != _wanted(settings, study, store.scores(settings.select)):
        raise SettingsError(
            f"study {settings.study!r} planned other trials when asked again, which would go on without end: `plan` is "
            "a function of settings and scores alone, without a clock or random numbers that are not seeded"
        )
    trials = {trial.key: trial for trial in roles}
    left_over = {key: trial for key, trial in trials.items() if not store.has(trial)}
    failed = left_over.keys() & store.failures.now().keys()
    pending = {key: trial for key, trial in left_over.items() if key not in failed}
    groups = _begun(pending, store)
    groups += group(list(pending.values()), settings.stack, workers, device)
    return Plan(roles, len(trials) - len(left_over), tuple(groups), len(failed))


def _begun(pending: dict[str, Trial], store: Store) -> list[tuple[Trial, ...]]:
    """The groups that have checkpoints, their trials taken from those that are pending."""
    unfinished = [keys for keys in store.checkpoints.unfinished() if set(keys) <= pending.keys()]
    return [tuple(pending.pop(key) for key in keys) for keys in unfinished if set(keys) <= pending.keys()]


def _wanted(settings: Settings, study: Study, scores: Scores) -> dict[Trial, Role]:
    """What a study wants by now; plain trials of its plan are "chosen". With `keep=weights`, chosen ones that do not
    keep theirs are trained once more, see `keeping`."""
    roles = _roles(settings.study, study.plan(settings, scores))
    if settings.keep is None:
        return roles
    chosen = (trial for trial, role in roles.items() if role == "chosen" and (trial.epochs or trial.pretrained))
    again = dict.fromkeys(keeping(trial) for trial in chosen if trial.keep is None)
    return planned([*roles.items(), *with_role(again, "chosen")])


def _roles(name: str, wanted: Any) -> dict[Trial, Role]:
    """What the plan of a study gives as trials with roles.

    Raises:
        SettingsError: it gives anything else.
    """
    trials: list[Any] = [wanted] if isinstance(wanted, Trial | None) else list(wanted)
    for trial in trials:
        if not isinstance(trial, Trial):
            raise SettingsError(
                f"`plan` of study {name!r} gave {type(trial).__name__}: it returns a list of trials, or a mapping of "
                "trials to their roles"
            )
    return dict(wanted) if isinstance(wanted, Mapping) else planned(with_role(trials, "chosen"))


def keeping(trial: Trial) -> Trial:
    """The trial that trains to the same result, and leaves its weights and nothing else beside its logits."""
    return trial.model_copy(update={"keep": "weights", "probe": None, "shift": ""})


def keep(plan: Plan, settings: Settings, store: Store, command: str) -> None:
    """Store the settings of a run and its plan, for the stages and commands that come after it: see `read`."""
    trials = [
        {
            "key": trial.key,
            "arm": label(trial),
            "role": role,
            "trial": trial.model_dump(mode="json", exclude_defaults=True),
        }
        for trial, role in plan.roles.items()
    ]
    content = {"fingerprint": _fingerprint(plan.roles, settings, store), "trials": trials}
    store.write_study(settings, command, content)
    files.write_bytes(store.path / RUN_FILE, as_toml(spelled_out(settings)).encode())


def read(settings: Settings, study: Study, store: Store) -> dict[Trial, Role]:
    """Every trial that a run wants and its role, as the run stored them; made anew where other settings are asked,
    where trials were stored since, or where an older version stored no plan."""
    content = store.plan()
    if content is not None:
        roles: dict[Trial, Role] = {Trial.model_validate(row["trial"]): row["role"] for row in content["trials"]}
        if content["fingerprint"] == _fingerprint(roles, settings, store):
            return roles
    return _wanted(settings, study, store.scores(settings.select))


def _fingerprint(roles: Iterable[Trial], settings: Settings, store: Store) -> str:
    """Digest of what a plan was made from: what was asked, and the scores of its trials."""
    scores = store.scores(settings.select)
    by_key = {trial.key: repr(scores(trial)) for trial in roles}
    return digest_of({"grid": settings.grid.model_dump(mode="json"), "scores": by_key})


def foresee(settings: Settings, study: Study, store: Store) -> list[Trial]:
    """The trials still to run, later rounds included, if the best of every grid of rates stood in its middle."""
    scores = store.scores(settings.select)
    grids: dict[Trial, set[float]] = {}
    for trial in _wanted(settings, study, scores):
        grids.setdefault(trial.family(), set()).add(trial.lr)

    def guess(trial: Trial) -> float:
        score = scores(trial)
        rates = sorted(grids.get(trial.family(), {trial.lr}))
        return abs(math.log(trial.lr / rates[len(rates) // 2])) if score is None else score

    return [trial for trial in _wanted(settings, study, guess) if not store.has(trial)]


def group(trials: list[Trial], stack: int, workers: int, device: str = "cpu") -> list[Group]:
    """Trials that differ only in numbers go together, at most `stack` of them, spread evenly over the workers.

    Those that are few among many others stay together: a stack of 15 takes a fifth longer a trial than one of 30.
    """
    objectives = registry.objectives()
    alike: dict[object, list[Trial]] = {}
    for trial in trials:
        key = fuse_key(trial, objectives, device) if stack > 1 else None
        alike.setdefault(trial.key if key is None else key, []).append(trial)
    groups: list[Group] = []
    for members in alike.values():
        chunks = math.ceil(len(members) / stack)
        if chunks > 1 or (len(members) > 4 * workers and len(members) * 4 * workers > len(trials)):
            chunks = workers * math.ceil(chunks / workers)
        size = math.ceil(len(members) / chunks)
        groups.extend(tuple(members[i : i + size]) for i in range(0, len(members), size))
    return groups
