"""What is published: a folder whose every promise was checked, with numbers of its own weights, or an error that helps."""

import json
import logging
import re
import shutil
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

import hf_slap
from hf_slap.cli import main
from hf_slap.evaluation.listeners import open_listener
from hf_slap.export import export, find_model
from hf_slap.folder_checks import CHECKS, check_folder, published_files, served_tasks
from hf_slap.hub import HubError, on_the_hub, without_tokens
from hf_slap.push import RefusedFolder, push
from hf_slap.use_folder import TASKS

LOADING = CHECKS["loading"]
TOKEN = "hf_ThisTokenMustNeverBeSeenAnywhere"


@pytest.fixture(scope="module")
def without_loading():
    """The proof by loading costs seconds; tests/hub gives it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CHECKS, "loading", lambda folder, base: [])
        yield


@pytest.fixture(scope="module")
def run_folder(tiny_folder, corpus_rows, tmp_path_factory) -> Path:
    """A run with a model, its configuration, data with licences, results of its weights, and of others."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("run")
    (folder / "model").symlink_to(tiny_folder)
    rows = [
        {**row, "source": "bells", "license": "CC0-1.0" if number else "CC-BY-4.0"}
        for number, row in enumerate(corpus_rows)
    ]
    Dataset.from_list(rows).to_parquet(folder / "bells.parquet")
    (folder / "config.yaml").write_text(
        f"train_data: [{folder}/bells.parquet, org/sounds]\nstart_from: org/base\nseed: 3\n"
    )
    listener = open_listener(str(tiny_folder), cache=folder / "cache", device="cpu", progress=False)
    score = {
        "task": "bells-zero-shot", "kind": "zero_shot", "metric": "accuracy", "status": "measured", "value": 0.3107, "low": 0.2,
        "high": 0.4, "chance": 0.05, "clips": 103, "expected_clips": 103, "prompts": ["{}"], "reported": {}, "more": {},
        "long_clips": "whole", "date": "2026-11-21", "versions": {"hf_slap": "0.1.0"}, "hub": "org/bells", "data": "bells",
        "title": "Bells", "split": "test",
    }  # fmt: skip
    (folder / "evaluation").mkdir()
    for name, weights in (("other", "sha256:0000000000000000"), ("tiny", listener.describe()["weights"])):
        model = {**listener.describe(), "name": name, "weights": weights}
        (folder / "evaluation" / f"{name}.json").write_text(
            json.dumps({"format": 1, "model": model, "scores": [score]})
        )
    return folder


@pytest.fixture(scope="module")
def exported(run_folder, tmp_path_factory, without_loading):
    return export(run_folder, tmp_path_factory.mktemp("place") / "my-slap", license="cc-by-4.0")


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(exported.folder, tmp_path / "my-slap"))


def test_the_folder_holds_the_weights_as_they_were_and_all_that_readers_need(exported, tiny_folder):
    assert exported.problems == [] and exported.tasks == list(TASKS[:3])
    names = {path.relative_to(exported.folder).as_posix() for path in published_files(exported.folder)}
    assert names >= {
        "README.md",
        "LICENSE",
        "CREDITS.md",
        "results.json",
        ".eval_results/org--bells.yaml",
        "modeling_slap.py",
    }
    assert names >= {path.name for path in tiny_folder.iterdir()}
    ours, theirs = (load_file(place / "model.safetensors") for place in (exported.folder, tiny_folder))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_card_is_filled_from_the_results_of_these_weights(exported, run_folder):
    card = (exported.folder / "README.md").read_text()
    assert card.startswith(
        "---\nlicense: cc-by-4.0\nlibrary_name: transformers\npipeline_tag: zero-shot-audio-classification\n"
    )
    assert "| bells-zero-shot | accuracy | 31.1 % | 20.0 % to 40.0 % | 5.0 % | 103 |" in card
    assert "model-index:\n- name: my-slap\n" in card and "value: 0.3107" in card
    assert "base_model: org/base\n" in card and "datasets:\n- org/sounds\n" in card and "- seed: 3\n" in card
    assert str(run_folder) not in card and "- data: bells.parquet, org/sounds\n" in card
    assert any("other.json" in note and "other weights" in note for note in exported.notes)


def test_credits_count_the_licences_of_the_data(exported):
    credits = (exported.folder / "CREDITS.md").read_text()
    assert "| bells.parquet | bells | CC-BY-4.0 | 1 |\n| bells.parquet | bells | CC0-1.0 | 6 |" in credits
    assert "| org/sounds |  | not stated |  |" in credits


