"""The numbers of a datasheet, by hand, for a corpus of five captions."""

import json

import pytest

from hf_slap.data import Caption, write_datasheet


@pytest.fixture(scope="module")
def folder(clips, make_corpus):
    sounds = [clip["audio"] for clip in clips]
    rows = [
        {"id": "0", "audio": sounds[0], "labels": ["dog"], "captions": ["A dog barks.", Caption("a dog", "tags", "machine", "some-model", "other")]},
        {"id": "1", "audio": sounds[1], "captions": [Caption("a dog barks", provenance="template")], "license": "GPL-2.0", "redistributable": False},
        {"id": "2", "audio": sounds[2], "captions": ["It's raining | hard", "rain"], "domain": "music", "language": "de", "split": "test"},
    ]  # fmt: skip
    return make_corpus("source", rows)


def test_the_numbers_are_those_one_counts_by_hand(folder, clips):
    path = write_datasheet(folder)
    facts = json.loads((folder / "datasheet" / "datasheet.json").read_text())
    assert (facts["clips"], facts["captions"], facts["recordings"]) == (3, 5, 3)
    assert facts["hours"] == pytest.approx(sum(clip["duration"] for clip in clips[:3]) / 3600, abs=1e-4)
    # a dog barks / a dog / a dog barks / it's raining hard / rain: 12 words, 7 different; 7 pairs, 4 different
    assert (facts["words"], facts["vocabulary"]) == (12, 7)
    assert facts["distinct_1"] == pytest.approx(7 / 12) and facts["distinct_2"] == pytest.approx(4 / 7)
    assert facts["distinct captions"] == 4
    assert facts["caption_words"] == {
        "mean": 2.4,
        "0 %": 1,
        "5 %": 1,
        "25 %": 2,
        "50 %": 3,
        "75 %": 3,
        "95 %": 3,
        "100 %": 3,
    }
    assert facts["captions_by"]["provenance"] == {"human": 3, "machine": 1, "template": 1}
    assert facts["captions_by"]["model"] == {"some-model": 1} and facts["captions_by"]["source"] == {
        "source": 4,
        "other": 1,
    }
    assert facts["clips that sources share"] == {"other + source": 1}
    assert {name: one["clips"] for name, one in facts["license"].items()} == {"CC0-1.0": 2, "GPL-2.0": 1}
    assert facts["redistributable"]["clips"] == 2 and facts["split"]["test"]["captions"] == 2
    text = path.read_text()
    for name in ("sound.png", "captions.png"):
        assert f"({name})" in text and (path.parent / name).stat().st_size > 10_000
    assert "| Distinct-1, Distinct-2 | 0.5833, 0.5714 |" in text


def test_the_reports_of_merging_and_leakage_are_taken_in(folder, tmp_path):
    (tmp_path / "leakage.json").write_text('{"removed": 3}')
    (tmp_path / "leakage.md").write_text("## Evaluation sets\n")
    path = write_datasheet(folder, tmp_path)
    assert json.loads((path.parent / "datasheet.json").read_text())["leakage"] == {"removed": 3}
    assert path.read_text().endswith("## Evaluation sets\n")


def test_counting_in_pieces_gives_the_same_and_no_corpus_is_refused(folder, tmp_path, monkeypatch):
    from hf_slap.data import datasheet

    whole = json.loads((write_datasheet(folder).parent / "datasheet.json").read_text())
    monkeypatch.setattr(datasheet, "_HELD", 1)
    assert json.loads((write_datasheet(folder).parent / "datasheet.json").read_text()) == whole
    with pytest.raises(FileNotFoundError, match="manifest.json"):
        write_datasheet(tmp_path)
