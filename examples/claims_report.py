"""The tables, verdicts and pictures of claims.py, from its results alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from claims_studies import Study

from hf_slap.evaluation.comparison import Difference, difference, mean_interval

SETTING = "setting.json"
_COLOURS = ("#3366aa", "#aa5533", "#338855", "#8855aa", "#777777")


def packed(values: np.ndarray) -> str | list[float]:
    """Hits as a string of 0 and 1, other numbers as a list: results stay small enough to be kept."""
    return "".join("01"[int(hit)] for hit in values) if values.dtype == bool else values.round(4).tolist()


def unpacked(values: str | list[float]) -> np.ndarray:
    """(N,) float64."""
    return np.array([float(value) for value in values])


def found(study: Study, results: Sequence[Mapping], row: str, fraction: float) -> dict[int, Mapping]:
    """{seed: result} of a row, for the seeds that the study names and that are there."""
    by_key = {result["run"]: result for result in results}
    keys = {seed: study.run(row, fraction, seed).key(study) for seed in study.seeds}
    return {seed: by_key[key] for seed, key in keys.items() if key in by_key}


def claim_difference(study: Study, results: Sequence[Mapping], claim: Mapping, measure: str) -> Difference | None:
    """The sum of a claim's `more` less the sum of its `than`, paired by seed and by clip; None while one is missing."""
    terms = [(sign, term.measure, found(study, results, term.row, term.fraction)) for sign, term in study.terms(claim, measure)]  # fmt: skip # noqa: E501
    seeds = [seed for seed in study.seeds if all(_has(runs, seed, name, "values") for _, name, runs in terms)]
    if not seeds:
        return None
    per_seed = [sum(sign * runs[seed]["values"][name] for sign, name, runs in terms) for seed in seeds]
    per_clip = None
    if all(_has(runs, seed, name, "per_clip") for _, name, runs in terms for seed in seeds):
        of_seeds = [sum(sign * unpacked(runs[seed]["per_clip"][name]) for sign, name, runs in terms) for seed in seeds]
        per_clip = np.mean(of_seeds, axis=0)
    return difference(per_seed, per_clip)


def study_report(study: Study, results: Sequence[Mapping]) -> str:
    """Markdown: the rows with their measures, then the claims with their verdicts."""
    scaling = len(study.fractions) > 1
    lines = [f"### {study.title}", ""]
    lines += _head(["row", *(["of the data"] if scaling else []), *study.measures, "seeds", "CPU s"])
    for row in study.rows:
        for fraction in study.fractions:
            if runs := list(found(study, results, row, fraction).values()):
                cells = [_cell([run["values"][m] for run in runs if m in run["values"]]) for m in study.measures]
                cost = f"{np.mean([run['cpu_seconds'] for run in runs]):.0f}"
                lines.append(_line([row, *([f"{fraction:.3g}"] if scaling else []), *cells, f"{len(runs)}", cost]))
    lines += ["", *_head(["claim", "measure", "difference", "over seeds", "over clips", "verdict"])]
    for claim in study.claims:
        for measure in study.tested_by(claim):
            if result := claim_difference(study, results, claim, measure):
                bounds = [_bounds(result.over_seeds), _bounds(result.over_clips)]
                lines.append(_line([claim["says"], measure, f"{100 * result.mean:+.1f}", *bounds, result.verdict]))
    return "\n".join(lines)