def test_a_card_without_results_says_so_and_results_of_other_weights_are_refused(
    run_folder, tiny_folder, tmp_path, without_loading
):
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / "CREDITS.md").write_text("My own recordings.\n")  # beside the weights: as --credits
    done = export(tmp_path / "model", tmp_path / "plain")
    assert (done.folder / "CREDITS.md").read_text() == "My own recordings.\n"
    assert done.problems == [] and "\nNot measured.\n" in (done.folder / "README.md").read_text()
    assert (done.folder / "CREDITS.md").read_text() == "My own recordings.\n"
    with pytest.raises(ValueError, match="measured with other weights"):
        export(tiny_folder, tmp_path / "more", results=run_folder / "evaluation" / "other.json")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("check", "spoil", "message"),
    [
        ("files", lambda f: (f / "processor_config.json").unlink(), "processor_config.json missing"),
        ("files", lambda f: (f / "model.safetensors").unlink(), "model.safetensors missing"),
        ("files", lambda f: (f / "optimizer.pt").write_bytes(b"x"), "optimizer.pt is a pickle"),
        ("files", lambda f: (f / "notes.docx").write_bytes(b"x"), "notes.docx is of a kind that is not published"),
        ("files", lambda f: (f / "more.json").symlink_to("/etc/hostname"), "more.json is a link to a file elsewhere"),
        ("code", lambda f: (f / "losses_slap.py").write_text("import os\n"), "losses_slap.py is not that of the installed"),
        ("code", lambda f: (f / "more.py").write_text("import os\n"), "more.py is not of this package"),
        ("code", lambda f: (f / "audio_slap.py").unlink(), "audio_slap.py is missing"),
        ("weights", lambda f: spoil_weights(f, lambda t: t.fill_(float("nan"))), "holds NaN or infinity in"),
        ("weights", lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04N."), "is a pickle under the name"),
        ("card", lambda f: edit(f / "README.md", "license: cc-by-4.0\n", ""), "has no license"),
        ("card", lambda f: edit(f / "README.md", "31.1 %", "91.1 %"), "numbers of README.md are not those of results.json"),
        ("card", lambda f: (f / "results.json").unlink(), "gives numbers, and there is no results.json"),
        ("card", lambda f: edit(f / "README.md", "# my-slap\n", ""), "has no title"),
        ("card", lambda f: edit(f / "README.md", "<!-- results -->", ""), "does not hold the lines"),
        ("card", lambda f: (f / "README.md").write_text("# my-slap\n"), "has no YAML header"),
        ("card", lambda f: (f / "CREDITS.md").unlink(), "CREDITS.md does not say"),
        ("privacy", lambda f: edit(f / "config.json", '"seed"', "", f"\n{TOKEN}"), "looks like a token of the Hub"),
        ("privacy", lambda f: edit(f / "CREDITS.md", "", "", f"{f.parent}/secret/sounds"), "names a folder of this machine"),
    ],
)  # fmt: skip
def test_every_check_refuses_what_it_is_for_and_says_what_to_do(folder, check, spoil, message, without_loading):
    assert check_folder(folder) == []
    spoil(folder)
    problems = check_folder(folder)
    assert [problem.check for problem in problems] == [check]
    assert message in problems[0].what and problems[0].todo
    assert TOKEN not in str(problems)
    with pytest.raises(RefusedFolder, match=f"not fit to be published:\n  {check}: ") as refused:
        push(folder, "org/my-slap")  # which fails before the Hub is asked: the tests are offline
    assert refused.value.problems == problems


def test_a_card_may_be_edited_around_its_numbers(folder, without_loading):
    edit(
        folder / "README.md",
        "license: cc-by-4.0\n",
        "language: [en]  # mine\nlicense: cc-by-4.0\n",
        "\nMy own words.\n",
    )
    assert check_folder(folder) == []


def test_what_others_report_may_stand_beside_what_was_not_measured(folder, without_loading):
    (folder / "results.json").unlink()
    card = re.sub("model-index:.*?---\n", "---\n", (folder / "README.md").read_text(), flags=re.DOTALL)
    table = "| task | metric | value | reported elsewhere |\n|---|---|---|---|\n| bells | accuracy | not measured | 93.9 % |"
    card = re.sub("(<!-- results -->\n).*(\n<!-- /results -->)", rf"\1{table}\2", card, flags=re.DOTALL)
    (folder / "README.md").write_text(card)
    assert check_folder(folder) == []
    edit(folder / "README.md", "not measured |", "93.9 % |")
    assert "gives numbers, and there is no results.json" in check_folder(folder)[0].what


def edit(path: Path, old: str, new: str, more: str = "") -> None:
    path.write_text(path.read_text().replace(old, new, 1) + more if old else path.read_text() + more)


def spoil_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights["slap.audio_projection.weight"])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_a_folder_promises_only_what_its_weights_serve(tiny_folder, tmp_path, without_loading):
    hf_slap.save_folder(
        tmp_path / "run",
        hf_slap.SlapModel.from_pretrained(tiny_folder),
        hf_slap.SlapProcessor.from_pretrained(tiny_folder),
    )
    done = export(tmp_path / "run", tmp_path / "retrieval")
    config = json.loads((done.folder / "config.json").read_text())
    assert done.tasks == [TASKS[0], TASKS[2]] and set(config["custom_pipelines"]) == {TASKS[2]}
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForAudioClassification"}
    assert [problem.check for problem in done.problems] == ["card"]  # nobody said what it was trained on


