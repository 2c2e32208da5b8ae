"""From downloaded sources to one corpus that can be trained on: prepared, merged, without evaluation clips, described.

    python examples/prepare_corpus.py corpora/mine \\
        --source clotho=downloads/clotho --source package:ours=examples/data/train.parquet \\
        --evaluation esc50=downloads/esc50
    python examples/prepare_corpus.py corpora/clap --config examples/configs/clap_2023_corpus.yaml --skip-missing
    python examples/prepare_corpus.py --list          # the recipes; --list clotho says where to get it
    python examples/prepare_corpus.py --describe corpora/mine/corpus      # only its datasheet and card, anew

Top to bottom: prepare each source, compare all clips, find leaks, merge, describe, publish. Interrupted, run it again:
it goes on where it was. The corpus is in <folder>/corpus, to be named as `train_data` or opened with `datasets`.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from hf_slap.data import PrepareSettings, SoundSettings, prepare, push_to_hub, write_card
from hf_slap.data.corpora_index import index_corpora
from hf_slap.data.datasheet import write_datasheet
from hf_slap.data.encoding import CODECS
from hf_slap.data.leakage import find_leaks
from hf_slap.data.merging import merge_corpora
from hf_slap.data.preparing import ENGINES, summary
from hf_slap.data.recipes import RECIPES, get_recipe
from hf_slap.data.shards import FORMATS


def main(arguments: Sequence[str] | None = None) -> Path | None:
    parsed = parse(arguments)
    if parsed.list is not None:
        recipes = [get_recipe(parsed.list)] if parsed.list else RECIPES.values()
        print("\n".join(recipe.how_to_get if parsed.list else f"{recipe.name:20} {recipe.title}" for recipe in recipes))
        return None
    started = time.monotonic()
    if parsed.describe:
        return describe(parsed.folder, parsed.folder.parent / "reports", parsed.title, started)
    rate = parsed.sampling_rate if parsed.codec in ("flac", "opus") else None
    sound = SoundSettings(parsed.codec, rate, parsed.opus_kbps, max_seconds=parsed.max_seconds)
    shard_bytes = parsed.shard_megabytes * 1_000_000

    # ---------------------------------------------------------------------------- each source, to shards of its own
    # A folder that is not laid out as expected is said before the first one is prepared.
    sources = [(name, get_recipe(recipe, name=name).records(folder)) for recipe, name, folder in parsed.source]
    prepared = []
    for name, records in sources:
        prepared.append(parsed.folder / "sources" / name)
        settings = PrepareSettings(sound, "parquet", shard_bytes, parsed.part_records)
        manifest = prepare(records, prepared[-1], settings, workers=parsed.workers, engine=parsed.engine)
        tell(started, name, summary(manifest, prepared[-1]))

    # -------------------------------------------------------------------------------------- compare, leaks, merge
    reports = parsed.folder / "reports"
    workers = parsed.workers or os.cpu_count() or 1
    clips = index_corpora(prepared, parsed.folder / "index", workers)
    tell(started, "index", f"{len(clips):,} clips fingerprinted")
    evaluation = {name: [path for other, path in parsed.evaluation if other == name] for name, _ in parsed.evaluation}
    leaks = find_leaks(clips, evaluation, reports, workers)
    tell(started, "leakage", f"{len(leaks):,} clips are in evaluation sets; see {reports / 'leakage.md'}")
    merged = merge_corpora(clips, reports, leaks=leaks, workers=workers)
    # The sound stays as it was prepared.
    settings = PrepareSettings(SoundSettings("keep", None), parsed.format, shard_bytes, part_records=1_000_000)
    corpus = parsed.folder / "corpus"
    tell(started, "corpus", summary(prepare(merged, corpus, settings, workers=parsed.workers), corpus))

    # ----------------------------------------------------------------------------------------- describe, publish
    describe(corpus, reports, parsed.title, started)
    if parsed.push:
        address = push_to_hub(corpus, parsed.push, only_redistributable=not parsed.all_licenses)
        tell(started, "published", address)
    return corpus


def describe(corpus: Path, reports: Path, title: str, started: float) -> Path:
    """Counts what is in a finished corpus, and writes its datasheet and card."""
    tell(started, "datasheet", str(write_datasheet(corpus, reports)))
    write_card(corpus, title)
    return corpus


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("folder", type=Path, nargs="?", help="where everything goes")
    add("--config", type=Path, metavar="YAML", help="the options below by name, such as source: {clotho: a/folder}")
    add("--skip-missing", action="store_true", help="do without sources and sets that have no folder, and say which")
    add("--source", action="append", default=[], type=named_source, metavar="RECIPE[:NAME]=FOLDER")
    add(
        "--evaluation", action="append", default=[], type=named_path, metavar="SET=FOLDER", help="clips not to train on"
    )
    add("--codec", choices=CODECS[:3], default="flac", help="how sound is kept; keep: as it came")
    add("--sampling-rate", type=int, default=16_000, help="Hz, for flac and opus")
    add("--opus-kbps", type=int, default=32)
    add("--max-seconds", type=float, help="leave out longer clips")
    add("--format", choices=sorted(FORMATS), default="parquet", help="of the corpus")
    add("--shard-megabytes", type=int, default=128)
    add("--part-records", type=int, default=2_000, help="clips that a process prepares at once")
    add("--workers", type=int, help="processes; default: all cores")
    add("--engine", choices=ENGINES, default="processes", help="ray: on the cluster that Ray finds")
    add("--title", help="of the card; default: the folder's name")
    add("--push", metavar="ORG/NAME", help="publish on the Hub")
    add(
        "--all-licenses",
        action="store_true",
        help="publish clips that may not be given away too (private repositories)",
    )
    add("--describe", action="store_true", help="the folder is a finished corpus: only write its datasheet and card")
    add("--list", nargs="?", const="", metavar="RECIPE", help="show the recipes, or how to get one source")
    parsed = parser.parse_args(arguments)
    if parsed.config:
        parser.set_defaults(**options(parser, parsed.config))
        parsed = parser.parse_args(arguments)
    if parsed.skip_missing:
        skip_missing(parsed)
    if parsed.list is None and (parsed.folder is None or not (parsed.source or parsed.describe)):
        parser.error("a folder and at least one --source are needed; --list shows the recipes")
    if parsed.folder:
        parsed.title = parsed.title or parsed.folder.absolute().name
    for name, path in parsed.evaluation:
        if not path.expanduser().exists():
            more = f"\n{RECIPES[name].how_to_get}" if name in RECIPES else ""
            parser.error(f"--evaluation {name}: there is no {str(path)!r}{more}")
    names = [name for _, name, _ in parsed.source]
    if len(set(names)) < len(names):
        parser.error(f"sources are called {names}; give each a name of its own, RECIPE:NAME=FOLDER")
    return parsed


def options(parser: argparse.ArgumentParser, path: Path) -> dict:
    """What a YAML file sets; what the command line says goes before it, or is added to it."""
    values = yaml.safe_load(path.read_text()) or {}
    known = {
        "source",
        "evaluation",
        *(name for name in vars(parser.parse_args([])) if name not in ("config", "folder")),
    }
    if unknown := sorted(set(values) - known):
        parser.error(f"{path}: unknown keys {unknown}; known keys are {sorted(known)}")
    for name, read in (("source", named_source), ("evaluation", named_path)):
        try:
            values[name] = [read(f"{key}={folder}") for key, folder in values.get(name, {}).items()]
        except argparse.ArgumentTypeError as problem:
            parser.error(f"{path}: {name}: {problem}")
    return values


def skip_missing(parsed: argparse.Namespace) -> None:
    """Takes sources and evaluation sets that have no folder off the list; prints which, and keeps that with the other
    reports."""
    lines = []
    for recipe, name, folder in parsed.source:
        if not folder.expanduser().exists():
            lines.append(f"source {name} is not in {str(folder)!r}. {RECIPES[recipe].how_to_get}")
    for name, folder in parsed.evaluation:
        if not folder.expanduser().exists():
            lines.append(f"evaluation set {name} is not in {str(folder)!r}; nothing is filtered for it")
    parsed.source = [source for source in parsed.source if source[2].expanduser().exists()]
    parsed.evaluation = [judge for judge in parsed.evaluation if judge[1].expanduser().exists()]
    print("\n".join([*lines, f"{len(parsed.source)} sources are here"]), flush=True)
    if parsed.folder and parsed.source:
        (parsed.folder / "reports").mkdir(parents=True, exist_ok=True)
        (parsed.folder / "reports" / "missing.txt").write_text("".join(f"{line}\n" for line in lines))


def named_source(text: str) -> tuple[str, str, Path]:
    """ "recipe:name=folder" in its parts; without a name it is the recipe's."""
    which, folder = named_path(text)
    recipe, _, name = which.partition(":")
    if recipe not in RECIPES:
        raise argparse.ArgumentTypeError(f"no recipe {recipe!r}; there are {list(RECIPES)}")
    return recipe, name or recipe, folder


def named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} must be name=path")
    return name, Path(path)


def tell(started: float, what: str, said: str) -> None:
    print(f"{time.monotonic() - started:7.1f} s  {what}: {said}", flush=True)


if __name__ == "__main__":
    main()
