"""What an index finds, and what an update does when files come, change, move, go, break, or when it is killed."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from processes import start

import hf_slap
from hf_slap import embedding
from hf_slap.listening import Listener
from hf_slap.modeling.modeling_slap import audio_windows
from hf_slap.search import Match, SoundIndex
from hf_slap.search import index as module
from hf_slap.search import store as store_module
from hf_slap.search.store import Store

RATE = 16_000


@pytest.fixture(scope="module")
def listener(tiny_folder) -> Listener:
    return Listener(tiny_folder)


@pytest.fixture(scope="module")
def long_wave(real_clips) -> np.ndarray:
    """47.3 s of real sound."""
    extractor = hf_slap.SlapFeatureExtractor()
    return np.resize(np.concatenate([extractor.load(clip) for clip in real_clips]), round(47.3 * RATE))


@pytest.fixture
def sounds(real_clips, tmp_path) -> Path:
    """Seven real clips: five in a folder, two below it; a text file, and a hidden sound."""
    folder = tmp_path / "sounds"
    (folder / "below").mkdir(parents=True)
    for number, clip in enumerate(real_clips):
        (folder / (f"below/{number}.OGG" if number > 4 else f"{number}.ogg")).write_bytes(clip["bytes"])
    (folder / "notes.txt").write_text("no sound")
    (folder / ".hidden.ogg").write_bytes(real_clips[0]["bytes"])
    return folder


@pytest.fixture
def library(listener, tmp_path) -> SoundIndex:
    return SoundIndex(tmp_path / "index", listener)


@pytest.fixture
def heard(monkeypatch) -> list[str]:
    """Paths of files that an update decodes from now on."""
    paths, prepare = [], embedding._prepare

    def spy(clip, item, *arguments):
        if isinstance(item, str):
            paths.append(item)
        yield from prepare(clip, item, *arguments)

    monkeypatch.setattr(embedding, "_prepare", spy)
    return paths


def update(library: SoundIndex, *sources, **options) -> dict:
    """What an update did, without zeros and times."""
    report = vars(library.update(sources or None, progress=False, **options))
    return {name: value for name, value in report.items() if value and name not in ("took", "seconds")}


# ------------------------------------------------------------------------------------------ search


def test_sounds_are_found_in_the_order_of_the_models_own_cosines(library, listener, sounds, real_clips):
    update(library, sounds)
    embedded = hf_slap.embed(sounds / "*.ogg", listener.model, listener.processor, progress=False).dataset
    vectors = np.array(embedded["embedding"], np.float32)
    for query, own in (
        ({"text": "a dog barks"}, listener.embed_texts(["a dog barks"])[0]),
        ({"audio": real_clips[3]}, vectors[3]),
    ):
        found = [match for match in library.search(**query, k=7) if "below" not in match.path]
        cosines = vectors @ own
        assert [match.path for match in found] == [embedded["id"][row] for row in np.argsort(-cosines)]
        np.testing.assert_allclose(
            [match.score for match in found], np.sort(cosines)[::-1], atol=2e-3
        )  # half precision
    first = library.search(audio=real_clips[3], k=1)[0]
    length = embedded["seconds"][3]
    assert first == Match(str(sounds / "3.ogg"), 0.0, length, pytest.approx(1, abs=1e-3))


def test_a_long_file_is_found_by_its_stretches_each_as_the_model_hears_its_window(
    library, listener, long_wave, tmp_path
):
    path = tmp_path / "long.flac"
    soundfile.write(path, long_wave, RATE)
    assert update(library, path) == {"added": 1, "embedded": 1}

    config = library._model.config
    frames = listener.processor.feature_extractor.log_mel(listener.processor.feature_extractor.load(path))
    windows = audio_windows(len(frames) // config.patch_frames, config)
    column = config.patch_frames / config.frames_per_second
    assert windows[0][1] * column == pytest.approx(10, abs=column) and len(windows) == 6
    query = listener.embed_texts(["rain"])[0]
    cosines = []
    for begin, end, *_ in windows:
        part = torch.from_numpy(frames[begin * config.patch_frames : end * config.patch_frames])[None]
        with torch.no_grad():
            out = listener.model.get_audio_features(part, torch.ones(part.shape[:2], dtype=torch.bool))
        cosines.append(float(out.pooler_output[0].numpy() @ query))

    found = sorted(library.search("rain", k=9, per_file=None), key=lambda match: match.start)
    np.testing.assert_allclose([match.score for match in found], cosines, atol=2e-3)
    assert [match.start for match in found] == [pytest.approx(own_start * column) for *_, own_start, _ in windows]
    assert [match.end for match in found[:-1]] == [match.start for match in found[1:]]  # no gap
    assert found[-1].end == pytest.approx(47.3)
    assert library.search("rain", k=9) == sorted(found, key=lambda match: -match.score)[:3]
    assert len(library.search("rain", k=9, per_file=1)) == 1


def test_one_file_of_many_windows_does_not_hide_the_others(library, sounds, monkeypatch):
    update(library, sounds)
    store = library._open()
    query = library._model.embed("rain", None, None, False)
    with store.transaction():  # a day of rain
        store.add_sound(module.Sound(b"rain" * 4, 86_400.0, [(n, n + 1) for n in range(900)], np.tile(query, (900, 1))))
        store.add_file(module.FileState("/rain.wav", 1, 1), b"rain" * 4)
    found = library.search("rain", k=10)
    assert [match.path == "/rain.wav" for match in found] == [True] * 3 + [False] * 7


def test_a_question_that_is_none_is_refused(library, sounds):
    with pytest.raises(FileNotFoundError, match="no index in .*slap index FOLDER"):
        library.search("rain")
    with pytest.raises(FileNotFoundError, match="no index in"):
        library.update()
    assert not library.folder.exists()
    for wrong in ({}, {"text": "rain", "audio": "x.wav"}):
        with pytest.raises(ValueError, match="either a text or"):
            library.search(**wrong)
    for text in ("", " ", 7):
        with pytest.raises(ValueError, match="pass some words"):
            library.search(text)
    with pytest.raises(ValueError, match="k=0 and per_file=3 must be at least 1"):
        library.search("rain", k=0)
    update(library, sounds)
    with pytest.raises(hf_slap.AudioError):
        library.search(audio=sounds / "notes.txt")


# ------------------------------------------------------------------------------------------ updates


def test_only_what_is_new_or_changed_is_listened_to(library, sounds, real_clips, heard):
    assert update(library, sounds) == {"added": 7, "embedded": 7}
    assert len(heard) == 7
    heard.clear()
    assert update(library) == {"unchanged": 7}  # the folder is remembered

    os.rename(sounds / "0.ogg", sounds / "below" / "moved.ogg")
    shutil.copy(sounds / "1.ogg", sounds / "copy.ogg")
    os.utime(sounds / "2.ogg", (1, 1))
    (sounds / "3.ogg").write_bytes(real_clips[4]["bytes"])  # now a copy of another
    (sounds / "below" / "5.OGG").unlink()
    expected = {"moved": 1, "copied": 1, "unchanged": 4, "changed": 1, "removed": 1}
    assert update(library) == expected and heard == []
    assert update(library) == {"unchanged": 7}

    found = {match.path: match for match in library.search(audio=real_clips[0], k=9)}
    names = {"below/moved.ogg", "1.ogg", "2.ogg", "3.ogg", "below/6.OGG"}
    assert set(found) == {str(sounds / name) for name in names}
    assert found[str(sounds / "below" / "moved.ogg")].score == pytest.approx(1, abs=1e-3)
    assert found[str(sounds / "1.ogg")].copies == (str(sounds / "copy.ogg"),)
    assert found[str(sounds / "3.ogg")].copies == (str(sounds / "4.ogg"),)


def test_copies_that_come_together_are_listened_to_once(library, sounds, real_clips, heard):
    for number in range(9):
        (sounds / f"again-{number}.ogg").write_bytes(real_clips[2]["bytes"])
    assert update(library, sounds, workers=3) == {"added": 7, "copied": 9, "embedded": 7}
    assert len(heard) == 7
    assert library.describe()["files"] == 16 and library.describe()["sounds"] == 7


def test_what_vanished_is_not_found_and_comes_back_without_being_listened_to_for_a_month(
    library, sounds, real_clips, heard, monkeypatch
):
    update(library, sounds)
    heard.clear()
    (sounds / "0.ogg").rename(sounds.parent / "away.ogg")
    assert update(library) == {"removed": 1, "unchanged": 6}
    assert str(sounds / "0.ogg") not in {match.path for match in library.search(audio=real_clips[0])}
    (sounds.parent / "away.ogg").rename(sounds / "back.ogg")
    assert update(library) == {"added": 1, "unchanged": 6} and heard == []
    assert library.search(audio=real_clips[0], k=1)[0].path == str(sounds / "back.ogg")

    (sounds / "back.ogg").rename(sounds.parent / "away.ogg")
    update(library)
    monkeypatch.setattr(store_module, "KEEP_SECONDS", -1.0)
    update(library)
    (sounds.parent / "away.ogg").rename(sounds / "0.ogg")
    assert update(library) == {"added": 1, "unchanged": 6, "embedded": 1}


def test_a_disk_that_is_not_there_takes_nothing_out(library, sounds, tmp_path):
    update(library, sounds)
    sounds.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="no file or folder .*--forget"):
        library.update(progress=False)
    sounds.mkdir()
    with pytest.raises(FileNotFoundError, match="holds 7; is its disk connected.*--forget"):
        library.update(progress=False)
    assert library.describe()["files"] == 7
    assert update(library, tmp_path / "elsewhere") == {"copied": 7}
    assert library.forget(sounds) == 7
    assert library.describe()["folders"] == [str(tmp_path / "elsewhere")]
    assert update(library) == {"unchanged": 7}


def test_files_that_cannot_be_heard_are_listed_and_tried_again(library, sounds, real_clips):
    (sounds / "broken.wav").write_bytes(b"RIFF and nothing else")
    (sounds / "copy of broken.wav").write_bytes(b"RIFF and nothing else")
    soundfile.write(sounds / "short.wav", np.zeros(50, np.float32), RATE)
    os.link(sounds / "1.ogg", os.fsencode(sounds) + b"/\xff.ogg")
    report = library.update(sounds, progress=False)
    assert report.added == report.embedded == 7
    failed = dict(report.failed)
    assert {os.path.basename(path) for path in failed} == {"broken.wav", "copy of broken.wav", "short.wav", "\\xff.ogg"}
    assert "rename it" in failed[str(sounds / "\\xff.ogg")]
    assert {path for path, _ in library.failed} == set(failed) - {str(sounds / "\\xff.ogg")}
    (sounds / "broken.wav").write_bytes(real_clips[0]["bytes"])
    report = library.update(progress=False)
    assert report.copied == 1 and len(report.failed) == 3 and report.unchanged == 7


def test_a_file_that_changes_under_the_reader_is_left_for_the_next_time(library, sounds, real_clips, monkeypatch):
    prepare = embedding._prepare

    def meddle(clip, item, *arguments):
        if item.endswith("3.ogg"):
            Path(item).write_bytes(real_clips[4]["bytes"] + b"!")
        yield from prepare(clip, item, *arguments)

    monkeypatch.setattr(embedding, "_prepare", meddle)
    report = library.update(sounds, progress=False)
    assert report.failed == [(str(sounds / "3.ogg"), "it was changed while it was read; update again")]
    monkeypatch.undo()
    assert update(library) == {"added": 1, "unchanged": 6, "embedded": 1}


# ------------------------------------------------------------------------------------------ which model


def test_an_index_opens_its_own_model_and_refuses_others(library, listener, tiny_folder, tiny_config, tmp_path, sounds):
    update(library, sounds)
    again = SoundIndex(library.folder)
    assert again.search("rain", k=3) == library.search("rain", k=3)
    assert again.describe()["model"] == str(tiny_folder) and again.describe()["window_seconds"] == 10

    with torch.no_grad():
        other = hf_slap.SlapModel.from_pretrained(tiny_folder)
        other.text_projection.weight[0, 0] += 1  # its texts lie elsewhere
    stranger = SoundIndex(library.folder, other, listener.processor)
    for ask in (lambda: stranger.search("rain"), lambda: stranger.update(sounds)):
        with pytest.raises(
            ValueError, match=r"(?s)was made by .*slap-tiny.* not by .*Leave the model out.*text weights"
        ):
            ask()
    with pytest.raises(ValueError, match="has windows of 10 s, not 5"):
        SoundIndex(library.folder, listener, window_seconds=5).search("rain")
    with pytest.raises(ValueError, match="window_seconds=31; accepted are up to 30"):
        SoundIndex(tmp_path / "new", listener, window_seconds=31).update(sounds)
    facts = json.loads(library._open().fact("model"))
    with library._open().transaction():
        library._open().set_fact("model", json.dumps({**facts, "name": str(tmp_path / "deleted")}))
    with pytest.raises(FileNotFoundError, match="made by .*deleted.*cannot be opened.*--model"):
        SoundIndex(library.folder).search("rain")


# ------------------------------------------------------------------------------------------ several processes


def index_in_turns(folder: Path, model: Path, sources: list[Path], report: Path) -> None:
    library = SoundIndex(folder, str(model))
    embedded = [library.update(source, progress=False, batch_seconds=0.5).embedded for source in sources]
    report.write_text(json.dumps(embedded))


def index_and_die(folder: Path, model: Path, sounds: Path) -> None:
    """Killed inside the transaction of the fourth sound."""
    add, added = Store.add_sound, []

    def add_sound(self, sound):
        add(self, sound)
        added.append(sound)
        if len(added) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    Store.add_sound = add_sound
    SoundIndex(folder, str(model)).update(sounds, progress=False, batch_seconds=0.1, workers=1)


def test_killed_while_indexing_it_keeps_what_was_committed_and_goes_on(library, tiny_folder, sounds, heard, tmp_path):
    process = start(index_and_die, library.folder, tiny_folder, sounds)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = library.describe()["sounds"]
    assert 1 <= kept <= 3
    assert update(library, sounds) == {"added": 7 - kept, "unchanged": kept, "embedded": 7 - kept}
    assert len(heard) == 7 - kept
    whole = SoundIndex(tmp_path / "whole", library._given)
    update(whole, sounds)
    found, expected = (sorted(one.search("rain"), key=lambda match: match.path) for one in (library, whole))
    assert [match.path for match in found] == [match.path for match in expected]
    np.testing.assert_allclose([m.score for m in found], [m.score for m in expected], atol=1e-3)


def test_processes_that_share_an_index_lose_nothing_and_listen_to_nothing_twice(
    library, tiny_folder, sounds, real_clips, tmp_path
):
    update(library, sounds / "0.ogg")
    folders = [tmp_path / name for name in ("mine", "yours")]
    for folder, numbers in zip(folders, ((1, 2, 3), (3, 4, 5)), strict=True):
        folder.mkdir()
        for number in numbers:
            (folder / f"{number}.ogg").write_bytes(real_clips[number]["bytes"])
    reports = [tmp_path / "mine.json", tmp_path / "yours.json"]
    sources = [[folder, sounds] for folder in folders]
    processes = [
        start(index_in_turns, library.folder, tiny_folder, source, report)
        for source, report in zip(sources, reports, strict=True)
    ]
    searches = 0
    while any(process.is_alive() for process in processes):
        assert library.search(audio=real_clips[0], k=1)[0].score == pytest.approx(1, abs=1e-3)
        searches += 1
        time.sleep(0.01)
    assert [process.exitcode for process in processes] == [0, 0] and searches > 3
    embedded = [json.loads(report.read_text()) for report in reports]
    assert np.sum(embedded) == 6  # seven contents, one of which was there
    about = library.describe()
    assert about["files"] == 13 and about["sounds"] == 7
    assert library.search(audio=real_clips[3], k=1)[0].copies == (str(sounds / "3.ogg"), str(folders[1] / "3.ogg"))


def test_an_update_waits_for_another_and_then_finds_nothing_to_do(library, sounds, caplog):
    update(library, sounds)
    with library._turn_to_update():
        other, reports = SoundIndex(library.folder, library._given), []
        thread = threading.Thread(target=lambda: reports.append(other.update(progress=False)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and "another process is updating" in caplog.text
    thread.join()
    assert reports[0].unchanged == 7
