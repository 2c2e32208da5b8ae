"""Word overlap by hand."""

import pytest

from hf_slap.evaluation.word_overlap import word_overlap, words


def test_words_are_lower_case_without_punctuation():
    assert words("A dog's bark, twice!") == ["a", "dog's", "bark", "twice"]


def test_overlap_with_the_best_reference_by_hand():
    scores = word_overlap(["a dog barks", "rain"], [["a barks dog now", "nothing"], ["wind"]])
    assert scores["word f1"] == pytest.approx((2 * 3 / 7 + 0) / 2)
    assert scores["rouge-l"] == pytest.approx((2 * 2 / 7 + 0) / 2), "in order only 'a dog' or 'a barks'"
    assert scores["different captions"] == 1.0


def test_writing_always_the_same_is_told():
    assert word_overlap(["a dog", "A dog.", "a dog", ""], [["x"]] * 4)["different captions"] == 0.5


def test_captions_without_references_are_refused():
    with pytest.raises(ValueError, match="2 captions and references of 1 clips"):
        word_overlap(["a", "b"], [["c"]])
