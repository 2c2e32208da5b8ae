"""Runs tasks: `evaluate(model, suite="quick")`. One function per kind of task returns its scores as a dictionary."""

import importlib.metadata
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .tasks import Task

if TYPE_CHECKING:
    from .listeners import Heard, Listener
    from .results import Results
    from .sets import Clips

logger = logging.getLogger(__name__)

_LIBRARIES = ("hf_slap", "torch", "transformers", "numpy", "datasets", "soundfile", "soxr")
_MORE_LIBRARIES = {"captioning": ("pycocoevalcap",), "mteb": ("mteb",)}


def evaluate(
    model: Any,
    processor: Any = None,
    *,
    suite: str | None = None,
    tasks: Sequence[str | Task] | None = None,
    data: Mapping[str, Any] | str | os.PathLike | None = None,
    output: str | os.PathLike = "evaluation",
    download: bool = False,
    again: bool = False,
    name: str | None = None,
    revision: str | None = None,
    device: Any = None,
    progress: bool = True,
) -> "Results":
    """Judges a model by the tasks of a suite, and keeps the results in one JSON file.

    A task whose clips are not here is reported as not measured, with how to get them; if it was measured before, that
    score is kept, and its notes say so. Tasks that were measured before, with this model on these clips, are not run
    again; a run that was interrupted goes on where it stopped. Where measures were missing (no Java, no download) they
    are tried again each time: the captions are kept, only their measures are computed anew. A task that breaks is
    logged with its traceback and reported as failed, in the place of an older score, and the others are run.

    Args:
        model: a folder or Hub id of SLAP, of transformers' CLAP or of sentence-transformers; or a model with
            `get_audio_features` and `get_text_features`, with its processor; or a `SentenceTransformer`. Of SLAP also a
            captioner, a classifier or an audio encoder: tasks that need what it lacks are not measured.
        processor: beside a model that is not a folder.
        suite: "quick" (the clips of the repository; the default), "slap", "clap2023", "captionstew", "maeb" or
            "own" (your clips).
        tasks: names of its tasks, or tasks of your own; default: all of the suite.
        data: {set: path}, of sets that you have (the report of a missing set says which and how); a path is a folder as
            published, a prepared corpus, a parquet file, or a folder of sounds with a metadata.csv; an open
            `datasets.Dataset` too. Or one folder, in which every set has a folder or parquet file of its name.
        output: folder of `<model>.json`, of pictures/ and of cache/ (embeddings by content and model: may be deleted).
        download: take sets from the Hub where they are there.
        again: measure again what was measured before.
        name: of the model in the results; default: its folder's or its Hub id.
        revision: of the model.
        device: default: where the model is; for a folder CUDA if there is any, else the CPU.
        progress: show what is being done.
    Returns:
        Results: `scores` by task; `path` of the file.
    Raises:
        ValueError: an unknown suite, task or set, or a model that is none of these.
    """
    from .listeners import open_listener
    from .results import Results
    from .sets import NotMeasured

    chosen = choose_tasks(suite, tasks)
    places = places_of(data)
    output = Path(output)
    listener = open_listener(
        model, processor, name=name, revision=revision, cache=output / "cache", device=device, progress=progress
    )
    results = Results(output / f"{_file_name(listener.name)}.json", listener.describe())
    output.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(chosen, start=1):
        started, head = time.monotonic(), f"[{number}/{len(chosen)}] {task.name}"
        before = None if again else results.measured(task.name, task.declaration())
        clips, parts, same = {}, {}, False
        try:
            clips = open_task(task, places, download)
            digest, parts = _digest(clips), listener.made_of(task.kind)
            same = before and before["clips_digest"] == digest and parts.items() <= before["model"].items()
            if same and not before.get("missing"):
                _say(progress, f"{head}: measured before")
                results.add(_kept(before))
                continue
            _say(progress, f"{head}: once more, for {', '.join(before['missing'])}" if same else head)
            pictures = output / "pictures" / _file_name(listener.name)
            score = {"status": "measured", **_MEASURE[task.kind](task, listener, clips, pictures)}
            if same and score["status"] == "measured" and not set(score["missing"]) < set(before["missing"]):
                results.add(_kept(before))  # measured elsewhere perhaps, with more than there is here
                continue
        except (NotMeasured, ImportError) as reason:
            _say(progress, f"{head}: not measured")
            if before and (same or not clips):
                results.add(_kept(before, str(reason)))
                continue
            score, clips, digest = {"status": "not measured", "reason": str(reason)}, {}, None
        except Exception as error:  # one set that is wrong does not cost the others
            logger.exception("task %s failed", task.name)
            score, clips, digest = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}, {}, None
        results.add(_record(task, listener, clips, digest, parts, score, time.monotonic() - started))
    return results


