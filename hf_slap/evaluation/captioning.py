"""Measures of written captions, by the library that the field's numbers come from (pycocoevalcap).

CIDEr-D, BLEU and ROUGE-L are Python. Stanford's tokenizer and METEOR need Java, SPICE and SPIDEr also a download,
FENSE its models: what is missing here is reported with its reason and never counted as 0.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .bootstrap import interval
from .word_overlap import words

MEASURES = ("CIDEr-D", "SPICE", "SPIDEr", "METEOR", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "FENSE", "vocabulary")  # fmt: skip # noqa: E501
QUICK_MEASURES = ("CIDEr-D", "BLEU-1", "BLEU-4", "ROUGE-L", "vocabulary")  # need neither Java nor a download
_NO_JAVA = "needs Java (a `java` on the PATH)"
_NO_SPICE = "needs Java and Stanford CoreNLP 3.6.0, which pycocoevalcap.spice.get_stanford_models downloads"
_NO_FENSE = "needs aac-metrics (`pip install aac-metrics` in an environment of its own: it pins older libraries) and its models"  # fmt: skip # noqa: E501


class CaptionScores(NamedTuple):
    """Result of `caption_scores`.

    Args:
        values: {measure: value}; shares, but for CIDEr-D and SPIDEr (0 to 10) and the vocabulary (words).
        intervals: {measure: (low, high)} of those that are means over clips.
        missing: {measure: why it is not measured}.
        tokenizer: "PTB" (Stanford's, as papers use) or "words" (ours, where Java is missing).
        clips: how many.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    missing: dict[str, str]
    tokenizer: str
    clips: int


def caption_scores(
    written: Sequence[str],
    references: Sequence[Sequence[str]],
    measures: Sequence[str] = MEASURES,
    java: bool | None = None,
) -> CaptionScores:
    """Scores captions against their references.

    Args:
        written: one caption per clip.
        references: at least one per clip.
        measures: which of `MEASURES`.
        java: whether Java may be used; None: if there is one.
    Raises:
        ValueError: no captions, another number of references, a clip without one, or an unknown measure.
        ImportError: pycocoevalcap is not installed.
    """
    if not written or len(written) != len(references) or not all(references):
        raise ValueError(
            f"{len(written)} captions and references of {len(references)} clips; expected as many, not 0, and each "
            "clip with at least one reference"
        )
    if unknown := sorted(set(measures) - set(MEASURES)):
        raise ValueError(f"unknown measures {unknown}; there are {list(MEASURES)}")
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise ImportError('captions are judged with pycocoevalcap: `pip install "hf_slap[eval]"`') from error
    java = shutil.which("java") is not None if java is None else java
    ours, theirs, tokenizer = _tokenize(written, references, java)
    values: dict[str, float] = {}
    per_clip: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}

    if {"CIDEr-D", "SPIDEr"} & set(measures):
        values["CIDEr-D"], per_clip["CIDEr-D"] = Cider().compute_score(theirs, ours)
    if "ROUGE-L" in measures:
        values["ROUGE-L"], per_clip["ROUGE-L"] = Rouge().compute_score(theirs, ours)
    if any(measure.startswith("BLEU") for measure in measures):
        bleu, _ = Bleu(4).compute_score(theirs, ours, verbose=0)
        values.update({f"BLEU-{n}": value for n, value in enumerate(bleu, start=1)})
    for measure, needed_by, compute in (("METEOR", {"METEOR"}, _meteor), ("SPICE", {"SPICE", "SPIDEr"}, _spice)):
        if needed_by & set(measures):
            result = compute(theirs, ours) if java else {"METEOR": _NO_JAVA, "SPICE": _NO_SPICE}[measure]
            if isinstance(result, str):
                missing[measure] = result
            else:
                values[measure], per_clip[measure] = result
    if "SPIDEr" in measures:
        if "SPICE" in missing:
            missing["SPIDEr"] = f"is the mean of CIDEr-D and SPICE; SPICE {missing['SPICE']}"
        else:
            per_clip["SPIDEr"] = (np.asarray(per_clip["CIDEr-D"]) + np.asarray(per_clip["SPICE"])) / 2
            values["SPIDEr"] = float(per_clip["SPIDEr"].mean())
    if "FENSE" in measures:
        result = _fense(written, references)
        (missing if isinstance(result, str) else values)["FENSE"] = result
    if "vocabulary" in measures:
        values["vocabulary"] = float(len({word for caption in ours.values() for word in caption[0].split()}))

    means = {name: np.asarray(value) for name, value in per_clip.items() if name != "METEOR"}
    return CaptionScores(
        values={name: float(values[name]) for name in measures if name in values},
        intervals={
            name: interval(lambda rows, value=value: value[rows].mean(), len(value), resamples=1000)
            for name, value in means.items()
            if name in measures
        },
        missing={name: missing[name] for name in measures if name in missing},
        tokenizer=tokenizer,
        clips=len(written),
    )


