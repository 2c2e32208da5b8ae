"""Everything that a command line can name becomes a list of sounds."""

import io

import pytest
import typer

from hf_slap import bundled
from hf_slap.cli.inputs import find_sounds, label_names, open_place


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.wav",
        "a.MP3",
        "deep/er/c.opus",
        "deep/film.mp4",
        "notes.txt",
        ".hidden.wav",
        "odd[1].flac",
        "raw.xyz",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(inputs, stdin="") -> list[str]:
    return [sound.name for sound in find_sounds(inputs, io.StringIO(stdin))[0]]


def test_a_folder_gives_its_sounds_to_the_bottom_in_order(folder):
    assert names(["."]) == ["a.MP3", "b.wav", "deep/er/c.opus", "deep/film.mp4", "odd[1].flac"]


def test_files_are_taken_whatever_their_suffix_and_in_the_order_given(folder):
    assert names(["raw.xyz", "odd[1].flac", "a.MP3"]) == ["raw.xyz", "odd[1].flac", "a.MP3"]


def test_globs_are_looked_up_also_across_folders(folder):
    assert names(["*.wav", "**/*.opus"]) == ["b.wav", "deep/er/c.opus"]


def test_a_sound_that_is_named_twice_comes_once(folder):
    assert names(["b.wav", ".", str(folder / "b.wav"), "./b.wav"])[:2] == ["b.wav", "a.MP3"]
    assert names(["b.wav", ".", str(folder / "b.wav")]).count("b.wav") == 1


def test_lists_on_stdin_may_hold_all_of_these(folder):
    assert names(["a.MP3", "-"], "b.wav\n\ndeep\n") == ["a.MP3", "b.wav", "deep/er/c.opus", "deep/film.mp4"]
    assert names(["-"], "b.wav\0deep/er/c.opus\0") == ["b.wav", "deep/er/c.opus"]


def test_urls_are_left_as_they_are(folder):
    assert names(["https://host/a.ogg?x=1", "file:///b.wav"]) == ["https://host/a.ogg?x=1", "file:///b.wav"]


def test_what_is_not_there_is_named_with_its_reason_and_stops_nothing(folder):
    (folder / "empty").mkdir()
    sounds, missing = find_sounds(["gone.wav", "b.wav", "empty"])
    assert [sound.name for sound in sounds] == ["b.wav"]
    assert [name for name, _ in missing] == ["gone.wav", "empty"]
    assert "no file, folder or glob 'gone.wav'" in missing[0][1] and "no sound file in folder 'empty'" in missing[1][1]


def test_labels_come_between_commas_and_from_files_of_lines_each_once(tmp_path):
    (tmp_path / "more.txt").write_text("rain, heavy\n\na dog\n")
    assert label_names([" a dog , a cat,", str(tmp_path / "more.txt")]) == ["a dog", "a cat", "rain, heavy"]
    for wrong in ([","], [str(tmp_path / "gone.txt")]):
        with pytest.raises(typer.BadParameter):
            label_names(wrong)


def test_the_model_that_ships_goes_by_its_name_unless_a_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_place(None) == open_place("slap-nano") == bundled("slap-nano")
    (tmp_path / "slap-nano").mkdir()
    assert open_place("slap-nano") == "slap-nano" and open_place("org/slap") == "org/slap"
    assert open_place(None) == bundled("slap-nano")