def choose_tasks(suite: str | None, tasks: Sequence[str | Task] | None) -> list[Task]:
    """The tasks that are meant; names are looked up in the suite, or in all of them where none is given."""
    from .suites import SUITES

    if suite is not None and suite not in SUITES:
        raise ValueError(f"no suite {suite!r}; there are {list(SUITES)}")
    if tasks is None:
        return list(SUITES[suite or "quick"])
    known = {task.name: task for table in ([SUITES[suite]] if suite else SUITES.values()) for task in table}
    if unknown := [task for task in tasks if not isinstance(task, Task) and task not in known]:
        raise ValueError(f"no tasks {unknown}; {'suite ' + repr(suite) if suite else 'the suites'} have {list(known)}")
    chosen = [task if isinstance(task, Task) else known[task] for task in tasks]
    if len({task.name for task in chosen}) < len(chosen):
        raise ValueError(f"tasks {[task.name for task in chosen]} have a name twice; give each its own")
    return chosen


# ------------------------------------------------------------------------------------------------ kinds of tasks


def _zero_shot(task: Task, listener: "Listener", clips: dict[str, "Clips"], pictures: Path) -> dict:
    from .tagging import micro_f1, tagging_scores
    from .zero_shot import zero_shot_scores

    heard = _some(listener.embed_clips(clips["test"], task.max_seconds))
    names, targets = targets_of(task, clips["test"], heard.rows)
    similarity = np.stack(list(heard.values)) @ label_vectors(task, listener.embed_texts, names).T
    facts = {**_facts(heard), "classes": len(names)}
    if not task.multi_label:
        result = zero_shot_scores(similarity, targets.argmax(1), names)
        return {**facts, **_single(task, result, names, pictures)}
    result = tagging_scores(similarity, targets, names)
    f1 = micro_f1(similarity, targets)
    scores = {
        "value": result.mean_average_precision, "low": result.low, "high": result.high, "chance": result.chance,
        "more": {"F1": f1}, "per_class": result.per_class,
    }  # fmt: skip
    if task.metric == "F1":
        from .bootstrap import interval

        low, high = interval(lambda rows: micro_f1(similarity[rows], targets[rows]), len(targets), resamples=1000)
        chance = 2 * targets.mean(1).sum() / (len(targets) + targets.sum())
        scores |= {"value": f1, "low": low, "high": high, "chance": float(chance), "more": {"mAP": scores["value"]}}
    return {**facts, **scores}


def _retrieval(task: Task, listener: "Listener", clips: dict[str, "Clips"], pictures: Path) -> dict:
    from .retrieval import chance_recall, relevance, retrieval_scores

    heard = _some(listener.embed_clips(clips["test"], task.max_seconds))
    texts, relevant = relevance([clips["test"].data[int(row)]["captions"] for row in heard.rows])
    both = retrieval_scores(np.stack(list(heard.values)), listener.embed_texts(texts), relevant)
    way = both[task.way or "text_to_audio"]
    queries = relevant if task.way == "audio_to_text" else relevant.T
    kind, k = task.metric.split("@")
    low, high = way[f"{task.metric} interval"]
    return {
        **_facts(heard),
        "value": way[task.metric],
        "low": low,
        "high": high,
        "chance": chance_recall(queries, int(k)) if kind == "recall" else None,
        "more": {
            f"{name.replace('_', ' ')}, {measure}": value
            for name, scores in both.items()
            for measure, value in scores.items()
            if not measure.endswith("interval")
        },
        "texts": len(texts),
    }


