"""slap index and slap search, as they are typed."""

import csv

import pytest

from hf_slap.cli import main


@pytest.fixture
def library(real_clips, tmp_path, monkeypatch):
    """sounds: three of them, and a broken one, in the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sounds"
    (folder / "below").mkdir(parents=True)
    for name, clip in zip(("a.ogg", "b.ogg", "below/c.ogg"), real_clips, strict=False):
        (folder / name).write_bytes(clip["bytes"])
    (folder / "broken.wav").write_bytes(b"no sound")
    return folder


@pytest.fixture
def indexed(library, tiny_folder, capsys):
    """The same, with an index in the folder `library`, and what the command said."""
    status = main(["index", "sounds", "--index", "library", "--model", str(tiny_folder)])
    return library, status, capsys.readouterr()


def test_index_says_what_it_did_and_names_what_is_broken(indexed, slap):
    sounds, status, said = indexed
    assert status == 1 and said.err.startswith("slap: ") and f"{sounds}/broken.wav" in said.err
    first, second = said.out.splitlines()
    assert first.startswith("3 added, 1 failed; listened to 3 sounds")
    assert second.startswith("the index now holds 3 files") and second.endswith(str(sounds.parent / "library"))

    (sounds / "broken.wav").unlink()
    (sounds / "a.ogg").rename(sounds / "d.ogg")
    status, out, err = slap("index", "-i", "library")
    assert (status, out.splitlines()[0], err) == (0, "1 moved, 1 removed, 2 unchanged", "")
    assert slap("index", "-i", "library", "--quiet") == (0, "", "")


def test_search_gives_tables_json_and_csv(indexed, slap):
    sounds, *_ = indexed
    status, table, said = slap("search", "a dog barks", "-k", "2", "-i", "library")
    assert (status, said) == (0, "")
    head, *rows = table.splitlines()
    assert head.split() == ["score", "path", "start", "end"] and len(rows) == 2
    assert all(row.split()[1].startswith("sounds/") for row in rows)

    _, found, _ = slap("search", "--like", "sounds/b.ogg", "--format", "json", "-i", "library")
    assert len(found) == 3 and found[0]["path"] == str(sounds / "b.ogg") and found[0]["score"] > 0.999
    assert found[0]["start"] == 0 and found[0]["end"] > 0.3 and found[0]["copies"] == []

    assert slap("search", "rain", "-o", "found.csv", "-i", "library")[:2] == (0, "")
    with open("found.csv") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


def test_forget_takes_a_folder_out(indexed, slap):
    status, out, said = slap("index", "--forget", "sounds/below", "-i", "library")
    assert (status, out, said) == (0, "", "1 files forgotten: sounds/below\n")
    _, found, _ = slap("search", "rain", "-i", "library", "-f", "json")
    assert sorted(match["path"][-5:] for match in found) == ["a.ogg", "b.ogg"]


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["search", "rain", "--index", "nowhere"], "make one with `slap index FOLDER`"),
        (["index", "--index", "nowhere"], "make one with `slap index FOLDER`"),
        (["index", "no-folder", "--index", "nowhere"], "no file or folder"),
        (["index", "silent", "--index", "nowhere"], "no sound file in"),
        (["search", "--index", "library"], "in words"),
        (["search", "rain", "--like", "sounds/a.ogg", "--index", "library"], "in words"),
        (["search", " ", "--index", "library"], "pass some words"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_says_why(library, slap, arguments, reason):
    (library.parent / "silent").mkdir(exist_ok=True)
    status, out, said = slap(*arguments)
    assert (status, out) == (2, "") and reason in said
    assert not (library.parent / "nowhere").exists()


def test_an_example_that_is_broken_and_other_windows_are_refused(indexed, slap):
    for arguments, reason in (
        (["search", "--like", "sounds/broken.wav"], "not audio"),
        (["index", "sounds", "--window", "3"], "has windows of 10 s, not 3"),
    ):
        status, out, said = slap(*arguments, "-i", "library")
        assert (status, out) == (2, "") and reason in said and said.startswith("slap: ")
