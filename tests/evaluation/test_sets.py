"""Sets are read as they are published or as a table, and a set that is missing says how to get it."""

import dataclasses
import shutil

import pytest
import soundfile
from datasets import Dataset

from hf_slap.data import load_corpus
from hf_slap.evaluation.run import open_task
from hf_slap.evaluation.scenes import lay_out_scenes
from hf_slap.evaluation.sets import NotMeasured, content_key, open_clips
from hf_slap.evaluation.suites import SUITES
from hf_slap.evaluation.tasks import Task
from hf_slap.modeling.audio_slap import load_waveform

TASK = Task("x", "zero_shot", "esc50", "accuracy", "")
TAGGING = Task("x", "zero_shot", "fsd50k", "mAP", "", multi_label=True)
PROBE = Task("x", "probe", "crema_d", "accuracy", "")


def table(real_clips, **columns) -> Dataset:
    """An open set of as many real clips as the columns are long."""
    return Dataset.from_dict({"audio": real_clips[: len(next(iter(columns.values())))], **columns})


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
    clips = open_clips("nsynth", "test", qualities, data, False)
    assert clips.data["labels"] == [["dark"], ["dark", "long"]]
    assert clips.notes[-1] == "1 of 3 clips are left out: they have none of the labels that are meant"
    only = dataclasses.replace(pitch, ids=frozenset({names[1]}))
    assert list(open_clips("nsynth", "test", only, data, False).data["id"]) == [f"nsynth/{names[1]}"]
    with pytest.raises(ValueError, match="not one clip of 'nsynth' .* takes part in split 'test'"):
        open_clips("nsynth", "test", dataclasses.replace(TASK, ids=frozenset({"other"})), data, False)


def test_a_probe_learns_from_no_clip_that_it_is_judged_by(real_clips):
    labels = ["ANG", "SAD", "SAD"]
    with pytest.raises(
        NotMeasured, match=r"3 of 3 clips .*learn from \(no split column: all clips\).*'test' and 'train'"
    ):
        open_task(PROBE, {"crema_d": table(real_clips, label=labels)}, False)
    twice = table([real_clips[0], real_clips[1], real_clips[0]], label=labels, split=["train", "train", "test"])
    with pytest.raises(NotMeasured, match="1 of 1 clips to judge by, the first is '2'"):
        open_task(PROBE, {"crema_d": twice}, False)
    apart = open_task(PROBE, {"crema_d": table(real_clips, label=labels, split=["train", "test", "train"])}, False)
    assert [list(apart[side].data["id"]) for side in ("test", "train")] == [["1"], ["0", "2"]]


def test_splits_of_other_names_are_not_taken_for_those_that_are_meant(real_clips, tmp_path):
    corpus = table(real_clips, label=["ANG", "SAD"], split=["training", "evaluation"])
    corpus.to_parquet(tmp_path / "clips.parquet")
    for place in (corpus, tmp_path / "clips.parquet"):
        with pytest.raises(NotMeasured, match=r"no split 'test' in .*'split' has \['evaluation', 'training'\]"):
            open_clips("crema_d", "test", PROBE, {"crema_d": place}, False)


def test_a_table_without_a_split_column_is_taken_whole_and_says_so(real_clips, tmp_path):
    corpus = table(real_clips, label=["ANG", "SAD"])
    corpus.to_parquet(tmp_path / "clips.parquet")
    for place in (corpus, tmp_path / "clips.parquet"):
        clips = open_clips("crema_d", "test", TASK, {"crema_d": place}, False)
        assert len(clips.data) == 2 and clips.notes == ("no split column: all clips",)
    for splits, notes in (
        (None, ()),
        (["all", "all"], ()),
        (["a", "b"], ("the column 'split' has no 'test': all clips",)),
    ):
        by_genre = table(real_clips, genre=["rock", "jazz"], **({"split": splits} if splits else {}))
        clips = open_clips("gtzan", "test", TASK, {"gtzan": by_genre}, False)  # which has no splits
        assert len(clips.data) == 2 and clips.notes == notes


def test_what_clips_are_judged_by_is_in_their_digest(real_clips):
    def digest(task, **columns):
        clips = open_clips("own", "test", task, {"own": table(real_clips, **columns)}, False)
        return clips.digest, list(clips.data["key"])

    retrieval, folds = Task("x", "retrieval", "own", "recall@1", ""), dataclasses.replace(PROBE, folds="fold")
    detection = Task("x", "events", "own", "segment mAP", "", multi_label=True)
    events = [[[{"label": "a", "start": 0.0, "end": end}], []] for end in (1.0, 2.0)]
    for before, after in (
        (digest(TASK, label=["a", "b"]), digest(TASK, label=["b", "b"])),
        (digest(retrieval, text=["a", "b"]), digest(retrieval, text=["a", "c"])),
        (digest(folds, label=["a", "b"], fold=[1, 2]), digest(folds, label=["a", "b"], fold=[2, 1])),
        tuple(digest(detection, labels=[["a"], []], events=its) for its in events),
    ):
        assert before[0] != after[0] and before[1] == after[1]