def _captioning(task: Task, listener: "Listener", clips: dict[str, "Clips"], pictures: Path) -> dict:
    from .captioning import MEASURES, caption_scores
    from .sets import NotMeasured
    from .word_overlap import word_overlap

    written, heard = listener.captions(clips["test"], task.max_seconds)
    references = [clips["test"].data[int(row)]["captions"] for row in _some(heard).rows]
    result = caption_scores(written, references, task.measures or MEASURES)
    if task.metric not in result.values:
        if not result.values:
            raise NotMeasured(f"{task.metric} {result.missing[task.metric]}")
        headline = next(iter(result.values))
    else:
        headline = task.metric
    low, high = result.intervals.get(headline, (None, None))
    more = {name: value for name, value in result.values.items() if name != headline}
    return {
        **_facts(heard),
        "metric": headline,
        "value": result.values[headline],
        "low": low,
        "high": high,
        "chance": None,
        "more": {**more, "different captions": word_overlap(written, references)["different captions"]},
        "missing": result.missing,
        "tokenizer": result.tokenizer,
    }


def _probe(task: Task, listener: "Listener", clips: dict[str, "Clips"], pictures: Path) -> dict:
    from .probes import attention_probe, few_shot, linear_probe, nearest_neighbours
    from .tagging import tagging_scores
    from .zero_shot import hits, zero_shot_scores

    test, train = clips["test"], clips.get("train", clips["test"])
    features, source = _features(task, listener, test, train)
    (test_heard, x_test), (train_heard, x_train) = features
    names = sorted({label for side in (train, test) for clip in side.data["labels"] for label in clip})
    _, y_test = targets_of(task, test, test_heard.rows, names)
    _, y_train = targets_of(task, train, train_heard.rows, names)

    def fit(xa: Any, ya: np.ndarray, xb: Any) -> tuple[np.ndarray, dict]:
        if task.pooling == "attention":
            return attention_probe(xa, ya, xb, task.multi_label, device=listener.device)
        if task.pooling == "knn":
            return nearest_neighbours(xa, ya, xb)
        return linear_probe(xa, ya, xb, task.multi_label)

    facts = {**_facts(test_heard), "classes": len(names), "features": source}
    more: dict[str, Any] = {}
    if task.folds is not None:
        folds = np.array(test.data["fold"])[test_heard.rows]
        logits, chosen = np.zeros((len(folds), len(names))), {}
        for fold in sorted(set(folds)):
            out, into = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            logits[into], chosen[fold] = fit(_take(x_test, out), y_test[out], _take(x_test, into))
        facts |= {"folds": len(chosen), "chosen": chosen}
    elif task.shots:
        draws = few_shot(x_train, y_train, x_test, task.shots)
        right = np.array([hits(draw, y_test.argmax(1)) for draw in draws])  # (draws, clips)
        from .bootstrap import interval

        low, high = interval(lambda rows: right[:, rows].mean(), right.shape[1])
        means = right.mean(1)
        return {
            **facts, "value": float(means.mean()), "low": low, "high": high, "chance": 1 / len(names),
            "shots": task.shots, "more": {"draws": len(draws), "deviation between draws": float(means.std(ddof=1))},
        }  # fmt: skip
    else:
        logits, chosen = fit(x_train, y_train, x_test)
        facts |= {"train_clips": len(train_heard.rows), "chosen": chosen}
    if task.multi_label:
        result = tagging_scores(logits, y_test, names)
        return {
            **facts, "value": result.mean_average_precision, "low": result.low, "high": result.high,
            "chance": result.chance, "more": more, "per_class": result.per_class,
        }  # fmt: skip
    return {**facts, **_single(task, zero_shot_scores(logits, y_test.argmax(1), names), names, pictures)}


