"""The model card's tables, its `model-index` and `.eval_results`, from a results file. Nothing is typed by hand."""

import re
from pathlib import Path

from .results import read_results, score_table, shown

BEGIN, END = "<!-- results -->", "<!-- /results -->"
_TASK_TYPES = {
    "zero_shot": ("zero-shot-audio-classification", "Zero-shot audio classification"),
    "retrieval": ("audio-text-retrieval", "Retrieval"),
    "captioning": ("audio-captioning", "Audio captioning"),
    "probe": ("audio-classification", "Probe on frozen features"),
    "events": ("sound-event-detection", "Sound event detection"),
    "localisation": ("text-audio-localisation", "Localisation by text"),
    "mteb": ("audio-embedding", "MTEB"),
}
_METRIC_TYPES = {"mAP": "mean_average_precision", "F1": "f1"}


def fill_card(card: str | Path, results: str | Path, name: str | None = None) -> None:
    """Writes a results file into a model card: tables between the marks, `model-index` in the header.

    Args:
        card: a README.md with a YAML header, and the lines `<!-- results -->` and `<!-- /results -->`; what lies
            between them is replaced, everything else stays.
        results: what `evaluate` wrote.
        name: of the model in `model-index`; default: as in the results.
    Raises:
        ValueError: no header, or no marks.
    """
    import yaml
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    path, content = Path(card), read_results(results)
    text = path.read_text(encoding="utf-8")
    header = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if not header or text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path} must begin with a YAML header and hold the lines {BEGIN} and {END}, once, in order")
    measured = [score for score in content["scores"] if score["status"] == "measured"]
    entries = [
        EvalResult(
            task_type=_TASK_TYPES[score["kind"]][0],
            task_name=_TASK_TYPES[score["kind"]][1],
            dataset_type=score["hub"] or score["data"],
            dataset_name=score["title"],
            dataset_split=score["split"],
            metric_type=_METRIC_TYPES.get(score["metric"], score["metric"].lower().replace(" ", "_")),
            metric_name=f"{score['task']}: {score['metric']}, N = {score['clips']}",
            metric_value=round(score["value"], 4),
        )
        for score in measured
    ]
    values = yaml.safe_load(header[1]) or {}
    values.pop("model-index", None)
    if entries:
        index = eval_results_to_model_index(name or content["model"]["name"], entries)
        values["model-index"] = _without_none(index)
    head = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    body = text[header.end() :]
    before, after = body[: body.index(BEGIN)], body[body.index(END) + len(END) :]
    path.write_text(f"---\n{head}---\n{before}{BEGIN}\n{results_text(content)}\n{END}{after}", encoding="utf-8")


def results_text(content: dict) -> str:
    """The part of a card that a results file gives: what was measured, on what, with which versions."""
    model = content["model"]
    lines = [
        f"Measured by `python -m hf_slap.evaluation`. Model {model['name']}, revision {model['revision'] or 'none'}, "
        f"{model['weights']}."
    ]
    scores = content["scores"]
    if measured := [score for score in scores if score["status"] == "measured"]:
        dates = sorted({score["date"] for score in measured})
        versions = {f"{name} {version}" for score in measured for name, version in score["versions"].items()}
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        lines.append(f"Measured on {when} with {', '.join(sorted(versions))}.")
    lines += ["", score_table(scores)]
    beside = ["| task | other measures |", "|---|---|"]
    for score in measured:
        if values := [f"{name} {shown(name.split(', ')[-1], value)}" for name, value in score["more"].items()]:
            beside.append(f"| {score['task']} | {'; '.join(values)} |")
    return "\n".join([*lines, *(["", *beside] if len(beside) > 2 else [])])


def unmeasured_text(suite: str) -> str:
    """The same part for weights that nothing was measured with: the tasks of a suite with what papers report."""
    from .run import choose_tasks

    why = f"`slap eval FOLDER --suite {suite} --data SETS --card README.md` measures, and says where to get the sets"
    scores = [
        {"task": t.name, "metric": t.metric, "status": "not measured", "reason": why, "reported": t.reported}
        for t in choose_tasks(suite, None)
    ]
    table, _, _ = score_table(scores).rpartition("\n\n")
    return f"Not measured here: {why}.\n\n{table}"


def write_eval_results(results: str | Path, folder: str | Path) -> list[Path]:
    """Writes `.eval_results/<set>.yaml` for the sets that the Hub knows, to be uploaded beside the weights.

    Args:
        results: what `evaluate` wrote.
        folder: of the model.
    Returns:
        the files. A set without an id on the Hub has none: that format names benchmarks by it.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    by_set: dict[str, list] = {}
    for score in read_results(results)["scores"]:
        if score["status"] == "measured" and score["hub"]:
            entry = EvalResultEntry(
                dataset_id=score["hub"],
                task_id=score["task"],
                value=round(score["value"], 4),
                date=score["date"],
                notes=f"{score['metric']}; N = {score['clips']}; split {score['split']}; prompts {score['prompts']}; "
                f"long clips: {score['long_clips']}; hf_slap {score['versions']['hf_slap']}",
            )
            by_set.setdefault(score["hub"], []).append(entry)
    target = Path(folder) / ".eval_results"
    written = []
    for hub, entries in by_set.items():
        target.mkdir(parents=True, exist_ok=True)
        path = target / f"{hub.replace('/', '--')}.yaml"
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=120))
        written.append(path)
    return written


def _without_none(value):
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
