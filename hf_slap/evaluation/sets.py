"""The sets that models are judged by: what they are, how to get them, and their clips."""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from .tasks import Task

_TABLE = "a parquet file (audio, {columns}) or a folder of sound files with a metadata.csv (file_name, {columns})"
_LABEL_COLUMNS = ("labels", "label", "category", "classID", "class", "genre")
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
        columns: what a table of your own must have.
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
    "own": TestSet("clips of your own", columns="labels or captions"),
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
    "fsd50k": _published("FSD50K", "fsd50k", columns="labels (a list), split"),
    "vggsound": _published("VGGSound", "vggsound", columns="label, split"),
    "audioset": _published("AudioSet", "audioset", columns="labels (a list), split"),
    "nsynth": _published("NSynth", "nsynth", columns="labels (family, source, qualities), split; ids are NSynth's"),
    "crema_d": TestSet("CREMA-D", "https://github.com/CheyneyComputerScience/CREMA-D", columns="label, split"),
    "ravdess": TestSet("RAVDESS", "https://zenodo.org/records/1188976"),
    "speech_commands": TestSet(
        "Speech Commands v2", "https://huggingface.co/datasets/google/speech_commands", columns="label, split"
    ),
    "dcase2017": TestSet("DCASE 2017 task 4", "https://dcase.community/challenge2017/", columns="labels (a list)"),
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
        "MagnaTagATune", "https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset", columns="labels (a list), split"
    ),
    "desed": TestSet(
        "DESED, domestic sound events",
        "https://project.inria.fr/desed/",
        columns="labels (a list), events (a list of {label, start, end}, seconds), split",
    ),
}


@dataclasses.dataclass
class Clips:
    """Clips of a set, opened and not decoded.

    Args:
        data: columns "id", "audio" ({"bytes", "path"}), "key" (hash of the sound's content), and "labels" (list),
            "captions" (list), "fold" or "events" where the set has them.
        place: the folder's or file's name, or the Hub id; never a path of this machine.
        notes: what is missing.
    """

    data: "Dataset"
    place: str
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Which clips these are, in which order."""
        return hashlib.sha256("\n".join(self.data["key"]).encode()).hexdigest()[:16]


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
        NotMeasured: it is not here; the message says how to get it.
        ValueError: it is here and cannot be read, or has no such split, labels or clips.
    """
    if name not in SETS:
        raise ValueError(f"task {task.name!r}: no set {name!r}; there are {sorted(SETS)}")
    test_set = SETS[name]
    wants = "captions" if task.kind in ("retrieval", "captioning") else "labels"
    notes: tuple[str, ...] = ()
    if name.startswith("shipped_"):
        rows, place = _shipped(name, data), Path(test_set.page).name
    elif name in data:
        rows, notes = _own(test_set, data[name], split, wants)
        is_path = isinstance(data[name], str | os.PathLike)
        place = Path(data[name]).name if is_path else f"an open {type(data[name]).__name__}"
    elif download and test_set.hub:
        rows, place = _table(test_set, test_set.hub, test_set.hub_splits.get(split, split), wants), test_set.hub
    else:
        raise NotMeasured(how_to_get(name))
    rows = _chosen(rows, task, wants)
    if not len(rows):
        raise ValueError(f"task {task.name!r}: not one clip of {name!r} (from {place}) takes part in split {split!r}")
    keys = [content_key(audio, task.max_seconds) for audio in rows["audio"]]
    return Clips(rows.add_column("key", keys), place, notes)


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


def _own(test_set: TestSet, place: Any, split: str, wants: str) -> tuple["Dataset", tuple[str, ...]]:
    from datasets import Dataset

    if test_set.recipe and isinstance(place, str | os.PathLike) and os.path.isdir(place):
        from ..data.recipes import RECIPES

        recipe = RECIPES[test_set.recipe]
        if all(any(any(Path(place).glob(part)) for part in parts.split("|")) for parts in recipe.expected):
            return _of_recipe(recipe, place, split)
    corpus = _table(test_set, place, None if isinstance(place, Dataset) else split, wants)
    if "split" in corpus.column_names and split in set(corpus["split"]):
        corpus = corpus.select([row for row, its in enumerate(corpus["split"]) if its == split])
    return corpus, ()


def _of_recipe(recipe: Any, folder: str | os.PathLike, split: str) -> tuple["Dataset", tuple[str, ...]]:
    from datasets import Audio, Dataset

    from ..data.records import RecordError

    records = list(recipe.records(folder))
    broken = [record for record in records if isinstance(record, RecordError)]
    rows = [record for record in records if not isinstance(record, RecordError) and record.split == split]
    notes = (f"{len(broken)} rows of the set (of any split) are no clips: {broken[0]}",) if broken else ()
    columns = {
        "id": [record.id for record in rows],
        "audio": [record.audio for record in rows],
        "captions": [[caption.text for caption in record.captions] for record in rows],
        "labels": [list(record.labels) for record in rows],
    }
    return Dataset.from_dict(columns).cast_column("audio", Audio(decode=False)), notes


def _table(test_set: TestSet, place: Any, split: str | None, wants: str) -> "Dataset":
    from ..data import load_corpus

    named = getattr(test_set, wants)
    usual = _LABEL_COLUMNS if wants == "labels" else (None,)  # `load_corpus` knows those of captions
    candidates = dict.fromkeys([named, *usual] if named else usual)
    problem: Exception | None = None
    for column in candidates:
        for chosen in dict.fromkeys((split, None)):
            try:
                corpus = load_corpus(place, chosen, caption_column=column)
            except ValueError as error:
                problem = problem or error
                continue
            return corpus if wants == "captions" else corpus.rename_column("captions", "labels")
    raise ValueError(f"{problem}; expected are the columns {test_set.columns}")


def _chosen(rows: "Dataset", task: "Task", wants: str) -> "Dataset":
    """The clips and labels that take part, and their folds."""
    names = rows.column_names
    ids = list(rows["id"])
    kept = range(len(rows))
    if task.ids is not None:
        kept = [row for row, clip in enumerate(ids) if re.split(r"[/\\]", clip)[-1].removesuffix(".wav") in task.ids]
    if wants == "labels" and (task.label_pattern or task.skip_labels or task.only is not None):
        labels = rows["labels"] if "labels" in names else [[]] * len(rows)
        labels = [list(clip)[task.skip_labels :] for clip in labels]
        if task.label_pattern:
            labels = [re.findall(task.label_pattern, clip) for clip in ids]
        if task.only is not None:
            labels = [[label for label in clip if label in task.only] for clip in labels]
        rows = (rows.remove_columns("labels") if "labels" in names else rows).add_column("labels", labels)
        kept = [row for row in kept if labels[row]]
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
    columns = [c for c in ("id", "audio", "labels", "captions", "fold", "events") if c in rows.column_names]
    return rows.select(kept).select_columns(columns)