def _events(task: Task, listener: "Listener", clips: dict[str, "Clips"], pictures: Path) -> dict:
    from .events import event_scores, frame_targets
    from .probes import frame_probe

    step = listener.seconds_per_frame()
    sides = {side: _some(listener.frames(clips[side], task.max_seconds)) for side in ("train", "test")}
    events = {s: [clips[s].data[int(row)]["events"] for row in heard.rows] for s, heard in sides.items()}
    names = sorted({event["label"] for its in events.values() for clip in its for event in clip})
    train = list(sides["train"].values)
    targets = [frame_targets(its, names, len(x), step) for its, x in zip(events["train"], train, strict=True)]
    logits, chosen = frame_probe(train, targets, list(sides["test"].values))
    result = event_scores(logits, events["test"], names, step)
    segment_map = task.metric == "segment mAP"
    return {
        **_facts(sides["test"]),
        "classes": len(names),
        "train_clips": len(train),
        "chosen": chosen,
        "features": "single frames of the dense features",
        "value": result.segment_map if segment_map else result.segment_f1,
        "low": result.low if segment_map else None,
        "high": result.high if segment_map else None,
        "chance": result.chance if segment_map else None,
        "more": {
            **({"segment F1": result.segment_f1} if segment_map else {"segment mAP": result.segment_map}),
            "segments": result.segments,
        },
        "per_class": result.per_class,
    }


def _localisation(task: Task, listener: "Listener", clips: dict[str, "Clips"], pictures: Path) -> dict:
    from .events import frame_targets, localisation_scores

    heard = _some(listener.local_embeds(clips["test"], task.max_seconds))
    step = listener.seconds_per_frame()
    events = [clips["test"].data[int(row)]["events"] for row in heard.rows]
    names = sorted({event["label"] for its in events for event in its})
    vectors = dict(zip(names, label_vectors(task, listener.embed_texts, names), strict=True))
    scores, inside = [], []
    for moments, its in zip(heard.values, events, strict=True):
        for label in dict.fromkeys(event["label"] for event in its):
            truth = frame_targets(its, [label], len(moments), step)[:, 0]
            if truth.any() and not truth.all():
                scores.append(moments @ vectors[label])
                inside.append(truth)
    result = localisation_scores(scores, inside)
    values = {"AUROC": result.auroc, "AP": result.ap, "pointing": result.pointing}
    chances = {"AUROC": 0.5, "AP": result.ap_chance, "pointing": result.ap_chance}
    bounds = (result.low, result.high) if task.metric == "AUROC" else (None, None)
    return {
        **_facts(heard),
        "classes": len(names),
        "value": values.pop(task.metric),
        "low": bounds[0],
        "high": bounds[1],
        "chance": chances[task.metric],
        "more": {**values, "queries": result.queries},
    }


def _mteb(task: Task, listener: "Listener", clips: dict[str, "Clips"], pictures: Path) -> dict:
    from .sets import NotMeasured

    try:
        import mteb

        from .mteb_encoder import mteb_encoder

        encoder = mteb_encoder(listener)
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    benchmark = mteb.get_benchmark(task.data)
    done = mteb.evaluate(encoder, benchmark, raise_error=False)
    values = {result.task_name: result.get_score() for result in done.task_results}
    missing = {failure.task_name: str(failure.exception)[:200] for failure in done.exceptions or []}
    if not values:
        reason = next(iter(missing.values()), "no task ran")
        raise NotMeasured(f"not one task of {task.data} ran ({reason}); its sets come from the Hub, through mteb")
    if len(values) < len(benchmark.tasks):
        first = next((f". {name}: {why}" for name, why in missing.items()), "")
        reason = f"{len(values)} of {len(benchmark.tasks)} tasks ran: not the benchmark's mean{first}"
        return {"status": "not measured", "reason": reason, "more": values, "missing": missing}
    return {
        "clips": len(values), "left_out": [], "value": float(np.mean(list(values.values()))), "low": None, "high": None,
        "chance": None, "more": values, "missing": {}, "notes": ["N counts tasks"],
    }  # fmt: skip


