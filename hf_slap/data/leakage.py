"""Clips of evaluation sets, found in corpora by what they are: by their recording's id and by their sound.

File names say nothing here. What an evaluation set contains is read from what the user has of it: its folder, a
prepared corpus, or a list of ids. A set that is not at hand is named in the report: nothing was filtered for it.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ..files import write_whole
from ..modeling.audio_slap import AudioError, load_waveform
from .corpora_index import CorporaIndex, map_jobs
from .fingerprint import LEAK_EVIDENCE, RATE, evidence, fingerprint, is_audible
from .recipes import RECIPES
from .record_corpus import is_corpus_folder
from .records import RecordError
from .shards import read_rows

MIN_SHARED_SECONDS = 1.0  # of sound shared with an evaluation clip, or half of the shorter clip where that is less
_SEARCHED_AT_ONCE = 128
_MOST_LISTED = 50
_SOURCE_ID = re.compile(r"[a-z0-9][a-z0-9_.-]*:\S+")
_WAVCAPS_LISTS = {"AudioSet": "youtube:", "FreeSound": "freesound:"}
_LEAKS = pa.schema(
    [
        *((name, pa.string()) for name in ("clip", "source", "source_id", "why", "set", "evaluation_clip")),
        *((name, pa.float64()) for name in ("evidence", "signature", "correlation", "offset", "shared_seconds")),
    ]
)


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """A set that models are judged by.

    Args:
        title: for people.
        pages: dataset ids on the Hub, and addresses.
        splits: of its recipe, that are judged by.
        recipe: reads its folder; None: a prepared corpus or a list of ids is needed.
    """

    title: str
    pages: tuple[str, ...]
    splits: tuple[str, ...] = ("test",)
    recipe: str | None = None


_HELD_OUT = ("validation", "test")


def _of_recipe(name: str, splits: tuple[str, ...] = ("test",)) -> EvaluationSet:
    return EvaluationSet(RECIPES[name].title, RECIPES[name].pages, splits, name)


EVALUATION_SETS: dict[str, EvaluationSet] = {
    "audiocaps": _of_recipe("audiocaps", _HELD_OUT),
    "clotho": _of_recipe("clotho", _HELD_OUT),
    "esc50": _of_recipe("esc50"),
    "urbansound8k": _of_recipe("urbansound8k"),
    "gtzan": _of_recipe("gtzan"),
    "fsd50k": _of_recipe("fsd50k"),
    "vggsound": _of_recipe("vggsound"),
    "musiccaps": _of_recipe("musiccaps"),
    "paraspeechcaps": _of_recipe("paraspeechcaps", _HELD_OUT),
    "audioset": _of_recipe("audioset"),
    "nsynth": _of_recipe("nsynth"),
    "magnatagatune": EvaluationSet(
        "MagnaTagATune, test part", ("https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",)
    ),
    "crema_d": EvaluationSet("CREMA-D", ("https://github.com/CheyneyComputerScience/CREMA-D",)),
    "ravdess": EvaluationSet("RAVDESS", ("https://zenodo.org/records/1188976",)),
    "speech_commands": EvaluationSet("Speech Commands v2, test part", ("google/speech_commands",)),
    "voxceleb": EvaluationSet("VoxCeleb 1 and 2, test parts", ("https://www.robots.ox.ac.uk/~vgg/data/voxceleb/",)),
    "beijing_opera": EvaluationSet("Beijing Opera percussion", ("https://compmusic.upf.edu/bo-perc-dataset",)),
    "mridangam": EvaluationSet("Mridangam strokes", ("https://compmusic.upf.edu/mridangam-stroke-dataset",)),
    "fsd2019kaggle": EvaluationSet("FSDKaggle2019, test part", ("https://zenodo.org/records/3612637",)),
    "dcase2017": EvaluationSet("DCASE 2017 task 4, evaluation part", ("https://dcase.community/challenge2017/",)),
    "tut2017": EvaluationSet("TUT Acoustic Scenes 2017, evaluation", ("https://zenodo.org/records/1040168",)),
    "vocalsound": EvaluationSet("VocalSound, test part", ("https://github.com/YuanGongND/vocalsound",)),
}


@dataclasses.dataclass
class _Entry:
    """A clip of an evaluation set."""

    clip: str
    source_id: str
    audio: dict | None


def find_leaks(
    corpora: CorporaIndex,
    evaluation: Mapping[str, str | os.PathLike | Sequence[str | os.PathLike]],
    report: str | os.PathLike,
    workers: int = 1,
) -> set[int]:
    """Clips of corpora that belong to evaluation sets.

    By id: another part of a recording counts too, since it is the same event, room and voice. By sound: a clip that
    shares `MIN_SHARED_SECONDS` with an evaluation clip, with evidence `LEAK_EVIDENCE`, whatever both are called.

    Args:
        corpora: made by `index_corpora`.
        evaluation: for a name, one path or several. A path is the folder that the set's recipe reads (ids come from
            its tables even where its sounds are missing), a prepared corpus of exactly the clips to judge by, or a list
            of ids: .txt (one a line), .csv or .parquet (column "source_id"), or the .json of WavCaps' black lists.
            Names that `EVALUATION_SETS` does not have are sets of your own.
        report: folder of leakage.parquet (a row for each find), leakage.json and leakage.md.
        workers: processes that search for sounds.
    Returns:
        Numbers of clips in `corpora`.
    Raises:
        FileNotFoundError, ValueError: a path that is not there or cannot be read; the message says what is accepted.
    """
    paths = {
        name: [given] if isinstance(given, str | os.PathLike) else list(given) for name, given in evaluation.items()
    }
    if nothing := [name for name, given in paths.items() if not given]:
        raise ValueError(f"evaluation set {nothing[0]!r} has an empty list of paths; leave it out, or name its folder")
    rows, facts, leaks = [], {}, set()
    ids = corpora.column("source_id")
    order = np.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    for name, given in paths.items():
        found: dict[str, set[int]] = {"id": set(), "sound": set()}
        by_id: dict[str, str] = {}
        jobs = ((corpora, sounds) for sounds in _read_sounds(name, given, by_id))
        heard, unread, by_sound = 0, 0, []
        for finds, searched, failed in map_jobs(_search_sounds, jobs, workers):
            heard, unread = heard + searched, unread + failed
            for clip, number, details in finds:
                found["sound"].add(number)
                by_sound.append(_row(corpora, number, "sound", name, clip, details))
        if not by_id:
            raise ValueError(f"evaluation set {name!r}: nothing to judge by in {list(map(str, given))}")
        for source_id, clip in by_id.items():
            first, last = (np.searchsorted(sorted_ids, source_id, side) for side in ("left", "right"))
            for number in map(int, order[first:last]):
                found["id"].add(number)
                rows.append(_row(corpora, number, "id", name, clip))
        rows += by_sound
        leaks |= found["id"] | found["sound"]
        facts[name] = {
            "paths": list(map(str, given)),
            "ids": len(by_id),
            "sounds": heard,
            "sounds that cannot be read": unread,
            "removed by id": len(found["id"]),
            "removed by sound": len(found["sound"]),
            "removed by sound alone": len(found["sound"] - found["id"]),
        }
    _write_report(Path(report), corpora, rows, facts, len(leaks))
    return leaks


def _read_sounds(
    name: str, paths: Sequence[str | os.PathLike], by_id: dict[str, str]
) -> Iterator[list[tuple[str, dict]]]:
    """(clip, audio) of an evaluation set, so many as are searched at once; its clips by source id go into `by_id`."""
    sounds = []
    for path in paths:
        for entry in _read_entries(name, Path(path).expanduser()):
            by_id[entry.source_id] = entry.clip
            if entry.audio is not None:
                sounds.append((entry.clip, entry.audio))
            if len(sounds) == _SEARCHED_AT_ONCE:
                yield sounds
                sounds = []
    if sounds:
        yield sounds


def _read_entries(name: str, path: Path) -> Iterator[_Entry]:
    declared = EVALUATION_SETS.get(name)
    recipe = RECIPES.get(declared.recipe) if declared and declared.recipe else None
    if not path.exists():
        where = f"\n{recipe.how_to_get}" if recipe else f"; see {', '.join(declared.pages)}" if declared else ""
        raise FileNotFoundError(f"evaluation set {name!r}: there is no {str(path)!r}{where}")
    if path.is_file() and not (recipe and not recipe.expected):
        yield from (_Entry(one, one, None) for one in _read_ids(name, path))
    elif is_corpus_folder(path):
        for row in read_rows(path, ["id", "source_id", "audio"]):
            yield _Entry(row["id"], row["source_id"], row["audio"])
    elif recipe:
        sounds = {}
        try:
            sounds = {
                record.id: record.audio
                for record in recipe.records(path)
                if not isinstance(record, RecordError) and record.split in declared.splits
            }
        except FileNotFoundError:
            pass  # its tables alone give the ids; without them the next line raises
        for row in recipe.rows(path):
            if row.split in declared.splits:
                clip = f"{recipe.name}/{row.key}"
                yield _Entry(clip, row.source_id or f"{recipe.name}:{row.key}", sounds.get(clip))
    else:
        raise ValueError(
            f"evaluation set {name!r}: {str(path)!r} is a folder, but no recipe reads that set; prepare it as a corpus "
            "(recipes folder, table, parquet, webdataset, package) and pass its folder, or pass a list of ids"
        )


def _read_ids(name: str, path: Path) -> list[str]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        lists = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(lists, dict) or not set(lists) & set(_WAVCAPS_LISTS):
            raise ValueError(f"evaluation set {name!r}: {str(path)!r} is no black list with {sorted(_WAVCAPS_LISTS)}")
        ids = [f"{prefix}{_bare(one)}" for key, prefix in _WAVCAPS_LISTS.items() for one in lists.get(key, [])]
    elif suffix in (".csv", ".parquet"):
        table = pyarrow.csv.read_csv(path) if suffix == ".csv" else pq.read_table(path)
        if "source_id" not in table.column_names:
            raise ValueError(
                f"evaluation set {name!r}: {str(path)!r} has columns {table.column_names} and no 'source_id'; for a "
                "table as its authors publish it, pass the folder in which its recipe expects it; for sounds of your "
                "own, prepare them as a corpus and pass its folder"
            )
        ids = table["source_id"].to_pylist()
    elif suffix == ".txt":
        lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
        ids = [line for line in lines if line]
    else:
        raise ValueError(f"evaluation set {name!r}: {str(path)!r}; accepted lists are .txt, .csv, .parquet and .json")
    if wrong := [one for one in ids if not isinstance(one, str) or not _SOURCE_ID.fullmatch(one)]:
        raise ValueError(f"evaluation set {name!r}: {str(path)!r} holds {wrong[0]!r}; expected '<origin>:<id>'")
    return ids


def _bare(name: str) -> str:
    """ "Yabc_def-123.wav" is abc_def-123: AudioSet's names have a Y before the 11 characters."""
    name = str(name).rsplit("/", 1)[-1].split(".")[0]
    return name[1:12] if len(name) >= 12 and name[0] == "Y" else name