def test_a_classifier_without_a_tokenizer_is_loaded_with_and_without_the_package(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(CHECKS, "loading", LOADING)
    model = hf_slap.SlapForAudioClassification.from_pretrained(
        tiny_folder, id2label={0: "bell", 1: "drum"}, label2id={"bell": 0, "drum": 1}
    )
    hf_slap.save_folder(tmp_path / "run", model, hf_slap.SlapFeatureExtractor())
    (tmp_path / "credits.md").write_text("Bells and drums.\n")
    begun = []
    done = export(tmp_path / "run", tmp_path / "bells", credits=tmp_path / "credits.md", tell=begun.append)
    assert done.problems == [] and done.tasks == served_tasks(done.folder) == [TASKS[3]]
    assert begun == list(CHECKS)  # "loading" too, in earnest
    assert 'pipeline("audio-classification", model=model)("clip.wav")' in (done.folder / "README.md").read_text()
    (done.folder / "config.json").write_text(
        (done.folder / "config.json").read_text().replace("SlapForAudioClassification", "SlapModel")
    )
    [problem] = check_folder(done.folder)
    assert problem.check == "loading" and "does not load where hf_slap is not installed" in problem.what


def test_a_prefix_captioner_is_loaded_with_and_without_the_package(tiny_folder, tiny_processor, tmp_path, monkeypatch):
    monkeypatch.setitem(CHECKS, "loading", LOADING)
    vocabulary = tiny_processor.tokenizer
    special = {name: getattr(vocabulary, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    writer = GPT2Config(vocab_size=len(vocabulary), n_embd=16, n_layer=1, n_head=2, n_positions=32, **special)
    sizes = {"prefix_tokens": 4, "projected_tokens": 4, "mapper_layers": 1, "mapper_heads": 2, "max_caption_tokens": 8}
    model = hf_slap.SlapForPrefixCaptioning.from_audio_language_pretrained(tiny_folder, writer, **sizes)
    hf_slap.save_folder(tmp_path / "run", model, tiny_processor)
    (tmp_path / "credits.md").write_text("Bells and drums.\n")
    done = export(tmp_path / "run", tmp_path / "writer", credits=tmp_path / "credits.md")
    assert done.problems == [] and done.tasks == list(TASKS[1:3])


def test_what_is_no_finished_run_is_refused(tiny_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="name the folder of a finished run"):
        find_model(tmp_path)
    half = Path(shutil.copytree(tiny_folder, tmp_path / "half"))
    weights = {
        name: value
        for name, value in load_file(half / "model.safetensors").items()
        if "lm_head" not in name and "decoder" not in name
    }
    save_file(weights, half / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks \d+ weights of a SlapForPreTraining"):
        export(half, tmp_path / "out")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ValueError, match="is there and not empty"):
        export(tiny_folder, tmp_path / "there")
    with pytest.raises(ValueError, match="is nothing that `slap export` made"):
        export(tiny_folder, tmp_path / "there", force=True)
    assert (tmp_path / "there" / "thesis.txt").is_file() and not (tmp_path / "out").exists()


def test_an_adapter_on_a_folder_of_this_machine_needs_a_base_that_others_have(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    with pytest.raises(ValueError, match="which nobody else has: .*--base org/name"):
        export(tmp_path, tmp_path / "out")


def test_the_commands_say_what_is_wrong_and_end_with_a_status(
    exported, folder, tiny_folder, tmp_path, capsys, without_loading
):
    assert main(["export", str(tiny_folder), str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "check card: CREDITS.md does not say" in said.err and "slap push" not in said.out
    assert main(["export", str(tiny_folder), str(tmp_path / "out")]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", str(tiny_folder), str(tmp_path / "out"), "--force", "--quiet"]) == 1
    assert "check card" in capsys.readouterr().err
    (folder / "weights.bin").write_bytes(b"x")
    assert main(["push", str(folder), "org/my-slap"]) == 2
    assert "files: weights.bin is a pickle" in capsys.readouterr().err.replace("\n", " ")


def test_errors_and_logs_of_the_hub_hold_no_token(monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "letmein-of-no-known-form")

    def work(api):
        logging.getLogger("httpx").warning("sent %s and %s", TOKEN, "letmein-of-no-known-form")
        try:
            raise ConnectionError(f"proxy refused 'Bearer {TOKEN}'")
        except ConnectionError as error:
            raise RuntimeError("upload failed for letmein-of-no-known-form") from error

    try:
        on_the_hub(work, TOKEN)
    except HubError as error:
        told = "".join(traceback.format_exception(error))
        assert error.__cause__ is error.__context__ is None
    assert "nothing was published; run the same command again" in told and "proxy refused 'Bearer hf_***'" in told
    for text in (told, caplog.text):
        assert "hf_***" in text and TOKEN not in text and "letmein" not in text
    logging.getLogger("httpx").warning("afterwards logs are as they were: %s", 7)
    assert "as they were: 7" in caplog.text and without_tokens("hf_slap is no token") == "hf_slap is no token"
