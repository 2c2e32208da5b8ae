"""The sets that models are judged by: what they are, how to get them, and their clips."""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from .tasks import Task

_TABLE = "a parquet file (audio, {columns}) or a folder of sound files with a metadata.csv (file_name, {columns})"
_LABEL_LIST = "labels (a list, or text with ; between them)"
_LABEL_COLUMNS = ("labels", "label", "category", "classID", "class", "genre")
_JUDGED_BY = ("labels", "captions", "fold", "events")
_SCENES_OF = {"shipped_scenes": "shipped_heldout", "shipped_train_scenes": "shipped_train"}


class NotMeasured(Exception):
    """A task that cannot be measured here, and what to do about it."""


@dataclasses.dataclass(frozen=True)
class TestSet:
    """A set of clips.

    Args:
        title: for people.
        page: where it can be had.
        hub: its dataset id, where `load_corpus` can read it from the Hub.
        hub_splits: {split of a task: split on the Hub}, where they differ.
        recipe: the recipe that reads its folder as published.
        columns: what a table of your own must have; where that is `_LABEL_LIST`, text is split.
        labels, captions: the column of a table or of the Hub's dataset; None: the usual names are tried.
    """

    title: str
    page: str = ""
    hub: str | None = None
    hub_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    recipe: str | None = None
    columns: str = "label"
    labels: str | None = None
    captions: str | None = None


def _published(title: str, recipe: str, **more: Any) -> TestSet:
    return TestSet(title, recipe=recipe, **more)


SETS: dict[str, TestSet] = {
    "shipped_heldout": TestSet("held-out clips of the repository", "examples/data/heldout.parquet", labels="label"),
    "shipped_train": TestSet("training clips of the repository", "examples/data/train.parquet", labels="label"),
    "shipped_scenes": TestSet("scenes laid out from held-out clips of the repository", "examples/data/heldout.parquet"),
    "shipped_train_scenes": TestSet("scenes laid out from training clips", "examples/data/train.parquet"),
    "own": TestSet("clips of your own", columns=f"{_LABEL_LIST} or captions"),
    "audiocaps": _published("AudioCaps", "audiocaps", columns="captions, split"),
    "clotho": _published("Clotho 2.1", "clotho", columns="captions, split"),
    "musiccaps": _published("MusicCaps", "musiccaps", columns="captions, split"),
    "paraspeechcaps": _published("ParaSpeechCaps", "paraspeechcaps", columns="captions, split"),
    "esc50": _published(
        "ESC-50", "esc50", hub="ashraq/esc50", hub_splits={"test": "train"}, columns="category, fold", labels="category"
    ),
    "urbansound8k": _published("UrbanSound8K", "urbansound8k", columns="class, fold", labels="class"),
    "gtzan": _published(
        "GTZAN", "gtzan", hub="marsyas/gtzan", hub_splits={"test": "train"}, columns="genre", labels="genre"
    ),
    "fsd50k": _published("FSD50K", "fsd50k", columns=f"{_LABEL_LIST}, split"),
    "vggsound": _published("VGGSound", "vggsound", columns="label, split"),
    "audioset": _published("AudioSet", "audioset", columns=f"{_LABEL_LIST}, split"),
    "nsynth": _published(
        "NSynth", "nsynth", columns=f"{_LABEL_LIST}: family, source, qualities; split; ids are NSynth's"
    ),
    "crema_d": TestSet("CREMA-D", "https://github.com/CheyneyComputerScience/CREMA-D", columns="label, split"),
    "ravdess": TestSet("RAVDESS", "https://zenodo.org/records/1188976"),
    "speech_commands": TestSet(
        "Speech Commands v2", "https://huggingface.co/datasets/google/speech_commands", columns="label, split"
    ),
    "dcase2017": TestSet("DCASE 2017 task 4", "https://dcase.community/challenge2017/", columns=_LABEL_LIST),
    "tut2017": TestSet("TUT Acoustic Scenes 2017, evaluation", "https://zenodo.org/records/1040168"),
    "vocalsound": TestSet("VocalSound", "https://github.com/YuanGongND/vocalsound", columns="label, split"),
    "sesa": TestSet("Sound Events for Surveillance Applications", "https://zenodo.org/records/3519845"),
    "gtzan_music_speech": TestSet("GTZAN music and speech", "http://marsyas.info/downloads/datasets.html"),
    "beijing_opera": TestSet("Beijing Opera percussion", "https://compmusic.upf.edu/bo-perc-dataset"),
    "libricount": TestSet("LibriCount10", "https://zenodo.org/records/1216072"),
    "voxceleb2": TestSet(
        "VoxCeleb2, speakers", "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/", columns="label, split"
    ),
    "magnatagatune": TestSet(
        "MagnaTagATune", "https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset", columns=f"{_LABEL_LIST}, split"
    ),
    "desed": TestSet(
        "DESED, domestic sound events",
        "https://project.inria.fr/desed/",
        columns=f"{_LABEL_LIST}, events (a list of {{label, start, end}}, seconds), split",
    ),
}