def _search_sounds(corpora: CorporaIndex, sounds: list[tuple[str, dict]]) -> tuple[list[tuple], int, int]:
    """(evaluation clip, number, details) of each find, how many sounds were searched for, how many cannot be read."""
    finds, failed = [], 0
    for clip, audio in sounds:
        try:
            waveform = load_waveform(audio, RATE, name=clip)
        except AudioError:
            failed += 1
            continue
        one = fingerprint(waveform)
        if is_audible(one.frames):
            exact = (1.5, 1.0, 1.0, 0.0, one.seconds)
            finds += [(clip, number, exact) for number in corpora.prints.exact(one)]
        for match in corpora.prints.search(one):
            if corpora.prints.digests[match.clip] == one.digest:
                continue
            seconds = corpora.facts["duration"][match.clip].as_py()
            if match.overlap < min(MIN_SHARED_SECONDS, one.seconds / 2, seconds / 2):
                continue
            correlation = corpora.correlate(waveform, match)
            if (sure := evidence(match.signature, correlation)) >= LEAK_EVIDENCE:
                details = (sure, match.signature, correlation, match.offset, match.overlap)
                finds.append((clip, match.clip, details))
    return finds, len(sounds) - failed, failed


def _row(corpora: CorporaIndex, number: int, why: str, name: str, clip: str, details: Sequence[float] = ()) -> dict:
    fact = corpora.fact(number)
    row = {"clip": fact["id"], "source": fact["source"], "source_id": fact["source_id"], "why": why}
    row |= {"set": name, "evaluation_clip": clip}
    return row | dict(zip(_LEAKS.names[6:], details or [None] * 5, strict=True))


