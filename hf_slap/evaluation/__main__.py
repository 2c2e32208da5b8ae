"""Judges a model from the command line: `python -m hf_slap.evaluation MODEL --suite quick`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .card import fill_card, write_eval_results
from .results import class_table, score_table
from .run import choose_tasks, evaluate


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for and prints tables.

    Returns:
        the exit status: 1 where a task failed or nothing was measured.
    """
    from .suites import SUITES

    parser = argparse.ArgumentParser("python -m hf_slap.evaluation", description=__doc__)
    parser.add_argument("model", help="folder or Hub id of SLAP, of transformers' CLAP or of sentence-transformers")
    parser.add_argument("--suite", choices=list(SUITES), help="table of tasks; default: quick")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these")
    parser.add_argument("--data", nargs="+", default=[], metavar="SET=PATH", help="sets you have, or a folder of all")
    parser.add_argument("--download", action="store_true", help="take sets from the Hub where they are there")
    parser.add_argument("--output", default="evaluation", help="folder of results, pictures and cache")
    parser.add_argument("--revision", help="of the model")
    parser.add_argument("--name", help="of the model in the results")
    parser.add_argument("--device", help="such as cpu or cuda")
    parser.add_argument("--again", action="store_true", help="measure again what was measured before")
    parser.add_argument("--classes", action="store_true", help="print the per-class tables too")
    parser.add_argument("--card", help="model card to fill; .eval_results is written beside it")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parsed = parser.parse_args(arguments)

    try:
        data = named_sets(parsed.data)
    except ValueError as error:
        parser.error(str(error))
    results = evaluate(
        parsed.model,
        suite=parsed.suite,
        tasks=parsed.tasks,
        data=data,
        output=parsed.output,
        download=parsed.download,
        again=parsed.again,
        name=parsed.name,
        revision=parsed.revision,
        device=parsed.device,
        progress=not parsed.quiet,
    )
    scores = [results.scores[task.name] for task in choose_tasks(parsed.suite, parsed.tasks)]
    print(score_table(scores))
    if parsed.classes:
        for score in scores:
            if score.get("per_class"):
                print(f"\n{score['task']}\n\n{class_table(score)}")
    if parsed.card:
        fill_card(parsed.card, results.path)
        written = write_eval_results(results.path, Path(parsed.card).parent)
        print(f"\ncard: {parsed.card}; .eval_results: {len(written)} files")
    print(f"\nresults: {results.path}")
    return 0 if went_well(scores) else 1


def named_sets(texts: Sequence[str]) -> dict[str, str] | str | None:
    """What `evaluate` takes as `data`, from SET=PATH, once or more, or the one folder that holds all sets."""
    pairs = [text.partition("=") for text in texts]
    data = {name: path for name, sign, path in pairs if sign}
    folders = [name for name, sign, _ in pairs if not sign]
    if len(folders) > 1 or (folders and data):
        raise ValueError("--data takes SET=PATH, once or more, or one folder that holds all sets")
    return folders[0] if folders else data or None


def went_well(scores: Sequence[dict]) -> bool:
    """Whether something was measured and nothing failed."""
    statuses = {score["status"] for score in scores}
    return "measured" in statuses and "failed" not in statuses


if __name__ == "__main__":
    sys.exit(main())
