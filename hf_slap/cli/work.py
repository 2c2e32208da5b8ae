"""The commands around models: info, eval, prepare, train."""

from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from .inputs import Device, found_place, found_sounds, open_place
from .output import FormatOption, OutputOption, Quiet, Report, calm, clock, errors, progress


def info(
    things: Annotated[
        list[str] | None,
        typer.Argument(help="Models (folders or Hub ids) or sounds (files, folders, globs, URLs).", show_default=False),
    ] = None,
    format: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """What a model is: sizes, training, licence, scores; or a sound: length, rate, level, and whether it is whole.

    Without arguments: the model that comes with hf_slap, and what is installed here.

    Examples:
      slap info
      slap info org/slap
      slap info runs/tiny/model --format json
      slap info recordings/ --format csv > lengths.csv
    """
    from .facts import installed, is_model, model_facts, sound_facts

    models = [thing for thing in things or [] if is_model(thing)]
    if models and len(models) < len(things):
        raise typer.BadParameter(f"{models} are models, the others are not; ask for one kind at a time")
    if things and not models:
        sounds, missing = found_sounds(things)
        columns = ["sound", "format", "length", "Hz", "channels", "peak dB"]
        with Report(columns, format, output) as report, progress("reading", len(sounds)) as report.bar:
            for name, reason in missing:
                report.fail(name, reason)
            for sound in sounds:
                try:
                    facts = sound_facts(sound)
                except (ValueError, OSError, RuntimeError) as error:
                    report.fail(sound.name, str(error))
                    continue
                row = [sound.name, facts["format"], facts["seconds"], facts["rate"], facts["channels"]]
                level = "silence" if facts["peak_db"] is None else f"{facts['peak_db']:.1f}"
                report.add(facts, rows=[[*row, facts["peak_db"]]], cells=[[*row[:2], clock(row[2]), *row[3:], level]])
        return
    with Report(["model", "what", "value"], format, output, what="models") as report:
        for place in models or [open_place(None)]:
            facts = model_facts(place) | ({} if models else {"installed": installed()})
            rows = [[facts["model"], key, value] for key, value in _flat(facts) if key != "model"]
            report.add(
                facts, rows=rows, cells=[["" if row else facts["model"], *rest] for row, (_, *rest) in enumerate(rows)]
            )


def _flat(facts: dict) -> list[tuple[str, object]]:
    """Lines of a table: the items of a dictionary inside are written into one, those of a list under each other."""
    lines: list[tuple[str, object]] = []
    for key, value in facts.items():
        parts = value if isinstance(value, list) else [value]
        for number, part in enumerate(parts):
            shown = ", ".join(f"{k} {v}" for k, v in part.items()) if isinstance(part, dict) else part
            lines.append(("" if number else key, shown))
    return lines


def eval(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Folder or Hub id of SLAP, of transformers' CLAP or of sentence-transformers.  "
            "\\[default: the model that comes with hf_slap]",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Table of tasks; an unknown one is answered by the list.  \\[default: quick]")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task. May be repeated.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="SET=PATH", help="A set that you have, or one folder of all. May be repeated."),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Take sets from the Hub where they are there.")] = False,
    folder: Annotated[Path, typer.Option(help="Of results, pictures and cache.")] = Path("evaluation"),
    card: Annotated[Path | None, typer.Option(help="Model card to fill with the results.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model in the results.  \\[default: its folder or Hub id]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of the model on the Hub.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again what was measured before.")] = False,
    format: FormatOption = None,
    output: OutputOption = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Judge a model on a suite of tasks.

    What was measured before is not measured again, an interrupted run goes on, and sets that are not here are named
    with where to get them. Suites: quick (clips of the repository), slap, clap2023, captionstew, maeb, own
    (your clips).

    Examples:
      slap eval slap-nano
      slap eval runs/tiny/model
      slap eval org/slap --suite clap2023 --data esc50=downloads/esc50 --card README.md
      slap eval org/slap --suite slap --data /all/my/sets --format csv > scores.csv
    """
    columns = ["task", "metric", "value", "low", "high", "chance", "clips"]
    more = ["status", "reason", "notes"]
    report = Report(columns, format, output, what="tasks", quiet=quiet, more_columns=more)
    from ..evaluation.__main__ import named_sets, went_well
    from ..evaluation.card import fill_card, write_eval_results
    from ..evaluation.results import remarks, shown, shown_clips
    from ..evaluation.run import choose_tasks, evaluate

    calm()
    results = evaluate(
        found_place(model), suite=suite, tasks=task, data=named_sets(data or []), output=folder, download=download,
        again=again, name=name, revision=revision, device=device, progress=errors().is_terminal and not quiet,
    )  # fmt: skip
    scores = [results.scores[one.name] for one in choose_tasks(suite, task)]
    with report:
        for score in scores:
            row = [score.get(key) for key in [*columns, *more[:2]]]
            if score["status"] != "measured":
                report.add(score, rows=[[*row, ""]], cells=[[*row[:2], score["status"]]])
                continue
            numbers = [shown(score["metric"], value) for value in row[2:6]]
            report.add(
                score, rows=[[*row, "; ".join(remarks(score))]], cells=[[*row[:2], *numbers, shown_clips(score)]]
            )
    for score in scores:
        if score["status"] != "measured":
            errors().print(f"{score['task']}: {score['status']}: {score['reason']}", markup=False)
        elif not quiet:
            for remark in remarks(score):
                errors().print(f"{score['task']}: {remark}", markup=False)
    if card:
        fill_card(card, results.path)
        write_eval_results(results.path, card.parent)
    if not quiet:
        errors().print(f"all of it: {results.path}", markup=False)
    if not went_well(scores):
        raise typer.Exit(1)


def prepare(arguments: Annotated[list[str], typer.Argument(hidden=True)]) -> None:
    """Turn downloaded sources into one corpus to train on: prepared, merged, without evaluation clips, described.

    Interrupted, run it again: it goes on where it was. The corpus is in FOLDER/corpus.

    Examples:
      slap prepare --list
      slap prepare --list clotho
      slap prepare corpora/mine --source folder:mine=sounds --max-seconds 60
      slap prepare corpora/all --source clotho=clotho --evaluation esc50=esc50
    """
    from ..examples.prepare_corpus import main

    main(arguments)


prepare.takes_all = True  # options too, as the script reads them itself


class Training(str, Enum):
    """What can be trained, by the script that does it."""

    pretrain = "pretrain"
    supervised = "pretrain_supervised"
    retrieval = "finetune_retrieval"
    captioning = "finetune_captioning"
    classification = "finetune_classification"


def train(
    what: Annotated[
        str,
        typer.Argument(
            help="pretrain or supervised (from scratch); retrieval, captioning or classification (fine-tuning).",
            show_default=False,
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="A YAML file or the name of one that comes with hf_slap, then key=value for what differs.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Pretrain or fine-tune, as a configuration file says. It runs the scripts of examples/, on one device.

    On several, the same by Accelerate: accelerate launch -m hf_slap.cli train ...

    Examples:
      slap train classification model=org/slap train_data=my_clips
      slap train retrieval finetune_retrieval lora.r=8 run_folder=runs/mine
      slap train pretrain tiny train_data=corpora/mine/corpus
      slap train pretrain my.yaml --resume
    """
    if what not in Training.__members__:
        raise typer.BadParameter(f"{what!r}; accepted are {', '.join(Training.__members__)}")
    config, overrides = None, list(settings or [])
    if overrides and "=" not in overrides[0]:
        config = _config(overrides.pop(0))
    arguments = [*(["--config", config] if config else []), *(["--resume"] if resume else []), *overrides]
    import_module(f"hf_slap.examples.{Training[what].value}").main(arguments)


def _config(given: str) -> str:
    """A configuration file, or one that ships, by its name."""
    shipped = Path(import_module("hf_slap.examples").__file__).with_name("configs")
    names = {path.relative_to(shipped).with_suffix("").as_posix(): path for path in sorted(shipped.rglob("*.yaml"))}
    if Path(given).is_file():
        return given
    if given.removesuffix(".yaml") not in names:
        raise typer.BadParameter(f"there is no file {given!r}; with hf_slap come {', '.join(names)}")
    return str(names[given.removesuffix(".yaml")])