def test_text_holds_several_labels_where_a_semicolon_stands(real_clips, tmp_path):
    for number, clip in enumerate(real_clips[:3]):
        (tmp_path / f"{number}.ogg").write_bytes(clip["bytes"])
    lines = ["file_name,labels,split", "0.ogg,Bark; Dog,test", '1.ogg,"Speech, female",test', "2.ogg,,test"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    clips = open_clips("fsd50k", "test", TAGGING, {"fsd50k": tmp_path}, False)
    assert clips.data["labels"] == [["Bark", "Dog"], ["Speech, female"], []] and clips.notes == ()
    commas = table(real_clips, labels=["Bark,Dog", "Dog"], split=["test", "test"])
    clips = open_clips("fsd50k", "test", TAGGING, {"fsd50k": commas}, False)
    assert clips.notes == ("no ';' between labels: 'Bark,Dog' is one label",)
    lists = table(real_clips, labels=[["a; b"], ["c"]], split=["test", "test"])  # lists are as they are
    assert open_clips("fsd50k", "test", TAGGING, {"fsd50k": lists}, False).data["labels"] == [["a; b"], ["c"]]
    with pytest.raises(NotMeasured, match=r"labels \(a list, or text with ; between them\), split"):
        open_clips("fsd50k", "test", TAGGING, {}, False)


def test_a_clip_may_have_no_label_where_it_may_have_several(real_clips):
    corpus = table(real_clips, labels=[["a"], [], ["b", "a"]], split=["test"] * 3)
    clips = open_clips("fsd50k", "test", TAGGING, {"fsd50k": corpus}, False)
    assert clips.data["labels"] == [["a"], [], ["b", "a"]]
    with pytest.raises(NotMeasured, match="2 of 3 clips in an open Dataset do not have exactly one label, .* is '1'"):
        open_clips("fsd50k", "test", TASK, {"fsd50k": corpus}, False)
    corpus = table(real_clips, text=["a", " "])
    with pytest.raises(ValueError, match="an open Dataset: .*1 of 2 rows have no caption in column 'text'"):
        open_clips("own", "test", Task("x", "retrieval", "own", "recall@1", ""), {"own": corpus}, False)


def test_events_are_needed_where_they_are_judged(real_clips):
    detection = Task("x", "events", "desed", "segment mAP", "", multi_label=True)
    for events in ({}, {"events": [[{"label": "a", "start": 0.0, "end": 1.0}], None]}):
        corpus = table(real_clips, labels=[["a"], []], split=["test"] * 2, **events)
        with pytest.raises(NotMeasured, match=r"have no events .* events \(a list of {label, start, end}, seconds\)"):
            open_clips("desed", "test", detection, {"desed": corpus}, False)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("own-retrieval", {"label": ["a", "b"]}, r"no captions in clips.parquet: its columns are \['audio', 'label'\]"),
        ("own-captioning", {"label": ["a", "b"]}, "no captions in clips.parquet"),
        ("own-zero-shot", {"text": ["a", "b"]}, "no labels in clips.parquet"),
        ("own-zero-shot", {"labels": [["a"], ["a", "b"]]}, "1 of 2 clips in clips.parquet do not have exactly one"),
    ],
)
def test_clips_of_your_own_need_not_have_everything(real_clips, tmp_path, name, columns, message):
    table(real_clips, **columns).to_parquet(tmp_path / "clips.parquet")
    (task,) = (task for task in SUITES["own"] if task.name == name)
    with pytest.raises(NotMeasured, match=message):
        open_clips("own", "test", task, {"own": tmp_path / "clips.parquet"}, False)


def test_gtzans_excerpts_are_known_by_their_files(real_clips):
    names = ("genres/blues/blues.00012.au", "blues.00013.flac", "blues.00050.wav", "blues.00014")
    audio = [{**clip, "path": name} for clip, name in zip(real_clips, names, strict=False)]
    (task,) = (task for task in SUITES["slap"] if task.name == "gtzan-filtered-zero-shot")
    clips = open_clips("gtzan", "test", task, {"gtzan": table(audio, genre=["blues"] * 4)}, False)
    assert list(clips.data["id"]) == ["0", "1", "3"]


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
