"""The results of one model: a JSON file, written after every task."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_whole

FORMAT = 1
_SHARES = frozenset(
    "accuracy mAP F1 recall@1 recall@5 recall@10 map@10 AP pointing".split()
    + ["segment mAP", "segment F1", "mean class accuracy", "different captions", "deviation between draws"]
)


class Results:
    """Scores of one model, by the names of their tasks.

    Args:
        path: of the JSON file; what it holds of another model (other weights or settings) is dropped when it is opened.
        model: `Listener.describe()`.
    """

    def __init__(self, path: str | Path, model: Mapping[str, Any]):
        self.path, self.model = Path(path), dict(model)
        self.scores: dict[str, dict] = {}
        if self.path.is_file():
            content = read_results(self.path)
            if content["model"].get("weights") == self.model.get("weights"):
                self.scores = {score["task"]: score for score in content["scores"]}

    def kept(self, name: str, declaration: Mapping, digest: str | None, parts: Mapping = {}) -> dict | None:
        """A score that was measured before, of the same task on the same clips; `parts`: `Listener.made_of` of it."""
        score = self.scores.get(name)
        same = score and score["status"] == "measured" and score["declaration"] == json.loads(json.dumps(declaration))
        same = same and parts.items() <= score["model"].items()
        return score if same and score["clips_digest"] == digest else None

    def table(self) -> str:
        """All scores as markdown."""
        return score_table(list(self.scores.values()))

    def add(self, score: dict) -> None:
        """Adds a score, in the place of one of the same name, and writes the file."""
        self.scores[score["task"]] = json.loads(json.dumps(score, default=_plain))
        content = {"format": FORMAT, "model": self.model, "scores": list(self.scores.values())}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_whole(self.path, lambda file: file.write(text.encode()))


def read_results(path: str | Path) -> dict:
    """What a results file holds: "format", "model", "scores".

    Raises:
        ValueError: another kind of file.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT or "scores" not in content:
        raise ValueError(f"{path} is no results file of format {FORMAT}; make it with `python -m hf_slap.evaluation`")
    return content


def shown(metric: str, value: float | None) -> str:
    """A value as tables print it: shares in per cent, counts whole."""
    if value is None:
        return ""
    if isinstance(value, int) or metric == "vocabulary":
        return f"{value:,.0f}"
    return f"{100 * value:.1f} %" if metric in _SHARES else f"{value:.3f}"


def score_table(scores: list[dict]) -> str:
    """Markdown: one line per task, with what was not measured and why below; no columns that would be empty."""
    rows = [["task", "metric", "value", "reported elsewhere", "95 % interval", "chance", "N", "prompts"]]
    missing, reasons, rules = [], {}, {}
    for score in scores:
        metric = score["metric"]
        rows.append([score["task"], metric, score["status"], _reported(score), "", "", "", ""])
        if score["status"] != "measured":
            reasons.setdefault(score["reason"], []).append(score["task"])
            continue
        between = f"{shown(metric, score['low'])} to {shown(metric, score['high'])}" if score["low"] is not None else ""
        wanted = score["expected_clips"]
        count = f"{score['clips']:,}" + (f" (of {wanted:,})" if wanted not in (None, score["clips"]) else "")
        prompts = "; ".join(f"'{prompt}'" for prompt in score["prompts"])
        rows[-1][2] = shown(metric, score["value"])
        rows[-1][4:] = between, shown(metric, score["chance"]), count, prompts
        rules.setdefault(score["long_clips"], []).append(score["task"])
        missing += [f"- {score['task']}, {name}: not measured: {why}" for name, why in score.get("missing", {}).items()]
        missing += [f"- {score['task']}: {note}" for note in score.get("notes", [])]
    kept = [column for column in range(len(rows[0])) if column < 3 or any(row[column] for row in rows[1:])]
    lines = ["| " + " | ".join(row[column] for column in kept) + " |" for row in rows]
    lines.insert(1, "|---" * len(kept) + "|")
    for rule, names in rules.items():
        lines += ["", f"Long clips{'' if len(rules) == 1 else ' of ' + ', '.join(names)}: {rule}."]
    missing += [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "\n".join([*lines, *([""] + missing if missing else [])])


def class_table(score: Mapping) -> str:
    """Markdown: one line per class of a score that has them."""
    if isinstance(score["per_class"], Mapping):
        rows = sorted(score["per_class"].items(), key=lambda item: -item[1])
        head = ["| class | average precision |", "|---|---|"]
        return "\n".join([*head, *(f"| {label} | {value:.3f} |" for label, value in rows)])
    lines = ["| class | clips | right | mostly mistaken for |", "|---|---|---|---|"]
    for row in sorted(score["per_class"], key=lambda row: -row["accuracy"]):
        lines.append(f"| {row['label']} | {row['clips']} | {row['accuracy']:.0%} | {row['mistaken_for'] or ''} |")
    return "\n".join(lines)


def _reported(score: Mapping) -> str:
    return "; ".join(f"{name}: {shown(score['metric'], value)}" for name, value in score["reported"].items())


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be written as JSON")
