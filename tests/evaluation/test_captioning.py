"""Caption measures: by hand, against another library, and what is missing is said."""

import math
import os
import shutil

import pytest

from hf_slap.evaluation.captioning import MEASURES, caption_metric, caption_scores

pytest.importorskip("pycocoevalcap")

WRITTEN = ["a dog barks loudly at night", "rain falls on a tin roof", "a man speaks"]
REFERENCES = [
    ["a dog barks at night", "a large dog is barking loudly"],
    ["heavy rain falls on the roof", "rain falls on a metal roof while thunder rolls"],
    ["a woman speaks and laughs", "somebody is talking"],
]


def test_measures_by_hand():
    scores = caption_scores(
        ["a dog barks"], [["a dog barks", "rain"]], ("BLEU-1", "BLEU-2", "ROUGE-L", "vocabulary"), java=False
    )
    assert scores.values == {"BLEU-1": pytest.approx(1), "BLEU-2": pytest.approx(1), "ROUGE-L": 1.0, "vocabulary": 3.0}
    half = caption_scores(["a cat"], [["a dog barks at it"]], ("ROUGE-L", "BLEU-1"), java=False)
    precision, recall, beta = 1 / 2, 1 / 5, 1.2
    assert half.values["ROUGE-L"] == pytest.approx((1 + beta**2) * precision * recall / (recall + beta**2 * precision))
    assert half.values["BLEU-1"] == pytest.approx(0.5 * math.exp(1 - 5 / 2))  # with the penalty for being short
    assert (half.tokenizer, half.clips) == ("words", 1)


def test_cider_d_by_its_formula():
    """Two clips, one word each: tf-idf vectors of one word, idf log(2 / 1), cosine 1, times 10, over four lengths."""
    right = caption_scores(["rain", "thunder"], [["rain"], ["thunder"]], ("CIDEr-D",), java=False)
    assert right.values["CIDEr-D"] == pytest.approx(10 / 4)
    wrong = caption_scores(["thunder", "rain"], [["rain"], ["thunder"]], ("CIDEr-D",), java=False)
    assert wrong.values["CIDEr-D"] == 0
    longer = caption_scores(["rain rain rain", "thunder"], [["rain"], ["thunder"]], ("CIDEr-D",), java=False)
    # the repeated word is clipped to once of three, and two words too many cost exp(-2^2 / (2 * 6^2))
    assert longer.values["CIDEr-D"] == pytest.approx((10 / 4) * (1 / 3 * math.exp(-4 / 72) + 1) / 2)
    low, high = longer.intervals["CIDEr-D"]
    assert low < longer.values["CIDEr-D"] < high


def test_bleu_as_torchmetrics_counts_it():
    functional = pytest.importorskip("torchmetrics.functional.text")
    ours = caption_scores(WRITTEN, REFERENCES, ("BLEU-1", "BLEU-4"), java=False).values
    assert ours["BLEU-1"] == pytest.approx(functional.bleu_score(WRITTEN, REFERENCES, n_gram=1).item(), abs=1e-6)
    assert ours["BLEU-4"] == pytest.approx(functional.bleu_score(WRITTEN, REFERENCES, n_gram=4).item(), abs=1e-6)


def test_what_cannot_be_had_is_said_and_not_counted_as_nothing():
    scores = caption_scores(WRITTEN, REFERENCES, java=False)
    assert set(scores.values) | set(scores.missing) == set(MEASURES) and not set(scores.values) & set(scores.missing)
    assert "Java" in scores.missing["METEOR"] and "Stanford" in scores.missing["SPIDEr"]
    assert "aac-metrics" in scores.missing["FENSE"]


@pytest.mark.skipif(shutil.which("java") is None, reason="no java on the PATH")
def test_with_java_the_words_are_stanfords_and_its_program_keeps_quiet(capfd):
    scores = caption_scores(WRITTEN, REFERENCES, ("BLEU-1", "METEOR"), java=True)
    assert scores.tokenizer == "PTB" and 0.2 < scores.values["METEOR"] < 0.8
    assert "tokens per second" not in "".join(capfd.readouterr())
    os.write(2, b"seen again")
    assert capfd.readouterr().err == "seen again"


def test_each_measure_is_a_metric_of_evaluate():
    evaluate = pytest.importorskip("evaluate")
    metric = caption_metric("CIDEr-D", java=False)
    assert isinstance(metric, evaluate.Metric)
    value = metric.compute(predictions=WRITTEN, references=REFERENCES)
    expected = caption_scores(WRITTEN, REFERENCES, ("CIDEr-D",), java=False).values["CIDEr-D"]
    assert value == {"CIDEr-D": pytest.approx(expected), "tokenizer": "words"}
    with pytest.raises(RuntimeError, match="METEOR needs Java"):
        caption_metric("METEOR", java=False).compute(predictions=WRITTEN, references=REFERENCES)
    with pytest.raises(ValueError, match="unknown measure 'CIDEr'; there are"):
        caption_metric("CIDEr")


def test_captions_that_cannot_be_judged_are_refused():
    with pytest.raises(ValueError, match="3 captions and references of 2 clips"):
        caption_scores(WRITTEN, REFERENCES[:2])
    with pytest.raises(ValueError, match="each clip with at least one reference"):
        caption_scores(["a"], [[]])