def setting_report(folder: Path, results: Sequence[Mapping]) -> str:
    """Markdown: the clips, sizes and chance levels that the numbers belong to."""
    facts = json.loads((folder / SETTING).read_text())
    train, held = facts["training"], facts["held_out"]
    sizes = {
        f"{its['audio'] / 1e6:.2f} M + {its['text'] / 1e6:.2f} M": None for its in (r["parameters"] for r in results)
    }
    given = ", ".join(f"{name} {value}" for name, value in facts["pretraining"].items())
    lines = [
        "Shares in per cent (CIDEr-D times 100), after +- half of the 95 % Student t interval over seeds. Differences",
        "are paired by seed and by clip; their intervals are over seeds (t) and over clips (bootstrap of the mean over",
        "seeds). A claim holds, or its opposite does, only where both intervals lie on one side of 0.",
        "",
        f"- training clips: {train['clips']} ({train['hours']} h), {train['classes']} classes, {train['captions']} "
        f"different captions, {train['sources']} sources",
        f"- held-out clips: {held['clips']} ({held['hours']} h), {held['classes']} classes, {facts['texts']} "
        f"different captions, {held['sources']} other sources",
        f"- probes: {facts['probe clips']} training clips, {facts['probe held-out clips']} held-out clips of "
        f"{facts['probe classes']} classes; the most frequent of these has {100 * facts['probe majority']:.1f} %",
        f"- every row: {given}; parameters of the audio and of the text side: {', '.join(sizes)}",
        f"- by chance: {', '.join(f'{name} {100 * value:.1f}' for name, value in facts['chance'].items())}",
        f"- {facts['date']}, {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}",
    ]  # fmt: skip
    return "\n".join(lines)


def draw(study: Study, results: Sequence[Mapping], path: Path) -> Path | None:
    """One panel per measure: every seed a dot, the mean with its interval; over the data where there are parts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not any(found(study, results, row, fraction) for row in study.rows for fraction in study.fractions):
        return None
    chance = json.loads((path.parent / SETTING).read_text())["chance"]
    figure = Figure(figsize=(1.0 + 2.5 * len(study.measures), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(study.measures), squeeze=False)[0]
    for axis, measure in zip(axes, study.measures, strict=True):
        _panel(axis, study, results, measure)
        if measure in chance:
            axis.axhline(100 * chance[measure], color="0.5", linestyle="--", linewidth=0.9)
    if len(study.fractions) > 1:
        figure.legend(
            *axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=4
        )
    figure.suptitle(f"{study.title}: {len(study.seeds)} seeds, means with 95 % t interval; dashed: chance", fontsize=9)
    figure.savefig(path, dpi=85)
    return path


def _panel(axis, study: Study, results: Sequence[Mapping], measure: str) -> None:
    scaling, most = len(study.fractions) > 1, 0.0
    for number, row in enumerate(study.rows):
        colour, places, means, reaches = _COLOURS[number % len(_COLOURS)], [], [], []
        shift = 1 + 0.09 * (number - (len(study.rows) - 1) / 2)  # on a logarithmic axis
        for fraction in study.fractions:
            runs = found(study, results, row, fraction).values()
            if values := [100 * run["values"][measure] for run in runs if measure in run["values"]]:
                place = fraction * shift if scaling else number
                beside = place * 0.96 if scaling else place - 0.17
                axis.plot([beside] * len(values), values, "o", color=colour, alpha=0.4, markersize=3, markeredgewidth=0)
                mean, low, high = mean_interval(values)
                places.append(place)
                means.append(mean)
                reaches.append((high - low) / 2 if len(values) > 1 else 0.0)
                most = max(most, *values, mean)
        if means:
            axis.errorbar(places, means, reaches, fmt="o-" if scaling else "o", color=colour, capsize=3, label=row)
    axis.set_ylim(0, 1.35 * most or 1)  # an interval of few seeds may be far wider than the seeds
    axis.set_title(f"{measure}, %", loc="left", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if scaling:
        axis.set_xscale("log", base=2)
        axis.set_xticks(study.fractions, [f"{fraction:.3g}" for fraction in study.fractions])
        axis.set_xlabel("share of the training clips", fontsize=8)
    else:
        axis.set_xticks(range(len(study.rows)), study.rows, rotation=35, ha="right")
        axis.set_xlim(-0.5, len(study.rows) - 0.5)


def _has(runs: Mapping[int, Mapping], seed: int, measure: str, part: str) -> bool:
    return seed in runs and measure in runs[seed][part]


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean, low, high = mean_interval(values)
    return f"{100 * mean:.1f}" + (f" +- {100 * (high - low) / 2:.1f}" if len(values) > 1 else "")


def _bounds(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}"
