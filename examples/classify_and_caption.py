"""Classifies and captions clips that a model never saw, with the two pipelines, and says how good it was.

    python examples/classify_and_caption.py runs/tiny/model examples/data/heldout.parquet

Prints a table of some clips and one of all classes; writes results.json beside the model's folder.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import pipeline

import hf_slap
from hf_slap.data import load_corpus
from hf_slap.evaluation.zero_shot import zero_shot_scores


def main(arguments: list[str] | None = None) -> dict:
    """Runs the evaluation that the command line asks for; returns what results.json holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a SLAP model")
    parser.add_argument("corpus", help="labelled clips: parquet file, folder or Hub id")
    parser.add_argument("--split", help="which split of the corpus, where there are several")
    parser.add_argument("--prompt", default="the sound of {}", help="text of a label, with {} in its place")
    parser.add_argument("--batch-size", type=int, default=8, help="clips computed at once; changes no result")
    parser.add_argument("--show", type=int, default=12, help="clips in the printed table")
    parsed = parser.parse_args(arguments)

    transformers.utils.logging.disable_progress_bar()
    corpus = load_corpus(parsed.corpus, parsed.split)
    if "label" not in corpus.column_names:
        parser.error(f"{parsed.corpus} has no column 'label'; its columns are {corpus.column_names}")
    classify = pipeline("zero-shot-audio-classification", model=parsed.model)
    caption = pipeline("audio-captioning", model=parsed.model)
    clips, kept = [], []
    for row, item in enumerate(corpus):
        try:
            clips.append(classify.feature_extractor.load(item["audio"], name=item["id"]))
            kept.append(row)
        except hf_slap.AudioError as reason:
            print(f"left out clip {item['id']}: {reason}")
    corpus = corpus.select(kept)
    labels = sorted(set(corpus["label"]))

    keywords = {"candidate_labels": labels, "hypothesis_template": parsed.prompt, "batch_size": parsed.batch_size}
    answers = classify(clips, **keywords)
    rate = classify.feature_extractor.sampling_rate
    captions = [c[0]["generated_text"] for c in caption(clips, sampling_rate=rate, batch_size=parsed.batch_size)]
    scores = np.array([[{a["label"]: a["score"] for a in answer}[label] for label in labels] for answer in answers])
    result = zero_shot_scores(scores, [labels.index(label) for label in corpus["label"]], labels)

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(clip_table(corpus["label"], corpus["captions"], answers, captions, parsed.show))
    console.print(class_table(result.per_class))
    console.print(
        f"zero-shot accuracy on {result.clips} clips of {result.classes} classes: [bold]{result.accuracy:.1%}[/bold] "
        f"(95 % interval {result.low:.1%} to {result.high:.1%}); chance {result.chance:.1%}",
        highlight=False,
    )
    summary = {
        "model": parsed.model,
        "corpus": parsed.corpus,
        "prompt": parsed.prompt,
        "clips": result.clips,
        "classes": result.classes,
        "zero_shot_accuracy": result.accuracy,
        "interval_95": [result.low, result.high],
        "mean_class_accuracy": result.mean_class_accuracy,
        "chance": result.chance,
        "date": date.today().isoformat(),
        "versions": {m.__name__: m.__version__ for m in (hf_slap, torch, transformers)},
        "per_class": {row.label: {"clips": row.clips, "accuracy": row.accuracy} for row in result.per_class},
        "answers": [
            {"id": clip, "label": label, "answer": answer[0]["label"], "score": answer[0]["score"], "caption": text}
            for clip, label, answer, text in zip(corpus["id"], corpus["label"], answers, captions, strict=True)
        ],
    }
    path = Path(parsed.model).parent / "results.json" if Path(parsed.model).is_dir() else Path("results.json")
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    console.print(f"results: {path}", highlight=False)
    return summary


def clip_table(
    labels: list[str], references: list[list[str]], answers: list[list[dict]], captions: list[str], rows: int
) -> Table:
    """Some clips, one after another through the classes: what it is, what was answered, what was written."""
    table = Table(title="clips it never saw", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "the clip is", "it heard", "and wrote"):
        table.add_column(heading)
    by_class: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    rounds = (members[turn] for turn in range(len(labels)) for members in by_class.values() if turn < len(members))
    for _, index in zip(range(rows), rounds, strict=False):
        best = ", ".join(f"{a['label']} {a['score']:.2f}" for a in answers[index][:2])
        right = "[green]right[/green]" if answers[index][0]["label"] == labels[index] else "[red]wrong[/red]"
        table.add_row(right, references[index][0], best, captions[index])
    return table


def class_table(rows: list) -> Table:
    """Accuracy of each class, and what it was taken for."""
    table = Table(title="by class", title_justify="left", box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("clips", justify="right")
    table.add_column("right", justify="right")
    table.add_column("mostly mistaken for")
    for row in sorted(rows, key=lambda row: -row.accuracy):
        table.add_row(row.label, str(row.clips), f"{row.accuracy:.0%}", row.mistaken_for or "")
    return table


if __name__ == "__main__":
    main()
