"""A picture of what is taken for what."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def draw_confusion(confusion: np.ndarray, labels: Sequence[str], path: str | Path, title: str = "") -> Path:
    """Shares of each class (a row) that were taken for each class (a column), as a PNG; clips as numbers.

    Args:
        confusion: (C, C) clips. Classes that neither occur nor are answered are left out.
        labels: C names.
        path: of the picture.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    confusion = np.asarray(confusion)
    shown = np.flatnonzero(confusion.any(0) | confusion.any(1))
    counts, names = confusion[np.ix_(shown, shown)], [labels[c] for c in shown]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = min(40.0, 2.6 + 0.3 * len(names))
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 60:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.55 else "black"
            axis.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=6)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("taken for", fontsize=9)
    axis.set_ylabel("is", fontsize=9)
    axis.set_title(title, loc="left", fontsize=10)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, shrink=0.6, label="share of the class").ax.tick_params(labelsize=7)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
