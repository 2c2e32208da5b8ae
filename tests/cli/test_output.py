"""Results in three forms, failures counted, and nothing but results on stdout."""

import csv
import io
import json

import pytest
import typer

from hf_slap.cli.output import Format, Report, bar_text, clock, progress

ROWS = [("a, b.wav", 0.5), ('say "é".wav', 0.25)]


def report(format, output=None, fail=False):
    with Report(["sound", "score"], format, output) as written:
        for sound, score in ROWS:
            written.add({"sound": sound, "score": score})
        if fail:
            written.fail("c.wav", "broken")


def test_json_is_a_list_of_records(capsys):
    report(Format.json)
    assert json.loads(capsys.readouterr().out) == [{"sound": sound, "score": score} for sound, score in ROWS]


def test_csv_is_read_back_as_it_was(capsys):
    report(Format.csv)
    read = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert read == [["sound", "score"], *([sound, str(score)] for sound, score in ROWS)]


def test_a_table_in_a_pipe_never_breaks_a_line_nor_takes_brackets_for_markup(capsys):
    long = "folder/" * 40 + "[red]x[/red].wav"
    with Report(["sound", "score"]) as written:
        written.add({"sound": long, "score": 0.123456})
    assert capsys.readouterr().out.splitlines()[1].split() == [long, "0.123"]


@pytest.mark.parametrize("format, nothing", [("json", "[]\n"), ("csv", "sound,score\n"), ("table", "")])
def test_no_results_are_valid_too(capsys, format, nothing):
    with Report(["sound", "score"], Format(format)):
        pass
    assert capsys.readouterr().out == nothing


def test_the_suffix_of_the_file_decides_unless_the_format_is_given(tmp_path):
    report(None, tmp_path / "a.json")
    report(None, tmp_path / "a.CSV")
    report(Format.json, tmp_path / "a.txt")
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((tmp_path / "a.txt").read_text())
    assert (tmp_path / "a.CSV").read_text().startswith("sound,score\n")


def test_folders_are_made_and_suffixes_that_say_nothing_are_refused(tmp_path, capsys):
    report(None, tmp_path / "new" / "a.txt")
    assert capsys.readouterr().err.replace("\n", "") == f"wrote {tmp_path / 'new' / 'a.txt'}: 2 sounds"
    assert (tmp_path / "new" / "a.txt").read_text().startswith("sound")
    with pytest.raises(ValueError, match="name it .json, .csv or .txt"):
        report(None, tmp_path / "a.tsv")


def test_failures_are_named_and_counted_on_stderr_and_end_with_1_after_all_results(capsys):
    with pytest.raises(typer.Exit) as left:
        report(Format.json, fail=True)
    said = capsys.readouterr()
    assert left.value.exit_code == 1 and len(json.loads(said.out)) == 2
    assert said.err == "slap: c.wav: broken\n1 of 3 sounds failed\n"


def test_progress_is_silent_where_nobody_watches(capsys):
    with progress("listening", 2) as bar:
        bar(1)
        bar.update(1)
        bar.set_postfix_str("fast")
    assert capsys.readouterr() == ("", "")


def test_clock_and_bar():
    assert [clock(seconds) for seconds in (0, 4.25, 59.96, 3723.4)] == ["0:00.0", "0:04.2", "1:00.0", "1:02:03.4"]
    assert [bar_text(score).plain for score in (0, 0.5, 0.99, 1)] == [
        "0.00 ",
        "0.50 █████",
        "0.99 █████████▉",
        "1.00 ██████████",
    ]
