"""The command timeline."""

import shutil

import pytest

import hf_slap
from hf_slap.timeline import timeline


def test_it_prints_segments_and_writes_files(slap, sounds, tiny_folder):
    status, records, said = slap(
        "timeline", ".", "-l", "dog,rain", "-m", tiny_folder, "--threshold", "0", "--exclusive", "-f", "json",
        "-o", "out/{}.vtt", "-o", "out/{}.png",
    )  # fmt: skip
    assert status == 1 and "broken.ogg" in said and "1 of 3 sounds failed" in said
    listener = hf_slap.Listener(tiny_folder)
    for record, name in zip(records, ("one.wav", "two.flac"), strict=True):
        expected = timeline(listener, None, name, ["dog", "rain"], threshold=0.0, multi_label=False)
        assert record == {**expected.to_dict(), "name": name}
        assert (sounds / "out" / f"{name[:3]}.vtt").read_text() == expected.to_webvtt()
        assert (sounds / "out" / f"{name[:3]}.png").stat().st_size > 10_000
    status, table, said = slap("timeline", "one.wav", "-l", "dog,rain", "-m", tiny_folder, "--threshold", "1")
    assert (status, table) == (0, "") and "none of the labels scores 1; the best is '" in said
    status, table, said = slap("timeline", "one.wav", "-m", tiny_folder)
    assert (status, said) == (0, "") and table.split()[:4] == ["sound", "start", "end", "caption"]
    status, table, said = slap("timeline", "one.wav", "-m", tiny_folder, "-o", "x.txt")
    assert (status, table) == (0, "") and "wrote x.txt" in said and (sounds / "x.txt").read_text().startswith("0.000")


@pytest.mark.parametrize(
    "outputs, said",
    [
        (["x.mp4"], "accepted are files"),
        (["x.png"], "there are 2 sounds"),
        (["{}.png", "{}.mp4"], "accepted are files"),
    ],
)
def test_files_that_cannot_be_written_so_are_refused_at_once(slap, sounds, outputs, said):
    options = [word for output in outputs for word in ("-o", output)]
    status, _, error = slap("timeline", "one.wav", "two.flac", *options)
    assert status == 2 and said in " ".join(error.replace("│", " ").split())


def test_sounds_that_differ_by_suffix_keep_it_and_those_of_one_name_are_refused(slap, sounds, tiny_folder):
    shutil.copy("one.wav", "one.flac")
    assert slap("timeline", "one.wav", "one.flac", "two.flac", "-m", tiny_folder, "-o", "{}.csv", "-l", "dog")[0] == 0
    assert all((sounds / name).is_file() for name in ("one.wav.csv", "one.flac.csv", "two.csv"))
    (sounds / "below").mkdir()
    shutil.copy("one.wav", "below")
    status, _, error = slap("timeline", "one.wav", "below/one.wav", "-o", "{}.csv")
    assert status == 2 and "several sounds are called 'one.wav'" in " ".join(error.replace("│", " ").split())
