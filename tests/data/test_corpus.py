import csv
import io
import json
import logging
import re
import shutil
import sys
import tarfile

import datasets
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets.table import embed_table_storage

from hf_slap.data import load_corpus, measure_durations

LICENCES = {"CC0-1.0", "CC-BY-3.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "MIT", "free-art", "public-domain"}


@pytest.fixture(autouse=True)
def no_hub_and_no_bars(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path, wav):
    """Three sound files and no list of them."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number, seconds in enumerate((0.5, 1.25, 2.0)):
        (sounds / f"{number}.wav").write_bytes(wav(seconds, number))
    return sounds


def rows(wav, **columns):
    count = len(next(iter(columns.values())))
    audio = [{"bytes": wav(0.25 + 0.25 * row, row), "path": f"{row}.wav"} for row in range(count)]
    return Dataset.from_dict({"audio": audio, **columns})


# ------------------------------------------------------------------------------------------------- what ships with us
def test_the_shipped_corpus_opens_as_files_as_a_list_and_as_a_glob(shipped, tmp_path):
    train, heldout = (load_corpus(shipped / f"{name}.parquet", cache_dir=tmp_path) for name in ("train", "heldout"))
    both = load_corpus([shipped / "train.parquet", shipped / "heldout.parquet"], cache_dir=tmp_path)
    globbed = load_corpus(f"{shipped}/*.parquet", cache_dir=tmp_path)
    assert train.column_names[:4] == ["id", "audio", "captions", "duration"]
    assert both["id"] == train["id"][:] + heldout["id"][:]
    assert sorted(globbed["id"]) == sorted(both["id"])
    assert set(train[0]["audio"]) == {"bytes", "path"}
    assert len(load_corpus(shipped / "train.parquet", split="train[:7]", cache_dir=tmp_path)) == 7


def test_a_clip_comes_from_its_source_else_its_package_else_from_nowhere(shipped, wav, tmp_path):
    shipped = load_corpus(shipped / "heldout.parquet", cache_dir=tmp_path)
    assert shipped["source"][:] == shipped["package"][:] and all(shipped["source"])
    named = load_corpus(rows(wav, text=["a", "b"], source=["radio", None], package=["x", "y"]))
    assert named["source"][:] == ["radio", ""]
    assert load_corpus(rows(wav, text=["a", "b"]))["source"][:] == ["", ""]


def test_the_shipped_splits_share_no_clip_and_no_package_and_may_be_given_on(shipped):
    train, heldout = (pq.read_table(shipped / f"{name}.parquet") for name in ("train", "heldout"))
    credits = (shipped / "CREDITS.md").read_text(encoding="utf-8")
    for column in ("id", "package"):
        assert not set(train[column].to_pylist()) & set(heldout[column].to_pylist())
    assert set(heldout["label"].to_pylist()) < set(train["label"].to_pylist())
    for table in (train, heldout):
        assert set(table["license"].to_pylist()) <= LICENCES
        assert all(f"| {clip} |" in credits for clip in table["id"].to_pylist())
        assert all(2 <= len(set(captions)) == len(captions) <= 4 for captions in table["captions"].to_pylist())
        sounds = {sound["bytes"] for sound in table["audio"].to_pylist()}
        assert len(sounds) == len(table)
    assert sum((shipped / f"{name}.parquet").stat().st_size for name in ("train", "heldout")) < 11.5e6


def test_the_shipped_durations_are_those_of_the_headers(shipped, tmp_path):
    heldout = load_corpus(shipped / "heldout.parquet", cache_dir=tmp_path)
    seconds, problems = measure_durations(heldout)
    assert not problems
    assert seconds == pytest.approx(heldout["duration"][:], abs=1e-3)


# ------------------------------------------------------------------------------------------------------------ sources
def test_a_folder_of_sound_files_with_a_table(folder, tmp_path):
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file_name", "caption"], *([f"{row}.wav", f"noise {row}"] for row in range(3))])
    corpus = load_corpus(folder, cache_dir=tmp_path / "cache")
    assert corpus["captions"][:] == [["noise 0"], ["noise 1"], ["noise 2"]]
    assert corpus["duration"][:] == [0.5, 1.25, 2.0]
    assert corpus["id"][:] == ["0", "1", "2"]


def test_a_folder_of_sound_files_with_several_captions_each(folder, tmp_path):
    lines = [json.dumps({"file_name": f"{row}.wav", "captions": ["noise", f"hiss {row}"]}) for row in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    assert load_corpus(folder, cache_dir=tmp_path / "cache")["captions"][1] == ["noise", "hiss 1"]


def test_a_folder_of_parquet_files(wav, tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    table = rows(wav, text=["one", "two", "three"]).with_format("arrow").map(embed_table_storage, batched=True)
    for shard in range(3):
        table.shard(3, shard).to_parquet(saved / f"train-{shard}.parquet")
    assert load_corpus(saved, cache_dir=tmp_path / "cache")["captions"][:] == [["one"], ["two"], ["three"]]


def test_a_folder_written_by_save_to_disk_with_and_without_splits(wav, tmp_path):
    ours = rows(wav, text=["one", "two"])
    ours.save_to_disk(tmp_path / "plain")
    DatasetDict(a=ours, b=ours.select([1])).save_to_disk(tmp_path / "split")
    assert len(load_corpus(tmp_path / "plain")) == 2
    assert load_corpus(tmp_path / "split", split="b")["captions"][:] == [["two"]]
    with pytest.raises(ValueError, match=r"has splits \['a', 'b'\] and none was chosen; pass split="):
        load_corpus(tmp_path / "split")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/train.parquet", "no file or folder 'nowhere/train.parquet'; accepted are .parquet files"),
        ("/nowhere/at/all", "no file or folder '/nowhere/at/all'"),
        ("nowhere/*.parquet", "no file 'nowhere/*.parquet'"),
        (["nowhere.parquet"], "no file 'nowhere.parquet'"),
        ("nobody/nothing", "'nobody/nothing' is no file or folder here, and no dataset of that id"),
    ],
)
def test_a_source_that_is_not_there_is_an_error_that_names_it(source, message):
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load_corpus(source)


def test_a_folder_or_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds nothing to read; accepted are"):
        load_corpus(tmp_path)
    (tmp_path / "sound.mp3").write_bytes(b"")
    with pytest.raises(ValueError, match=r"sound.mp3' is not a .parquet file; accepted are"):
        load_corpus(tmp_path / "sound.mp3")
    with pytest.raises(ValueError, match="corpus source of type int, 7"):
        load_corpus(7)


def test_a_split_that_is_not_there_is_named(shipped, tmp_path):
    with pytest.raises(ValueError, match="has no split 'heldout'.*train"):
        load_corpus(shipped / "heldout.parquet", split="heldout", cache_dir=tmp_path)


# ------------------------------------------------------------------------------------------------------------ columns
def test_captions_are_found_by_name_and_trimmed(wav):
    assert load_corpus(rows(wav, caption=[" one ", "two"]))["captions"][:] == [["one"], ["two"]]
    assert load_corpus(rows(wav, text=["one", "two"], captions=[["a", ""], ["b", None]]))["captions"][0] == ["a"]
    named = load_corpus(rows(wav, text=["one"], words=["other"]), caption_column="words")
    assert named["captions"][0] == ["other"] and named["text"][0] == "one"


def test_ids_durations_and_labels_are_kept_or_made(wav):
    kind = Features({"label": ClassLabel(names=["cat", "dog"])})
    ours = rows(wav, text=["one", "two"], id=[11, 13], duration=[None, 7.0], label=[1, 0])
    corpus = load_corpus(ours.cast_column("label", kind["label"]))
    assert corpus["id"][:] == ["11", "13"]
    assert corpus["duration"][:] == [0.25, 7.0]  # a header is read only where no duration is given
    assert corpus["label"][:] == ["dog", "cat"]


def test_an_audio_column_of_another_name_is_found_by_its_type_or_named(wav):
    ours = rows(wav, text=["one"]).rename_column("audio", "sound")
    typed = ours.cast_column("sound", datasets.Audio(decode=False))
    assert load_corpus(typed)["audio"][0]["path"] == "0.wav"
    assert load_corpus(ours, audio_column="sound")["duration"][:] == [0.25]
    with pytest.raises(ValueError, match=r"no audio column; its columns are \['sound', 'text'\]"):
        load_corpus(ours)
    with pytest.raises(ValueError, match=r"no column 'noise'; its columns are \['sound', 'text'\]"):
        load_corpus(ours, audio_column="noise")


def test_two_audio_columns_are_not_guessed_between(wav):
    ours = rows(wav, text=["one"]).rename_column("audio", "left")
    ours = ours.add_column("right", ours["left"][:])
    for column in ("left", "right"):
        ours = ours.cast_column(column, datasets.Audio(decode=False))
    with pytest.raises(ValueError, match=r"several audio columns \['left', 'right'\]"):
        load_corpus(ours)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": ["cat"]},
            r"has no captions: looked for any of .*; its columns|its columns are \['audio', 'label'\]",
        ),
        ({"text": ["one", " ", None]}, r"2 of 3 rows have no caption in column 'text', the first is row 1"),
        ({"captions": [["one"], []]}, r"1 of 2 rows have no caption in column 'captions', the first is row 1"),
        ({"text": [7]}, r"row 0: column 'text' holds 7; expected a string or a list of strings"),
        ({"text": ["one"], "duration": ["long"]}, "column 'duration' holds 'long'; expected seconds as a number"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(wav, columns, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(rows(wav, **columns))


def test_rows_without_any_label_are_kept_where_that_is_allowed(wav):
    corpus = load_corpus(rows(wav, labels=[["a"], [], None]), caption_column="labels", allow_empty=True)
    assert corpus["captions"][:] == [["a"], [], []]


def test_an_empty_corpus_is_refused(wav, tmp_path):
    with pytest.raises(ValueError, match="has no rows"):
        load_corpus(rows(wav, text=["one"]).select([]))
    rows(wav, text=["one"]).select([]).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="has no rows"):
        load_corpus(tmp_path / "empty.parquet", cache_dir=tmp_path)


# ---------------------------------------------------------------------------------------------------- unreadable clips
def test_clips_without_a_readable_header_are_dropped_counted_and_listed(wav, caplog):
    audio = [
        {"bytes": wav(0.5), "path": None},
        {"bytes": b"this is no sound", "path": None},
        {"bytes": None, "path": "/nowhere/at/all.wav"},
        {"bytes": wav(0.0), "path": None},
        {"bytes": wav(0.75), "path": None},
        {"bytes": None, "path": None},
    ]
    ours = Dataset.from_dict({"audio": audio, "text": list("abcdef"), "id": list("ABCDEF")})
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus(ours)
    assert corpus["captions"][:] == [["a"], ["e"]] and corpus["duration"][:] == [0.5, 0.75]
    assert "4 of 6 clips cannot be read and are dropped" in caplog.text
    assert "C: no file '/nowhere/at/all.wav'" in caplog.text
    assert "D: a length of 0.0 s" in caplog.text
    assert "F: neither bytes nor a path" in caplog.text
    assert "\n  B: " in caplog.text and "\n  A: " not in caplog.text


def test_a_corpus_without_one_readable_clip_is_refused():
    ours = Dataset.from_dict({"audio": [{"bytes": b"no sound", "path": None}] * 3, "text": list("abc")})
    with pytest.raises(ValueError, match="not one of 3 clips can be read:\n  0: "):
        load_corpus(ours)


def test_a_corpus_of_paths_is_read_where_the_files_are(folder, tmp_path):
    paths = [str(folder / "0.wav"), str(folder / "2.wav")]
    assert load_corpus(Dataset.from_dict({"audio": paths, "text": ["a", "b"]}))["duration"][:] == [0.5, 2.0]
    shutil.move(folder / "2.wav", tmp_path / "2.wav")
    assert len(load_corpus(Dataset.from_dict({"audio": paths, "text": ["a", "b"]}))) == 1


def test_classes_can_stand_for_captions(wav):
    one = rows(wav, label=[1, 0]).cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    assert load_corpus(one, caption_column="label")["captions"] == [["dog"], ["cat"]]
    several = rows(wav, labels=[[0, 1], [1]]).cast_column(
        "labels", datasets.List(datasets.ClassLabel(names=["cat", "dog"]))
    )
    assert load_corpus(several, caption_column="labels")["captions"] == [["cat", "dog"], ["dog"]]


def test_captions_that_were_added_to_an_open_corpus_are_taken(shipped, tmp_path):
    opened = datasets.load_dataset("parquet", data_files=str(shipped / "heldout.parquet"), cache_dir=tmp_path)["train"]
    added = opened.remove_columns("label").add_column("label", ["one"] * len(opened))  # all that is not on disk
    corpus = load_corpus(added, caption_column="label")
    assert corpus["captions"][0] == ["one"] and not {"label", "replaced label"} & set(corpus.column_names)
    assert len(corpus.add_column("more", list(range(len(corpus))))) == len(opened)


def test_a_table_without_file_names_is_refused(tmp_path):
    (tmp_path / "metadata.csv").write_text("name,caption\n0.wav,one\n")
    with pytest.raises(
        ValueError, match=r"metadata.csv has no column 'file_name'; its columns are \['name', 'caption'\]"
    ):
        load_corpus(tmp_path, cache_dir=tmp_path / "cache")


def test_a_folder_with_a_table_is_read_without_torchcodec(wav, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.encoders", None)
    (tmp_path / "0.wav").write_bytes(wav(0.5))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.wav", "captions": ["one", "two"]}\n')
    corpus = load_corpus(tmp_path, cache_dir=tmp_path / "cache")
    assert (corpus[0]["captions"], corpus[0]["duration"]) == (["one", "two"], 0.5)


def test_tars_of_sound_with_text_or_json_beside_it_are_a_corpus(wav, tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    with tarfile.open(folder / "clips-000.tar", "w") as tar:
        for number, text in enumerate(("one", "two")):
            facts = json.dumps({"text": [text, "again"], "place": "here"}).encode()
            for suffix, content in (("wav", wav(0.5 + number)), ("json", facts), ("txt", b"from the txt")):
                member = tarfile.TarInfo(f"clips/{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    corpus = load_corpus(folder, cache_dir=tmp_path / "cache")
    assert corpus.column_names == ["id", "audio", "captions", "duration", "source", "text", "place"]
    assert (corpus["id"][:], corpus["duration"][:]) == (["clips/0", "clips/1"], [0.5, 1.5])
    assert corpus["captions"][:] == [["from the txt"]] * 2
    named = load_corpus(folder, caption_column="text", cache_dir=tmp_path / "cache")
    assert named["captions"][:] == [["one", "again"], ["two", "again"]]
    named = load_corpus(folder, caption_column="txt", audio_column="wav", cache_dir=tmp_path / "cache")
    assert named["captions"][:] == [["from the txt"]] * 2 and named["audio"][0]["bytes"] == wav(0.5)
