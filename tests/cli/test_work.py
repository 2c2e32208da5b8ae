"""info, eval, prepare and train."""

import csv
import io
import json
import sys
from pathlib import Path

import pyarrow
import pytest
import soundfile
from pyarrow import parquet

import hf_slap
from hf_slap.cli.facts import is_model

ROOT = Path(__file__).parents[2]


def test_info_of_a_model_counts_its_weights_and_reads_its_card(slap, tiny_folder, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "README.md").write_text((ROOT / "model_cards" / "slap-tiny.md").read_text())
    status, [facts], _ = slap("info", folder, "-f", "json")
    model = hf_slap.SlapForPreTraining.from_pretrained(tiny_folder)
    assert status == 0 and facts["model"] == "mine" and facts["licence"] == "apache-2.0"
    assert int(facts["weights"].replace(",", "")) == sum(parameter.numel() for parameter in model.parameters())
    audio = sum(parameter.numel() for parameter in model.slap.audio_model.parameters())
    assert facts["audio encoder"] == f"3 layers, width 24, {audio:,} weights"
    assert facts["scores"][0] == "heldout-zero-shot: accuracy, N = 103: 0.3107"
    table = slap("info", folder)[1]
    assert "joint space" in table and "11 numbers" in table


def test_info_of_nothing_is_about_the_model_that_ships_and_what_is_installed(slap):
    status, [facts], _ = slap("info", "-f", "json")
    assert status == 0 and facts["model"] == "slap-nano" and "torch " in facts["installed"]
    assert facts["licence"] == "apache-2.0" and "clips" in facts["training"][0] and "accuracy" in facts["scores"][0]


def test_info_of_damaged_weights_says_so(slap, tiny_folder, tmp_path):
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((tiny_folder / "model.safetensors").read_bytes()[:-100])
    status, _, said = slap("info", tmp_path)
    assert status == 2 and "model.safetensors" in said


def test_info_of_sounds_hears_them_to_their_end(slap, sounds):
    status, records, said = slap("info", ".", "-f", "json")
    assert status == 1 and "broken.ogg" in said
    assert [record["sound"] for record in records] == ["one.wav", "two.flac"]
    for record in records:
        wave, rate = soundfile.read(record["sound"])
        assert record["seconds"] == pytest.approx(len(wave) / rate, abs=1e-3)
        assert (record["rate"], record["channels"], record["format"][-7:]) == (16_000, 1, " PCM_16")
        assert 10 ** (record["peak_db"] / 20) == pytest.approx(abs(wave).max(), rel=0.01)


def test_what_is_taken_for_a_model(tiny_folder, sounds):
    things = [
        str(tiny_folder),
        "org/slap",
        "org/slap-1.5b",
        "one.wav",
        ".",
        "folder/*.wav",
        "https://host/a.ogg",
        "a/b.mp3",
    ]
    assert [thing for thing in things if is_model(thing)] == [str(tiny_folder), "org/slap", "org/slap-1.5b"]


def test_eval_measures_and_prints_what_the_results_file_holds(slap, tiny_folder, corpus_rows, tmp_path):
    table = pyarrow.Table.from_pylist([{"audio": row["audio"], "label": row["label"]} for row in corpus_rows])
    parquet.write_table(table, tmp_path / "mine.parquet")
    arguments = ["--data", f"own={tmp_path / 'mine.parquet'}", "--task", "own-zero-shot", "--folder", tmp_path, "-q"]
    status, [score], _ = slap("eval", tiny_folder, *arguments, "-f", "json")
    assert status == 0 and score["clips"] == len(corpus_rows)
    [written] = json.loads(next(tmp_path.glob("*.json")).read_text())["scores"]
    assert written == score
    status, shown, _ = slap("eval", tiny_folder, *arguments)
    assert status == 0 and f"{100 * score['value']:.1f} %" in shown


