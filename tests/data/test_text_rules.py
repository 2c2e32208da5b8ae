"""Each rule, by what it does to a text."""

from collections import Counter

import pytest

from hf_slap.data.text_rules import CHANGES, REFUSALS, clean_text, same_text_key

CASES = [
    ("html_entities", "Cats &amp; dogs<br>fight", "Cats & dogs fight"),
    ("unicode", "Cafe\u0301 noise\u200b here", "Caf\u00e9 noise here"),
    ("unicode", "rain\u00a0falls\x07", "rain falls"),
    ("quotes", "\u201cA dog\u2019s bark\u201d", "A dog's bark"),
    ("whitespace", "  a  dog\n barks , loudly", "a dog barks, loudly"),
    ("trailing_dots", "A dog barks . . .", "A dog barks."),
    ("trailing_dots", "A dog barks\u2026", "A dog barks."),
    ("case", "A DOG BARKS LOUDLY", "A dog barks loudly"),
    ("empty", " -- ", None),
    ("empty", "...", None),
    ("too_short", "7 2 a", None),
    ("too_long", "la " * 700, None),
    ("no_caption", "N/A", None),
    ("no_caption", "street_noise-01.wav", None),
    ("no_caption", "https://example.org/a.mp3", None),
    ("no_caption", "As an AI language model, I have no ears.", None),
    ("no_caption", "I'm sorry, but I can't hear the audio.", None),
]


@pytest.mark.parametrize("rule, text, wanted", CASES)
def test_a_rule_does_what_it_says_and_is_counted(rule, text, wanted):
    counts = Counter()
    assert clean_text(text, counts) == wanted
    assert counts[rule] == 1


def test_every_rule_has_a_case():
    assert {rule for rule, _, _ in CASES} == {*CHANGES, *REFUSALS}


@pytest.mark.parametrize(
    "text",
    ["A dog barks.", "a dog", "\u4e00\u53ea\u72d7\u5728\u53eb", "Speech: \"hello\" and 'bye'", "AC/DC hum", "FM radio", "What is that?", "An error beeps", "I can't see him, a man says"],
)  # fmt: skip
def test_a_good_caption_stays_as_it_is(text):
    counts = Counter()
    assert clean_text(text, counts) == text and not counts


def test_cleaning_twice_changes_nothing_more():
    for _, text, wanted in CASES:
        assert wanted is None or clean_text(wanted) == wanted, text


def test_captions_that_differ_in_case_and_punctuation_are_the_same():
    assert same_text_key("A Dog barks.") == same_text_key("a dog, barks")
    assert same_text_key("a dog barks") != same_text_key("a dog barked")