def _write_report(report: Path, corpora: CorporaIndex, rows: list[dict], facts: dict[str, dict], leaks: int) -> None:
    report.mkdir(parents=True, exist_ok=True)
    missing = [name for name in EVALUATION_SETS if name not in facts]
    write_whole(report / "leakage.parquet", lambda file: pq.write_table(pa.Table.from_pylist(rows, _LEAKS), file))
    summary = {"clips": len(corpora), "removed": leaks, "sets": facts, "not filtered against": missing}
    write_whole(report / "leakage.json", lambda file: file.write(json.dumps(summary, indent=1).encode()))
    lines = ["## Evaluation sets", "", f"{leaks:,} of {len(corpora):,} clips were left out, with their copies.", ""]
    if facts:
        columns = list(next(iter(facts.values())))[1:]
        lines += [f"| set | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(f'{one[key]:,}' for key in columns)} |" for name, one in facts.items()]
        lines.append("")
    for name in missing:
        lines.append(f"- not filtered against {EVALUATION_SETS[name].title}: list not found")
    for name, one in facts.items():
        if not one["sounds"]:
            lines.append(f"- {name}: by id only, its sounds were not at hand")
    if rows:
        lines += ["", "| clip left out | why | set | evaluation clip | evidence |", "|---|---|---|---|---|"]
        for row in rows[:_MOST_LISTED]:
            sure = "" if row["evidence"] is None else f"{row['evidence']:.2f}"
            lines.append(f"| {row['clip']} | {row['why']} | {row['set']} | {row['evaluation_clip']} | {sure} |")
        if len(rows) > _MOST_LISTED:
            lines.append(f"\nThe other {len(rows) - _MOST_LISTED:,} are in leakage.parquet.")
    write_whole(report / "leakage.md", lambda file: file.write(("\n".join(lines) + "\n").encode()))