def test_eval_says_beside_the_values_what_limits_them(slap, tiny_folder, corpus_rows, tmp_path):
    table = pyarrow.Table.from_pylist([{"audio": row["audio"], "label": row["label"]} for row in corpus_rows])
    parquet.write_table(table, tmp_path / "mine.parquet")
    tasks = ["--task", "clap-sesa", "--task", "clap-esc50"]
    arguments = [tiny_folder, *tasks, "--data", f"esc50={tmp_path / 'mine.parquet'}", "--folder", tmp_path / "out"]
    status, shown, said = slap("eval", *arguments)
    protocol = f"{len(corpus_rows)} clips where the protocol has 2,000"
    assert status == 0 and f"{len(corpus_rows)} (of 2,000)" in shown and f"clap-esc50: {protocol}" in said
    assert [line.split()[:4] for line in shown.splitlines() if "sesa" in line] == [
        ["clap-sesa", "accuracy", "not", "measured"]
    ]
    assert "clap-sesa: not measured: " in said
    _, records, _ = slap("eval", *arguments, "-f", "json")
    assert [score["status"] for score in records] == ["not measured", "measured"] and "sesa" in records[0]["reason"]
    sesa, esc50 = csv.DictReader(io.StringIO(slap("eval", *arguments, "-f", "csv")[1]))
    assert (sesa["status"], sesa["value"], sesa["reason"]) == ("not measured", "", records[0]["reason"])
    assert esc50["status"] == "measured" and protocol in esc50["notes"] and esc50["clips"] == str(len(corpus_rows))


def test_eval_on_a_device_that_is_not_there_is_a_usage_error(slap, tiny_folder, tmp_path):
    status, out, said = slap("eval", tiny_folder, "--folder", tmp_path, "--device", "banana")
    assert (status, out) == (2, "") and "banana: not usable here" in said


def test_eval_of_a_set_that_is_not_here_says_how_to_get_it(slap, tiny_folder, tmp_path):
    status, _, said = slap("eval", tiny_folder, "--suite", "own", "--folder", tmp_path, "-q")
    assert status == 1 and "own-zero-shot: not measured" in said
    status, _, said = slap("eval", tiny_folder, "--suite", "nothing", "--folder", tmp_path)
    assert status == 2 and "quick" in said


def test_prepare_is_its_script(slap):
    status, listed, _ = slap("prepare", "--list", "clotho")
    assert status == 0 and "Clotho" in listed
    status, _, said = slap("prepare", "somewhere", "--codec", "mp3")
    assert status == 2 and "--codec" in said


@pytest.mark.parametrize(
    "given, script, passed",
    [
        (["pretrain", "my.yaml", "--resume", "seed=3"], "pretrain", ["--config", "my.yaml", "--resume", "seed=3"]),
        (["retrieval", "model=a/b", "lora.r=8"], "finetune_retrieval", ["model=a/b", "lora.r=8"]),
        (["supervised", "tiny_supervised"], "pretrain_supervised", ["--config", "configs/tiny_supervised.yaml"]),
    ],
)
def test_train_runs_the_main_of_a_script(slap, tmp_path, monkeypatch, given, script, passed):
    from hf_slap import examples

    (tmp_path / "my.yaml").touch()
    monkeypatch.chdir(tmp_path)
    seen = []
    fake = type(sys)(f"hf_slap.examples.{script}")
    fake.main = seen.append
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    assert slap("train", *given)[0] == 0
    shipped = str(Path(examples.__file__).parent)
    assert [argument.replace(f"{shipped}/", "") for argument in seen[0]] == passed


def test_train_refuses_what_it_does_not_know(slap):
    assert "accepted are pretrain" in slap("train", "nothing")[2]
    status, _, said = slap("train", "pretrain", "nope.yaml")
    assert status == 2 and "slap_base" in said


def test_train_passes_the_script_s_own_errors_on(slap):
    status, _, said = slap("train", "classification", "learning_rat=1")
    assert status == 2 and "learning_rat" in said
