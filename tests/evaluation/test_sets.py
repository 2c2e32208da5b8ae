"""Sets are read as they are published or as a table, and a set that is missing says how to get it."""

import dataclasses
import shutil

import pytest
import soundfile
from datasets import Dataset

from hf_slap.data import load_corpus
from hf_slap.evaluation.scenes import lay_out_scenes
from hf_slap.evaluation.sets import NotMeasured, content_key, open_clips
from hf_slap.evaluation.tasks import Task
from hf_slap.modeling.audio_slap import load_waveform

TASK = Task("x", "zero_shot", "esc50", "accuracy", "")


def test_a_published_folder_and_its_folds(esc50_folder, corpus_rows):
    probe = dataclasses.replace(TASK, kind="probe", folds="fold", fold_pattern=r"(?:^|/)(\d)-[^/]*$")
    clips = open_clips("esc50", "test", probe, {"esc50": esc50_folder}, False)
    assert clips.data["labels"] == [[row["label"].replace(" ", "_")] for row in corpus_rows]
    assert list(clips.data["fold"]) == ["1", "2", "1", "2", "1", "2", "1"]
    assert clips.place == esc50_folder.name and len(set(clips.data["key"])) == 7
    again = open_clips("esc50", "test", probe, {"esc50": str(esc50_folder)}, False)
    assert again.digest == clips.digest


def test_a_clip_that_is_listed_and_not_there_is_noted(esc50_folder, tmp_path):
    shutil.copytree(esc50_folder, tmp_path / "esc")
    next((tmp_path / "esc" / "audio").glob("2-*")).unlink()
    clips = open_clips("esc50", "test", TASK, {"esc50": tmp_path / "esc"}, False)
    assert len(clips.data) == 6 and "1 rows of the set" in clips.notes[0]


def test_a_folder_of_sounds_with_a_table_serves_as_well(real_clips, tiny_processor, tmp_path):
    for name, clip in zip(("1-a.wav", "2-b.wav"), real_clips, strict=False):
        soundfile.write(tmp_path / name, tiny_processor.feature_extractor.load(clip), 16_000)
    (tmp_path / "metadata.csv").write_text("file_name,category,fold\n1-a.wav,dog,1\n2-b.wav,rain,5\n")
    probe = dataclasses.replace(TASK, kind="probe", folds="fold")
    clips = open_clips("esc50", "test", probe, {"esc50": tmp_path}, False)
    assert clips.data["labels"] == [["dog"], ["rain"]] and list(clips.data["fold"]) == ["1", "5"]


def test_ids_patterns_and_chosen_labels(real_clips):
    names = ["bass_synthetic_033-022-050", "organ_electronic_001-064-127", "vocal_acoustic_002-064-050"]
    columns = {"id": [f"nsynth/{n}" for n in names], "audio": real_clips[:3], "labels": [["bass", "synthetic", "dark"], ["organ", "electronic"], ["vocal", "acoustic", "dark", "long"]]}  # fmt: skip
    data = {"nsynth": Dataset.from_dict(columns)}
    pitch = dataclasses.replace(TASK, label_pattern=r"_\d+-(\d{3})-\d{3}$")
    assert open_clips("nsynth", "test", pitch, data, False).data["labels"] == [["022"], ["064"], ["064"]]
    family = dataclasses.replace(TASK, label_pattern=r"(?:^|/)([a-z_]+?)_(?:acoustic|electronic|synthetic)_\d+-")
    assert open_clips("nsynth", "test", family, data, False).data["labels"] == [["bass"], ["organ"], ["vocal"]]
    qualities = dataclasses.replace(TASK, metric="mAP", multi_label=True, skip_labels=2)
    assert open_clips("nsynth", "test", qualities, data, False).data["labels"] == [["dark"], ["dark", "long"]]
    only = dataclasses.replace(TASK, ids=frozenset({names[1]}))
    assert list(open_clips("nsynth", "test", only, data, False).data["id"]) == [f"nsynth/{names[1]}"]
    with pytest.raises(ValueError, match="not one clip of 'nsynth' .* takes part in split 'test'"):
        open_clips("nsynth", "test", dataclasses.replace(TASK, ids=frozenset({"other"})), data, False)


def test_a_missing_set_says_how_to_get_it_and_nothing_is_fetched():
    with pytest.raises(NotMeasured, match=r"(?s)ESC-50: https.*meta/esc50.csv.*--data esc50="):
        open_clips("esc50", "test", TASK, {}, False)
    with pytest.raises(ValueError, match="no set 'esc51'"):
        open_clips("esc51", "test", TASK, {}, False)


def test_the_key_is_the_content(real_clips, tmp_path):
    (tmp_path / "a.ogg").write_bytes(real_clips[0]["bytes"])
    in_file = content_key({"bytes": None, "path": str(tmp_path / "a.ogg")})
    assert in_file == content_key({"bytes": real_clips[0]["bytes"], "path": "b.ogg"}) != content_key(real_clips[1])
    assert content_key(real_clips[0], 2.0) != content_key(real_clips[0])  # only a part of it is heard


def test_scenes_hold_each_sound_where_they_say(small_corpora):
    corpus = load_corpus(small_corpora["shipped_heldout"])
    scenes = lay_out_scenes(corpus)
    assert scenes.to_dict() == lay_out_scenes(corpus).to_dict()
    assert sum(map(len, scenes["labels"])) == 9 or sum(map(len, scenes["labels"])) == 8  # of nine, one may be left over
    for scene in scenes:
        sound = load_waveform(scene["audio"], 16_000)
        events = scene["events"]
        assert len(events) in (2, 3) and len(set(scene["labels"])) == len(events)
        assert all(before["end"] < after["start"] for before, after in zip(events, events[1:], strict=False))
        quiet = [0.0, *(event["end"] for event in events)]
        for start, event in zip(quiet, events, strict=False):
            assert abs(sound[round(start * 16_000) + 8 : round(event["start"] * 16_000) - 8]).max() < 1e-3
            assert abs(sound[round(event["start"] * 16_000) : round(event["end"] * 16_000)]).max() > 0.02
