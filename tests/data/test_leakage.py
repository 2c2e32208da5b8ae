"""Leaks planted in a corpus of real clips are found by what they are, and nothing else is."""

import json

import pyarrow.parquet as pq
import pytest

from hf_slap.data import EVALUATION_SETS, find_leaks, index_corpora
from hf_slap.data.recipes import RECIPES

PLANTED = {
    "the same id": "id",
    "another part of the same recording": "id",
    "encoded again": "sound",
    "trimmed": "sound",
    "another package's copy": "sound",
}


@pytest.fixture(scope="module")
def judged(clips, make_corpus):
    rows = [
        {"id": str(number), "audio": clips[number]["audio"], "captions": ["judged"], "split": "test"}
        for number in (1, 2, 3)
    ]
    rows.append({"id": "4", "source_id": "freesound:99", "audio": clips[4]["audio"], "captions": ["judged"]})
    return make_corpus("judged", rows)


@pytest.fixture(scope="module")
def corpora(clips, changed_sound, make_corpus, tmp_path_factory):
    sound = [clip["audio"] for clip in clips]
    mp3 = {"format": "MP3", "subtype": "MPEG_LAYER_III"}
    rows = [
        {"id": "the same id", "audio": sound[9], "source_id": "freesound:99"},
        {"id": "another part of the same recording", "audio": sound[10], "source_id": "freesound:99", "segment": {"start": 90, "end": 92}},
        {"id": "encoded again", "audio": changed_sound(sound[1], gain=0.4, **mp3)},
        {"id": "trimmed", "audio": changed_sound(sound[2], trim=0.12)},
        {"id": "another package's copy", "audio": {**sound[3], "path": "sfx_0042_final.ogg"}, "source_id": "package:other/sfx_0042"},
        *({"id": f"clean {number}", "audio": sound[number]} for number in (5, 6, 11, 12)),
    ]  # fmt: skip
    folder = make_corpus("corpus", [{**row, "captions": [f"words about {row['id']}"]} for row in rows])
    return index_corpora([folder], tmp_path_factory.mktemp("work"))


def test_every_planted_leak_is_found_and_no_clean_clip(corpora, judged, tmp_path):
    leaks = find_leaks(corpora, {"mine": judged}, tmp_path)
    assert {corpora.fact(number)["id"] for number in leaks} == {f"corpus/{name}" for name in PLANTED}
    rows = pq.read_table(tmp_path / "leakage.parquet").to_pylist()
    assert {row["clip"].removeprefix("corpus/"): row["why"] for row in rows} == PLANTED
    of = {row["clip"].removeprefix("corpus/"): row["evaluation_clip"] for row in rows}
    assert [of[name] for name in PLANTED] == [f"judged/{clip}" for clip in (4, 4, 1, 2, 3)]
    assert {row["set"] for row in rows} == {"mine"} and all(
        row["evidence"] > 1 for row in rows if row["why"] == "sound"
    )
    facts = json.loads((tmp_path / "leakage.json").read_text())
    assert facts["removed"] == 5 and facts["sets"]["mine"]["removed by sound alone"] == 3
    text = (tmp_path / "leakage.md").read_text()
    assert "not filtered against ESC-50: list not found" in text and "corpus/trimmed" in text


@pytest.mark.parametrize(
    "name, content",
    [
        ("ids.txt", "# from somewhere\nfreesound:99  # a note\nfreesound:990\n"),
        ("ids.csv", "source_id,why\nfreesound:99,test\n"),
        ("blacklist.json", '{"AudioSet": ["Yaaaaaaaaaaa.wav"], "FreeSound": ["99", "12"]}'),
    ],
)
def test_a_list_of_ids_is_enough_and_is_said_to_be_no_more(name, content, corpora, tmp_path):
    (tmp_path / name).write_text(content)
    leaks = find_leaks(corpora, {"listed": tmp_path / name}, tmp_path)
    assert {corpora.fact(number)["source_id"] for number in leaks} == {"freesound:99"} and len(leaks) == 2
    assert "listed: by id only, its sounds were not at hand" in (tmp_path / "leakage.md").read_text()


def test_esc50_as_published_gives_ids_without_its_sounds_and_finds_more_with_them(
    corpora, clips, changed_sound, tmp_path
):
    table = "filename,fold,target,category,esc10,src_file,take\n1-99-A-0.wav,1,0,dog,True,99,A\n1-5-A-0.wav,1,0,dog,True,5,A\n"
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text(table)
    assert len(find_leaks(corpora, {"esc50": tmp_path}, tmp_path / "report")) == 2
    (tmp_path / "audio").mkdir()
    sound = changed_sound(clips[1]["audio"], format="WAV")["bytes"]
    (tmp_path / "audio" / "1-5-A-0.wav").write_bytes(sound)
    (tmp_path / "audio" / "1-99-A-0.wav").write_bytes(b"broken")
    leaks = find_leaks(corpora, {"esc50": tmp_path}, tmp_path / "report")
    facts = json.loads((tmp_path / "report" / "leakage.json").read_text())["sets"]["esc50"]
    assert len(leaks) == 3 and (facts["sounds"], facts["sounds that cannot be read"]) == (1, 1)


def test_nothing_at_hand_is_said_and_not_passed_over(corpora, tmp_path):
    assert find_leaks(corpora, {}, tmp_path) == set()
    missing = json.loads((tmp_path / "leakage.json").read_text())["not filtered against"]
    assert missing == list(EVALUATION_SETS)


def test_what_cannot_be_read_is_refused_with_what_is_accepted(corpora, tmp_path):
    (tmp_path / "ids.txt").write_text("99\n")
    (tmp_path / "ids.csv").write_text("id\n99\n")
    (tmp_path / "folder").mkdir()
    for given, message in [
        ({"esc50": tmp_path / "nowhere"}, "there is no .*nowhere(.|\n)*esc50.csv"),
        ({"mine": tmp_path / "ids.txt"}, "holds '99'; expected '<origin>:<id>'"),
        ({"mine": tmp_path / "ids.csv"}, "no 'source_id'"),
        ({"mine": tmp_path / "folder"}, "prepare it as a corpus"),
        ({"mine": []}, "empty list of paths"),
    ]:
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            find_leaks(corpora, given, tmp_path)


def test_sets_that_are_declared_with_a_recipe_have_one():
    for name, declared in EVALUATION_SETS.items():
        assert declared.pages and declared.splits, name
        assert declared.recipe is None or declared.recipe in RECIPES