def _tokenize(
    written: Sequence[str], references: Sequence[Sequence[str]], java: bool
) -> tuple[dict[int, list[str]], dict[int, list[str]], str]:
    ours = {clip: [caption] for clip, caption in enumerate(written)}
    theirs = {clip: list(captions) for clip, captions in enumerate(references)}
    if java:
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        try:
            sides = [{c: [{"caption": text} for text in its] for c, its in side.items()} for side in (ours, theirs)]
            with _errors_of_programs_unseen():
                told = [PTBTokenizer().tokenize(side) for side in sides]
            if all(map(len, told)):
                return *told, "PTB"
        except OSError:  # its folder cannot be written
            pass
    told = [{c: [" ".join(words(text)) for text in its] for c, its in side.items()} for side in (ours, theirs)]
    return *told, "words"


@contextlib.contextmanager
def _errors_of_programs_unseen():
    """Stanford's tokenizer writes how fast it was to the standard error of this process, amid its progress bars."""
    seen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(seen, 2)
        os.close(seen)
        os.close(nowhere)


def _meteor(theirs: dict, ours: dict) -> tuple[float, list[float]] | str:
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    try:
        return meteor.compute_score(theirs, {clip: [its[0] or "."] for clip, its in ours.items()})
    except (OSError, ValueError) as error:
        return f"its Java program failed: {error}"
    finally:
        meteor.meteor_p.kill()
        meteor.meteor_p.wait()
        for pipe in (meteor.meteor_p.stdin, meteor.meteor_p.stdout, meteor.meteor_p.stderr):
            pipe.close()


def _spice(theirs: dict, ours: dict) -> tuple[float, list[float]] | str:
    import subprocess

    import pycocoevalcap.spice.spice as spice

    lib = os.path.join(os.path.dirname(spice.__file__), "lib")
    if not all(os.path.isfile(os.path.join(lib, f"stanford-corenlp-3.6.0{part}.jar")) for part in ("", "-models")):
        return _NO_SPICE
    try:
        _, scores = spice.Spice().compute_score(theirs, ours)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"its Java program failed (it was made for Java 8): {error}"
    values = [score["All"]["f"] for score in scores]
    return float(np.mean(values)), values


def _fense(written: Sequence[str], references: Sequence[Sequence[str]]) -> float | str:
    try:
        from aac_metrics.functional import fense
    except ImportError:
        return _NO_FENSE
    try:
        return float(fense(list(written), [list(its) for its in references])[0]["fense"])
    except OSError as error:
        return f"its models cannot be had: {error}"


def caption_metric(measure: str, java: bool | None = None):
    """One of `MEASURES` as an `evaluate.Metric`: `caption_metric("CIDEr-D").compute(predictions=..., references=...)`.

    Returns:
        a metric of texts and lists of texts; `compute` gives {measure: value, "tokenizer": ...}, and raises
        RuntimeError with the reason where the measure cannot be had here.
    Raises:
        ValueError: an unknown measure.
        ImportError: evaluate is not installed.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}; there are {list(MEASURES)}")
    import datasets
    import evaluate

    class CaptionMetric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            texts = datasets.Value("string")
            return evaluate.MetricInfo(
                description=f"{measure} of captions, by pycocoevalcap",
                citation="",
                inputs_description="predictions: a text per clip; references: a list of texts per clip",
                features=datasets.Features({"predictions": texts, "references": datasets.Sequence(texts)}),
            )

        def _compute(self, predictions: list[str], references: list[list[str]]) -> dict:
            scores = caption_scores(predictions, references, (measure,), java)
            if measure in scores.missing:
                raise RuntimeError(f"{measure} {scores.missing[measure]}")
            return {measure: scores.values[measure], "tokenizer": scores.tokenizer}

    CaptionMetric.__name__ = measure.replace("-", "")
    return CaptionMetric(experiment_id=f"{measure}-{os.getpid()}")
