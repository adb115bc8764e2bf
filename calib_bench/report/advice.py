"""What `advise` shows: a recipe at beta = 1 beside the same at other inverse temperatures."""

from __future__ import annotations

from collections.abc import Sequence

from calib_bench.dynamics.scaling_law import Advice, Numbers

LABELS = {
    "lr": "learning rate",
    "range": "  at L +- its spread",
    "weight_decay": "weight decay",
    "eps": "eps",
    "clip": "bound of the gradient's norm",
    "weights": "initial weights, times",
}


def table(advices: Sequence[Advice]) -> str:
    """A column for beta = 1 and one for each beta, as aligned text; rows that say nothing are left out."""
    tuned = advices[0].tuned[0]
    columns = [("beta=1", _cells(tuned, "", 1.0))]
    for advice in advices:
        low, high = advice.lr_range
        spread = f"{low:.3g} to {high:.3g}" if low < high else ""
        columns.append((f"beta={advice.beta:g}", _cells(advice.groups[0], spread, advice.weights)))
    rows = [[" ", *(head for head, _ in columns)]]
    for name, label in LABELS.items():
        cells = [cells[name] for _, cells in columns]
        if any(cells):
            rows.append([label, *cells])
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines of cells, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cells(numbers: Numbers, spread: str, weights: float) -> dict[str, str]:
    """Cells by the names of `LABELS`; empty of what the recipe does not have."""
    return {
        "lr": f"{numbers.lr:.4g}",
        "range": spread,
        "weight_decay": f"{numbers.weight_decay:.4g}" if numbers.weight_decay else "",
        "eps": f"{numbers.eps:.4g}" if numbers.eps else "",
        "clip": f"{numbers.clip:.4g}" if numbers.clip else "",
        "weights": f"{weights:.4g}",
    }
