"""Two small sources of real clips, which overlap in every way that sources overlap."""

import json
import pickle

import pyarrow.parquet as pq
import pytest

from hf_slap.data import Caption, index_corpora, merge_corpora

OPUS = {"format": "OGG", "subtype": "OPUS", "compression_level": 0.95}


@pytest.fixture(scope="module")
def folders(clips, changed_sound, make_corpus):
    def segment(start, end):
        return {"start": start, "end": end}

    sound = [clip["audio"] for clip in clips]
    first = [
        {"id": "0", "audio": sound[0], "captions": ["a drum &amp; more", "N/A"], "labels": ["drum"]},
        {"id": "1", "audio": sound[1], "captions": ["a thing"], "source_id": "youtube:aaaaaaaaaaa", "segment": segment(0, 10)},
        {"id": "2", "audio": sound[2], "captions": ["later"], "source_id": "youtube:aaaaaaaaaaa", "segment": segment(10, 20)},
        {"id": "3", "audio": sound[3], "captions": ["one piece"], "source_id": "freesound:7"},
        {"id": "4", "audio": sound[4], "captions": ["another piece"], "source_id": "freesound:7"},
        {"id": "5", "audio": sound[5], "captions": [Caption("kept apart.", "", "template")]},
        {"id": "6", "audio": sound[6], "captions": ["untitled"]},
        {"id": "8", "audio": sound[8], "captions": ["a clip of the test split"]},
    ]  # fmt: skip
    louder = changed_sound(sound[5], gain=0.5, **OPUS)
    second = [
        {"id": "same samples", "audio": changed_sound(sound[0], format="WAV", subtype="FLOAT"), "captions": ["A drum & more!", "boom"], "labels": ["boom"]},
        {"id": "same segment", "audio": sound[9], "captions": ["Ein Ding"], "language": "de", "source_id": "youtube:aaaaaaaaaaa", "segment": segment(1, 11)},
        {"id": "third piece", "audio": sound[10], "captions": ["third"], "source_id": "freesound:7"},
        {"id": "encoded again", "audio": louder, "captions": [Caption("Kept apart"), "and more"], "domain": "music"},
        {"id": "half", "audio": changed_sound(sound[7], trim=0.25), "captions": ["a part only"]},
        {"id": "whole", "audio": sound[7], "captions": ["all of it"]},
        {"id": "test copy", "audio": changed_sound(sound[8], gain=0.7), "captions": ["held out"], "split": "test"},
    ]  # fmt: skip
    return [make_corpus("first", first), make_corpus("second", second)]


@pytest.fixture(scope="module")
def merged(folders, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    corpora = index_corpora(folders, work)
    records = {record.id: record for record in merge_corpora(corpora, work / "report")}
    return corpora, records, work / "report"


def texts(record) -> list[str]:
    return [caption.text for caption in record.captions]


def test_copies_with_equal_samples_are_one_clip_with_all_captions_once(merged):
    _, records, _ = merged
    assert "second/same samples" not in records
    assert texts(records["first/0"]) == ["a drum & more", "boom"]
    assert [caption.source for caption in records["first/0"].captions] == ["first", "second"]
    assert records["first/0"].labels == ["drum", "boom"]


def test_one_recording_is_joined_where_its_segments_are_the_same_and_only_there(merged):
    _, records, _ = merged
    kept = records.get("first/1") or records["second/same segment"]
    assert sorted(texts(kept)) == ["Ein Ding", "a thing"] and kept.language == "mul"
    assert texts(records["first/2"]) == ["later"]


def test_pieces_of_a_recording_that_do_not_say_which_are_not_joined(merged):
    _, records, _ = merged
    assert {"first/3", "first/4", "second/third piece"} <= set(records)


def test_a_copy_that_was_encoded_again_is_joined_and_people_are_believed_before_templates(merged):
    _, records, _ = merged
    [kept] = [record for name, record in records.items() if name in ("first/5", "second/encoded again")]
    assert [(one.text, one.provenance) for one in kept.captions if one.text != "and more"] == [("Kept apart", "human")]
    assert kept.domain == "mixed"


def test_a_part_of_a_clip_keeps_its_own_captions(merged):
    _, records, _ = merged
    assert texts(records["second/half"]) == ["a part only"] and texts(records["second/whole"]) == ["all of it"]


def test_a_copy_of_a_held_out_clip_is_held_out(merged):
    _, records, _ = merged
    [kept] = [record for name, record in records.items() if name in ("first/8", "second/test copy")]
    assert kept.split == "test" and sorted(texts(kept)) == ["a clip of the test split", "held out"]


def test_the_report_names_every_joined_clip_and_counts_every_rule(merged):
    corpora, records, report = merged
    rows = pq.read_table(report / "merging.parquet").to_pylist()
    assert {(row["kept"], row["joined"]) for row in rows if row["why"] == "exact"} == {
        ("first/0", "second/same samples")
    }
    assert sorted(row["why"] for row in rows) == ["exact", "fingerprint", "fingerprint", "source_id"]
    facts = json.loads((report / "merging.json").read_text())
    assert facts["clips"]["clips"] == len(corpora) == 15
    assert facts["clips"]["records"] == len(records) == 15 - 4 - 1  # four joined, one without a caption
    assert facts["clips"]["without a usable caption"] == 1 and facts["captions"]["no_caption"] == 2
    assert facts["captions"]["html_entities"] == 1 and facts["captions"]["the same caption again"] == 2


def test_leaks_go_with_all_their_copies_and_an_index_travels_to_other_processes(merged, tmp_path):
    corpora, records, _ = merged
    corpora = pickle.loads(pickle.dumps(corpora))
    left = [record.id for record in merge_corpora(corpora, tmp_path, leaks=[0])]
    assert left == [name for name in records if name != "first/0"]


def test_an_index_is_made_once_for_the_same_corpora(folders, merged, monkeypatch):
    from hf_slap.data import corpora_index

    monkeypatch.setattr(corpora_index, "fingerprint", None)
    again = index_corpora(folders, merged[2].parent)
    assert len(again) == 15
    with pytest.raises(ValueError, match="belongs to several clips"):
        index_corpora([folders[0], folders[0]], merged[2].parent)