def _elsewhere(task: Task, listener: "Listener", clips: dict[str, "Clips"], pictures: Path) -> dict:
    raise AssertionError("refused when its clips are opened")


_MEASURE: dict[str, Callable] = {
    "zero_shot": _zero_shot,
    "retrieval": _retrieval,
    "captioning": _captioning,
    "probe": _probe,
    "events": _events,
    "localisation": _localisation,
    "mteb": _mteb,
    "elsewhere": _elsewhere,
}


# ------------------------------------------------------------------------------------------------ what they share


def open_task(task: Task, places: Mapping[str, Any], download: bool) -> dict[str, "Clips"]:
    """The clips to judge by, "test", and those to learn from, "train"."""
    from .sets import NotMeasured, check_apart, how_to_get, open_clips

    if task.kind == "elsewhere":
        raise NotMeasured(task.source)
    if task.kind == "mteb":
        if not download:
            raise NotMeasured(f"{task.data} takes its sets from the Hub: pass download=True (--download)")
        return {}
    try:
        clips = {"test": open_clips(task.data, task.split, task, places, download)}
        if task.kind in ("probe", "events") and task.folds is None:
            data, split = task.train
            clips["train"] = open_clips(data or task.data, split, task, places, download)
            check_apart(task, clips["test"], clips["train"])
    except (FileNotFoundError, ConnectionError) as error:
        raise NotMeasured(f"{error}. {how_to_get(task.data)}") from error
    return clips


def _digest(clips: Mapping[str, "Clips"]) -> str | None:
    return "-".join(side.digest for side in clips.values()) or None


def targets_of(
    task: Task, clips: "Clips", rows: np.ndarray, names: list[str] | None = None
) -> tuple[list[str], np.ndarray]:
    """Names of the C classes, and (N, C) of 0 and 1."""
    from ..classification import label_targets

    labels = clips.data["labels"]
    names = names or sorted({label for clip in labels for label in clip})
    return names, label_targets([labels[int(row)] for row in rows], names, task.data)


