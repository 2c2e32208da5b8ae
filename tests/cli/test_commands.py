"""The list of commands, their help, and what becomes of errors."""

import json
import subprocess
import sys

import pytest

from hf_slap.cli import commands, main

LIGHT = """
import json, sys
from hf_slap.cli import main
status = main(["--help"])
print(json.dumps([status, [name for name in ("torch", "transformers", "numpy", "hf_slap.cli.listen") if name in sys.modules]]))
"""


def test_help_lists_every_command_and_imports_no_heavy_library():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *shown, last = done.stdout.splitlines()
    assert json.loads(last) == [0, []]
    listed = {words[1] for line in shown if len(words := line.split()) > 2 and words[0] == "│"}
    assert set(commands.COMMANDS) <= listed


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_help_of_a_command_has_examples_that_begin_with_it(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    lines = [line.strip() for line in shown[shown.index("Examples") :].splitlines()]
    assert any(line.startswith(f"slap {name}") for line in lines)
    assert f"\n   slap {name}" in shown, "examples lie under their heading"
    assert "{" not in shown[: shown.index("Examples")], "arguments are written as people write them"
    assert "--help" in shown


def test_the_help_of_prepare_shows_the_options_of_its_script(capsys):
    assert main(["prepare", "-h"]) == 0
    assert "--opus-kbps" in capsys.readouterr().out


def test_usage_errors_end_with_2_and_a_hint(capsys):
    assert main([]) == 2
    assert main(["clasify", "a.wav"]) == 2
    assert "Did you mean 'classify'?" in capsys.readouterr().err
    assert main(["classify", "a.wav"]) == 2
    assert "Missing option '--labels'" in capsys.readouterr().err


def test_an_error_is_one_line_unless_the_place_is_asked_for(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert main(["info", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("slap: ") and len(said.err.splitlines()) == 1
    with pytest.raises(json.JSONDecodeError):
        main(["--debug", "info", str(tmp_path)])


def test_version(capsys):
    import hf_slap

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf_slap {hf_slap.__version__}\n"


def test_without_typer_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "hf_slap.cli.commands")
    assert main(["--help"]) == 2
    assert capsys.readouterr().err == 'slap needs typer: pip install "hf_slap[cli]"\n'