@dataclasses.dataclass
class Clips:
    """Clips of a set, opened and not decoded.

    Args:
        data: columns "id", "audio" ({"bytes", "path"}), "key" (hash of the sound's content), and "labels" (list),
            "captions" (list), "fold" or "events" where the set has them.
        place: the folder's or file's name, or the Hub id; never a path of this machine.
        notes: what is missing, and what a reader of the score must know.
    """

    data: "Dataset"
    place: str
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Which clips these are, in which order, and what they are judged by."""
        columns = [column for column in ("key", *_JUDGED_BY) if column in self.data.column_names]
        content = json.dumps({column: list(self.data[column]) for column in columns})
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def how_to_get(name: str) -> str:
    """A line or several for a report: where a set is and how to place it."""
    from ..data.recipes import RECIPES

    test_set = SETS[name]
    table = f"or {_TABLE.format(columns=test_set.columns)}"
    hub = f"; the Hub has {test_set.hub}, taken with download=True (--download)" if test_set.hub else ""
    if test_set.recipe:
        recipe = RECIPES[test_set.recipe]
        text = f"{', '.join(recipe.pages)}; a folder with {recipe.placement}; {table}"
    elif name == "own":
        text = table.removeprefix("or ")
    elif name.startswith("shipped_"):
        text = f"{test_set.page} in a checkout of the project"
    else:
        text = f"{test_set.page}; {table.removeprefix('or ')}"
    return f"{test_set.title}: {text}{hub}. Then pass data={{{name!r}: <that path>}} (--data {name}=<that path>)"


def open_clips(name: str, split: str, task: "Task", data: Mapping[str, Any], download: bool) -> Clips:
    """The clips of a set.

    Args:
        name: a key of `SETS`.
        split: one of its splits.
        task: says which clips and labels take part.
        data: {name: path or open dataset} of what the user has.
        download: whether the Hub may be asked.
    Raises:
        NotMeasured: it is not here, or has no such split, labels, captions or events; the message says what to do.
        ValueError: it is here and cannot be read, or has no such clips.
    """
    if name not in SETS:
        raise ValueError(f"task {task.name!r}: no set {name!r}; there are {sorted(SETS)}")
    test_set = SETS[name]
    wants = "captions" if task.kind in ("retrieval", "captioning") else "labels"
    notes: list[str] = []
    if name.startswith("shipped_"):
        rows, place = _shipped(name, data), Path(test_set.page).name
    elif name in data:
        place = _place(data[name])
        rows = _own(test_set, data[name], split, wants, notes)
    elif download and test_set.hub:
        place, hub_split = test_set.hub, test_set.hub_splits.get(split, split)
        rows = _table(test_set, place, hub_split, wants, notes)
    else:
        raise NotMeasured(how_to_get(name))
    rows = _chosen(rows, task, wants, notes)
    if not len(rows):
        raise ValueError(f"task {task.name!r}: not one clip of {name!r} (from {place}) takes part in split {split!r}")
    events = list(rows["events"]) if "events" in rows.column_names else [None]
    if task.kind in ("events", "localisation") and None in events:
        raise NotMeasured(
            f"clips in {place} have no events (where nothing is heard, an empty list); expected are the columns "
            f"{test_set.columns}"
        )
    if task.kind in ("zero_shot", "probe") and not task.multi_label:
        several = [clip for clip, labels in zip(rows["id"], rows["labels"], strict=True) if len(set(labels)) != 1]
        if several:
            raise NotMeasured(
                f"{len(several)} of {len(rows)} clips in {place} do not have exactly one label, the first is "
                f"{several[0]!r}; {task.metric} takes one, mAP with multi_label takes any number"
            )
    keys = [content_key(audio, task.max_seconds) for audio in rows["audio"]]
    return Clips(rows.add_column("key", keys), place, tuple(notes))


def check_apart(task: "Task", test: Clips, train: Clips) -> None:
    """Refuses clips to learn from that are among those to judge by.

    Raises:
        NotMeasured: some are; says how many, and what to do.
    """
    learned = set(train.data["key"])
    shared = [clip for clip, key in zip(test.data["id"], test.data["key"], strict=True) if key in learned]
    if shared:
        why = "".join(f" ({note})" for note in test.notes)
        raise NotMeasured(
            f"{len(shared)} of {len(test.data)} clips to judge by, the first is {shared[0]!r}, are also among those to "
            f"learn from{why}; give each clip of {test.place} to one of {task.split!r} and {task.train[1]!r} in a "
            "column 'split'"
        )


def _place(place: Any) -> str:
    return Path(place).name if isinstance(place, str | os.PathLike) else f"an open {type(place).__name__}"


def content_key(audio: dict, max_seconds: float | None = None) -> str:
    """A name for the content of a sound file, and for the part of it that is heard."""
    digest = hashlib.sha256()
    if audio["bytes"] is not None:
        digest.update(audio["bytes"])
    elif os.path.isfile(audio["path"]):
        with open(audio["path"], "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    else:  # part of a larger file, or an address: named by it
        whole = audio["path"].partition("#")[0]
        changed = os.stat(whole).st_mtime_ns if os.path.isfile(whole) else 0
        digest.update(f"{audio['path']} {changed}".encode())
    return digest.hexdigest()[:32] + ("" if max_seconds is None else f"-{max_seconds:g}")


def _shipped(name: str, data: Mapping[str, Any]) -> "Dataset":
    from ..data import load_corpus

    path = Path(data.get(_SCENES_OF.get(name, name), Path(__file__).parents[2] / SETS[name].page))
    if not path.exists():
        raise NotMeasured(how_to_get(name))
    if name in _SCENES_OF:
        return _scenes(path, path.stat().st_mtime_ns)
    corpus = load_corpus(path)
    labels = [[label] for label in corpus["label"]]
    return corpus.select_columns(["id", "audio", "captions"]).add_column("labels", labels)


@functools.lru_cache(maxsize=4)
def _scenes(path: Path, changed: int) -> "Dataset":
    from ..data import load_corpus
    from .scenes import lay_out_scenes

    return lay_out_scenes(load_corpus(path))


def _own(test_set: TestSet, place: Any, split: str, wants: str, notes: list[str]) -> "Dataset":
    if test_set.recipe and isinstance(place, str | os.PathLike) and os.path.isdir(place):
        from ..data.recipes import RECIPES

        recipe = RECIPES[test_set.recipe]
        if all(any(any(Path(place).glob(part)) for part in parts.split("|")) for parts in recipe.expected):
            return _of_recipe(recipe, place, split, notes)
    corpus = _table(test_set, place, split, wants, notes)
    if "split" in corpus.column_names:
        splits = corpus["split"][:]
        if split in splits:
            return corpus.select([row for row, its in enumerate(splits) if its == split])
        if "split" in test_set.columns:
            raise NotMeasured(
                f"no split {split!r} in {_place(place)}: its column 'split' has {sorted(set(map(str, splits)))}; "
                f"call the clips that are meant {split!r} there"
            )
        if len(set(splits)) > 1:
            notes.append(f"the column 'split' has no {split!r}: all clips")
    elif "split" in test_set.columns and str(corpus.split) != split:
        notes.append("no split column: all clips")
    return corpus


def _of_recipe(recipe: Any, folder: str | os.PathLike, split: str, notes: list[str]) -> "Dataset":
    from datasets import Audio, Dataset

    from ..data.records import RecordError

    records = list(recipe.records(folder))
    broken = [record for record in records if isinstance(record, RecordError)]
    rows = [record for record in records if not isinstance(record, RecordError) and record.split == split]
    if broken:
        notes.append(f"{len(broken)} rows of the set (of any split) are no clips: {broken[0]}")
    columns = {
        "id": [record.id for record in rows],
        "audio": [record.audio for record in rows],
        "captions": [[caption.text for caption in record.captions] for record in rows],
        "labels": [list(record.labels) for record in rows],
    }
    return Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))


def _table(test_set: TestSet, place: Any, split: str, wants: str, notes: list[str]) -> "Dataset":
    from datasets import Value

    from ..data.corpus import CAPTION_COLUMNS, load_corpus, open_source
    from ..data.record_corpus import unpack_webdataset

    try:
        opened = open_source(place, split)
    except ValueError as problem:
        try:
            opened = open_source(place, None)  # its only split, whatever its name
        except ValueError:
            raise problem from None
    opened = unpack_webdataset(opened)
    named = getattr(test_set, wants)
    usual = _LABEL_COLUMNS if wants == "labels" else CAPTION_COLUMNS
    column = next((column for column in (named, *usual) if column in opened.column_names), None)
    if column is None:
        raise NotMeasured(
            f"no {wants} in {_place(place)}: its columns are {opened.column_names}; expected are the columns "
            f"{test_set.columns}"
        )
    is_text = isinstance(opened.features[column], Value)
    try:
        chosen = None if column == "captions" else column  # None: captions of records too
        corpus = load_corpus(opened, caption_column=chosen, allow_empty=wants == "labels")
    except ValueError as problem:
        raise ValueError(f"{_place(place)}: {problem}") from problem
    if wants == "captions":
        return corpus
    if not is_text or _LABEL_LIST not in test_set.columns:
        return corpus.rename_column("captions", "labels")
    texts = [text for clip in corpus["captions"] for text in clip]
    if not any(";" in text for text in texts) and (commas := [text for text in texts if "," in text]):
        notes.append(f"no ';' between labels: {commas[0]!r} is one label")
    labels = [
        [part.strip() for text in clip for part in text.split(";") if part.strip()] for clip in corpus["captions"]
    ]
    return corpus.remove_columns("captions").add_column("labels", labels)


def _chosen(rows: "Dataset", task: "Task", wants: str, notes: list[str]) -> "Dataset":
    """The clips and labels that take part, and their folds."""
    names = rows.column_names
    ids = list(rows["id"])
    kept = range(len(rows))
    if task.ids is not None:
        paths = [audio["path"] or "" for audio in rows["audio"]]
        kept = [row for row, its in enumerate(zip(ids, paths, strict=True)) if task.ids & _stems(its)]
    if wants == "labels" and (task.label_pattern or task.skip_labels or task.only is not None):
        labels = rows["labels"] if "labels" in names else [[]] * len(rows)
        labels = [list(clip)[task.skip_labels :] for clip in labels]
        if task.label_pattern:
            labels = [re.findall(task.label_pattern, clip) for clip in ids]
        if task.only is not None:
            labels = [[label for label in clip if label in task.only] for clip in labels]
        rows = (rows.remove_columns("labels") if "labels" in names else rows).add_column("labels", labels)
        labelled = [row for row in kept if labels[row]]
        if without := len(kept) - len(labelled):
            notes.append(
                f"{without:,} of {len(kept):,} clips are left out: they have none of the labels that are meant"
            )
        kept = labelled
    if task.folds is not None:
        if task.folds in names:
            folds = list(map(str, rows[task.folds]))
        else:
            paths = [audio["path"] or clip for audio, clip in zip(rows["audio"], ids, strict=True)]
            found = [re.search(task.fold_pattern or "$^", path) for path in paths]
            if not all(found):
                where = paths[found.index(None)]
                raise ValueError(f"task {task.name!r}: no column {task.folds!r}, and no fold in {where!r}")
            folds = [match[1] for match in found]
        rows = (rows.remove_columns("fold") if "fold" in names else rows).add_column("fold", folds)
    columns = [column for column in ("id", "audio", *_JUDGED_BY) if column in rows.column_names]
    return rows.select(kept).select_columns(columns)


def _stems(paths: Iterable[str]) -> set[str]:
    """Names of files, with their suffix and without."""
    names = {re.split(r"[/\\]", path)[-1] for path in paths}
    return names | {name.rpartition(".")[0] for name in names}