def label_vectors(task: Task, embed_texts: Callable[[list[str]], np.ndarray], names: Sequence[str]) -> np.ndarray:
    """(C, P), unit norm: the mean direction of each label's prompts."""
    texts = [task.texts(name) for name in names]
    vectors = embed_texts([text for its in texts for text in its])
    means = vectors.reshape(len(names), len(task.prompts), -1).mean(1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def _features(task: Task, listener: "Listener", test: "Clips", train: "Clips") -> tuple[list, str]:
    """[(heard, features) of the clips to judge by, the same of those to learn from], and what the features are."""
    if task.pooling == "attention" or listener.dense:
        sides = [_some(listener.frames(side, task.max_seconds)) for side in (test, train)]
        if task.pooling == "attention":
            return [(heard, heard.values) for heard in sides], "dense features over time, pooled by learned attention"
        means = [(heard, np.stack([np.asarray(x, np.float32).mean(0) for x in heard.values])) for heard in sides]
        return means, "mean of the dense features"
    sides = [_some(listener.embed_clips(side, task.max_seconds)) for side in (test, train)]
    embeddings = [(heard, np.stack(list(heard.values))) for heard in sides]
    return embeddings, "joint embeddings: the model gives no dense features"


def _take(features: Any, rows: np.ndarray) -> Any:
    return features[rows] if isinstance(features, np.ndarray) else [features[int(row)] for row in rows]


def _single(task: Task, result: Any, names: Sequence[str], pictures: Path) -> dict:
    """What a task with one label per clip reports, and its confusion plot."""
    picture = None
    try:
        from .confusion import draw_confusion

        title = f"{task.name}: {result.accuracy:.1%} of {result.clips} clips"
        picture = draw_confusion(result.confusion, names, pictures / f"{task.name}-confusion.png", title).name
    except ImportError:  # matplotlib is an extra
        pass
    f1 = task.metric == "F1"
    return {
        "value": result.macro_f1 if f1 else result.accuracy,
        "low": None if f1 else result.low,
        "high": None if f1 else result.high,
        "chance": None if f1 else result.chance,
        "more": {
            "mean class accuracy": result.mean_class_accuracy,
            **({"accuracy": result.accuracy} if f1 else {"F1": result.macro_f1}),
        },
        "per_class": [vars(row) for row in result.per_class],
        "confusion_plot": picture,
    }


def _some(heard: "Heard") -> "Heard":
    if not len(heard.rows):
        name, reason = heard.failed[0]
        raise ValueError(f"none of {len(heard.failed)} clips could be heard; the first, {name}: {reason}")
    return heard


def _facts(heard: "Heard") -> dict:
    return {"clips": len(heard.rows), "left_out": heard.failed}


def _record(
    task: Task, listener: "Listener", clips: Mapping[str, "Clips"], digest: str | None, parts: dict, score: dict,
    took: float,
) -> dict:  # fmt: skip
    """The score with everything that is needed to understand and repeat it."""
    from .sets import SETS

    test = clips.get("test")
    test_set = SETS.get(task.data)
    notes = [*score.pop("notes", []), *(note for side in clips.values() for note in side.notes)]
    if task.expected not in (None, score.get("clips")) and score["status"] == "measured":
        notes.append(f"{score['clips']:,} clips where the protocol has {task.expected:,}: say so when comparing")
    if failed := score.get("left_out"):
        name, reason = failed[0]
        of = score["clips"] + len(failed)
        notes.append(f"{len(failed)} of {of:,} clips could not be heard and are left out; the first, {name}: {reason}")
    prompted = task.kind in ("zero_shot", "localisation")
    return {
        "task": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "data": task.data,
        "title": test_set.title if test_set else task.data,
        "hub": test_set.hub if test_set else None,
        "place": test.place if test else None,
        "split": task.split,
        "clips_digest": digest,
        "expected_clips": task.expected,
        "prompts": list(task.prompts) if prompted else [],
        "long_clips": f"cut to their first {task.max_seconds:g} s" if task.max_seconds else listener.long_clips,
        "protocol": task.source,
        "reported": dict(task.reported),
        **score,
        "notes": notes,
        "declaration": task.declaration(),
        "model": {**listener.describe(), **parts},
        "versions": _versions(task),
        "date": date.today().isoformat(),
        "seconds": round(took, 1),
    }


def _kept(score: Mapping, reason: str | None = None) -> dict:
    """A score that was measured before; its notes say so where this run could not measure it."""
    notes = [note for note in score["notes"] if not note.startswith("kept from ")]
    return {**score, "notes": [*notes, f"kept from {score['date']}; this run: {reason}"] if reason else notes}


def _versions(task: Task) -> dict[str, str]:
    versions = {}
    for library in (*_LIBRARIES, *_MORE_LIBRARIES.get(task.kind, ())):
        loaded = getattr(sys.modules.get(library), "__version__", None)  # tells the build too
        try:
            versions[library] = str(loaded or importlib.metadata.version(library))
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def places_of(data: Mapping[str, Any] | str | os.PathLike | None) -> dict[str, Any]:
    from .sets import SETS

    if data is None:
        return {}
    if isinstance(data, str | os.PathLike):
        root = Path(data).expanduser()
        if not root.is_dir():
            raise ValueError(f"data={str(data)!r} is no folder; pass one that holds a folder or parquet file per set")
        found = {name: [p for p in (root / name, root / f"{name}.parquet") if p.exists()] for name in SETS}
        return {name: paths[0] for name, paths in found.items() if paths}
    if unknown := sorted(set(data) - set(SETS)):
        raise ValueError(f"data names unknown sets {unknown}; there are {sorted(SETS)}")
    return {name: os.path.expanduser(place) if isinstance(place, str) else place for name, place in data.items()}


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "--", name)


def _say(progress: bool, text: str) -> None:
    if progress:
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr)
