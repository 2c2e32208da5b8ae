"""A suite on real clips with an untrained model: every kind of task, what is kept, and what is not measured."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from pyarrow import parquet

import hf_slap
from hf_slap.evaluation import run as run_module
from hf_slap.evaluation.__main__ import main
from hf_slap.evaluation.captioning import QUICK_MEASURES
from hf_slap.evaluation.card import BEGIN, END, fill_card, write_eval_results
from hf_slap.evaluation.listeners import SlapListener, open_listener
from hf_slap.evaluation.results import read_results, score_table
from hf_slap.evaluation.sets import Clips
from hf_slap.evaluation.tasks import Task
from hf_slap.evaluation.while_training import ZeroShotTasks

ROOT = Path(__file__).parents[2]
FOLDS = Task(
    "esc50-folds", "probe", "esc50", "accuracy", "folds of the set", folds="fold",
    fold_pattern=r"(?:^|/)(\d)-[^/]*$", expected=2000,
)  # fmt: skip
QUICK = {
    "heldout-zero-shot", "heldout-retrieval", "heldout-linear-probe", "heldout-attention-probe", "heldout-knn",
    "heldout-4-shot", "scenes-zero-shot", "scenes-linear-probe", "scenes-events", "scenes-localisation",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_folder, small_corpora, esc50_folder, tmp_path_factory):
    """Results of the quick tasks, of ESC-50 with folds, and of a set that is not there."""
    output = tmp_path_factory.mktemp("evaluation")
    data = {**small_corpora, "esc50": esc50_folder}
    tasks = [*sorted(QUICK), FOLDS, "urbansound8k-zero-shot", "esc50-fine-tuned"]
    keywords = {"tasks": tasks, "data": data, "output": output, "progress": False, "name": "org/tiny"}
    return hf_slap.evaluate(tiny_folder, **keywords), keywords


def test_every_kind_is_measured_and_says_on_what(run):
    results, _ = run
    for name in QUICK:
        score = results.scores[name]
        assert score["status"] == "measured" and 0 <= score["value"] <= 1, name
        assert score["low"] <= score["value"] <= score["high"], name
        assert score["clips"] == (9 if name.startswith("heldout") else 3 if score["clips"] == 3 else 4), name
        assert score["versions"]["torch"] == torch.__version__ and score["date"].startswith("20")
        assert score["model"]["weights"].startswith("sha256:") and "windows that overlap" in score["long_clips"]
        assert score["split"] == "test" and score["protocol"] and score["clips_digest"]
    zero_shot = results.scores["heldout-zero-shot"]
    assert zero_shot["prompts"] == ["the sound of {}"] and len(zero_shot["per_class"]) == zero_shot["classes"] == 3
    assert zero_shot["notes"] == ["9 clips where the protocol has 103: say so when comparing"]
    picture = results.path.parent / "pictures" / "org--tiny" / zero_shot["confusion_plot"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert results.scores["scenes-localisation"]["more"]["queries"] >= 8
    folds = results.scores["esc50-folds"]
    assert folds["folds"] == 2 and folds["clips"] == 7 and set(folds["chosen"]) == {"1", "2"}


def test_what_is_missing_is_reported_with_its_remedy(run):
    missing = run[0].scores["urbansound8k-zero-shot"]
    assert missing["status"] == "not measured" and "--data urbansound8k=" in missing["reason"]
    assert missing["reported"]["SLAP"] == 0.816 and "value" not in missing
    assert "examples/finetune_classification.py" in run[0].scores["esc50-fine-tuned"]["reason"]


def test_scores_are_those_of_the_model_itself(run, tiny_folder, small_corpora):
    """Zero-shot accuracy and the similarity of moments, computed again from `get_audio_features`."""
    from hf_slap.data import load_corpus

    model = hf_slap.SlapModel.from_pretrained(tiny_folder).eval()
    processor = hf_slap.SlapProcessor.from_pretrained(tiny_folder)
    corpus = load_corpus(small_corpora["shipped_heldout"])
    labels = sorted(set(corpus["label"]))
    with torch.no_grad():
        texts = model.get_text_features(**processor(text=[f"the sound of {x}" for x in labels], return_tensors="pt"))
        clips = model.get_audio_features(**processor(audio=list(corpus["audio"]), return_tensors="pt"))
    answers = (clips.pooler_output @ texts.pooler_output.T).argmax(1).tolist()
    right = [labels[answer] == label for answer, label in zip(answers, corpus["label"], strict=True)]
    assert run[0].scores["heldout-zero-shot"]["value"] == pytest.approx(np.mean(right))


def test_scores_while_training_are_those_of_the_suite(run, tiny_folder, small_corpora, tmp_path):
    listener = open_listener(str(tiny_folder), cache=tmp_path, progress=False)

    def embed_clips(clips):
        heard = listener.embed_clips(Clips(clips, "here"))
        return np.stack(list(heard.values)), heard.rows

    names = ["heldout-zero-shot", "heldout-zero-shot-ensemble", "scenes-zero-shot"]
    scores = ZeroShotTasks(names, small_corpora).scores(embed_clips, listener.embed_texts)
    for name in (names[0], names[2]):
        assert scores[name] == pytest.approx(run[0].scores[name]["value"]), name
    assert scores["zero-shot score"] == pytest.approx(np.mean([scores[name] for name in names]))
    assert ZeroShotTasks([]).scores(embed_clips, listener.embed_texts) == {}


def test_a_second_run_computes_nothing(run, tiny_folder, monkeypatch):
    results, keywords = run
    before = results.path.read_text()

    def refuse(*_):
        raise AssertionError("computed again")

    for name in ("_columns", "_texts", "embed_clips", "frames", "local_embeds"):
        monkeypatch.setattr(SlapListener, name, refuse)
    again = hf_slap.evaluate(tiny_folder, **keywords)
    assert json.loads(before)["scores"][:5] == read_results(again.path)["scores"][:5]
    assert {n for n, s in again.scores.items() if s["status"] == "measured"} == QUICK | {"esc50-folds"}


def test_other_weights_begin_anew_and_share_nothing(run, tiny_config, tiny_processor, small_corpora, tmp_path):
    torch.manual_seed(1)
    other = hf_slap.SlapModel(tiny_config)
    first = open_listener(other, tiny_processor, cache=tmp_path, progress=False)
    other.logit_scale.data += 1.0
    second = open_listener(other, tiny_processor, cache=tmp_path, progress=False)
    assert first.weights != second.weights and first.folder != second.folder
    results = hf_slap.evaluate(
        other, tiny_processor, tasks=["heldout-captioning"], data=small_corpora, output=tmp_path, progress=False
    )
    assert "pass the folder" in results.scores["heldout-captioning"]["reason"]


def test_captions_are_written_and_judged(tiny_folder, small_corpora, tmp_path):
    pytest.importorskip("pycocoevalcap")
    results = hf_slap.evaluate(
        tiny_folder, tasks=["heldout-captioning"], data=small_corpora, output=tmp_path, progress=False
    )
    score = results.scores["heldout-captioning"]
    assert score["metric"] == "CIDEr-D" and set(score["more"]) == {*QUICK_MEASURES, "different captions"} - {"CIDEr-D"}
    assert score["tokenizer"] in ("PTB", "words") and score["versions"]["pycocoevalcap"]


def test_the_card_is_filled_from_the_file(run, tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"---\nlicense: apache-2.0\n---\n# tiny\n\nBefore.\n\n{BEGIN}\nstale\n{END}\n\nAfter.\n")
    for _ in range(2):  # the second time changes nothing
        fill_card(card, run[0].path)
    text = card.read_text()
    assert (
        "stale" not in text and text.count("Before.") == text.count("After.") == text.count("| heldout-zero-shot |") - 1
    )
    assert "urbansound8k-zero-shot | accuracy | not measured" in text
    data = ModelCard.load(card).data
    values = {result.metric_name: result for result in data.eval_results}
    zero_shot = run[0].scores["heldout-zero-shot"]
    entry = values["heldout-zero-shot: accuracy, N = 9"]
    assert entry.metric_value == pytest.approx(zero_shot["value"], abs=1e-4)
    assert entry.dataset_name == "held-out clips of the repository"
    assert data.license == "apache-2.0" and data.model_name == "org/tiny" and len(values) == len(QUICK) + 1

    (written,) = write_eval_results(run[0].path, tmp_path)
    assert written == tmp_path / ".eval_results" / "ashraq--esc50.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(written.read_text()))
    assert (entry.dataset_id, entry.task_id) == ("ashraq/esc50", "esc50-folds") and "N = 7" in entry.notes
    with pytest.raises(ValueError, match="must begin with a YAML header"):
        card.write_text("# no header\n")
        fill_card(card, run[0].path)


@pytest.mark.parametrize("results", sorted((ROOT / "model_cards").glob("*.json")), ids=lambda path: path.stem)
def test_the_cards_of_the_repository_say_what_their_files_say(results, tmp_path):
    card = tmp_path / "card.md"
    card.write_text(results.with_suffix(".md").read_text())
    fill_card(card, results)
    assert card.read_text() == results.with_suffix(".md").read_text()


def test_a_set_that_is_wrong_does_not_cost_the_others(run, tiny_folder, small_corpora, esc50_folder, tmp_path, capsys):
    wrong = Task("esc50-pairs", "zero_shot", "esc50", "accuracy", "", label_pattern=r"(\d)")
    data = {**small_corpora, "esc50": esc50_folder}
    tasks = [
        wrong,
        Task("esc50-folds", "probe", "esc50", "accuracy", "", folds="fold", fold_pattern="(q)"),
        "heldout-zero-shot",
    ]
    results = hf_slap.evaluate(tiny_folder, tasks=tasks, data=data, output=tmp_path, progress=False)
    assert [score["status"] for score in results.scores.values()] == ["not measured", "failed", "measured"]
    assert "no column 'fold', and no fold in" in results.scores["esc50-folds"]["reason"]
    assert "| esc50-folds | accuracy | failed |" in results.table()


@pytest.fixture
def judge(small_corpora, tmp_path):
    """judge(task, set) -> the task's score by the model that ships, from one results file; set: path, or not here."""

    def run(task, place=small_corpora["shipped_heldout"]):
        keywords = {"data": {"own": place} if place else None, "output": tmp_path, "progress": False, "device": "cpu"}
        (score,) = hf_slap.evaluate(hf_slap.bundled("slap-nano"), tasks=[task], **keywords).scores.values()
        return score

    return run


def test_an_older_score_is_kept_where_the_set_is_away_and_says_so(judge, tmp_path):
    task = Task("mine", "zero_shot", "own", "accuracy", "")
    measured = judge(task)
    for _ in range(2):
        away = judge(task, None)
        assert away["value"] == measured["value"] and away["status"] == "measured"
        (note,) = away["notes"]
        assert note.startswith(f"kept from {measured['date']}; this run: ") and "--data own=" in note
    assert judge(task)["notes"] == []
    assert judge(Task("mine", "zero_shot", "own", "accuracy", "", prompts=("a {}",)), None)["status"] == "not measured"

    judge(task)
    (tmp_path / "wrong.parquet").write_bytes(b"no parquet")
    wrong = judge(task, tmp_path / "wrong.parquet")
    assert wrong["status"] == "failed" and "value" not in wrong


def test_what_breaks_in_a_task_is_told_with_its_traceback_and_stops_nothing(judge, monkeypatch, caplog):
    def breaks(*_):
        raise KeyError("labels")

    monkeypatch.setitem(run_module._MEASURE, "zero_shot", breaks)
    score = judge(Task("mine", "zero_shot", "own", "accuracy", ""))
    assert score["status"] == "failed" and score["reason"] == "KeyError: 'labels'"
    assert "task mine failed" in caplog.text and "in breaks" in caplog.text


def test_measures_that_were_missing_are_tried_again_and_none_is_lost(judge, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("PATH", "/nowhere")  # no Java
    task = Task("mine", "captioning", "own", "CIDEr-D", "", measures=("CIDEr-D", "METEOR", "FENSE"))
    monkeypatch.setattr("hf_slap.evaluation.captioning._fense", lambda *_: "needs its models")
    assert set(judge(task)["missing"]) == {"METEOR", "FENSE"}
    monkeypatch.setattr("hf_slap.evaluation.captioning._fense", lambda *_: 0.25)
    score = judge(task)
    assert set(score["missing"]) == {"METEOR"} and score["more"]["FENSE"] == 0.25
    monkeypatch.setattr("hf_slap.evaluation.captioning._fense", lambda *_: "needs its models")
    assert judge(task) == score


def test_a_papers_value_stands_only_beside_its_own_metric(judge, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("PATH", "/nowhere")  # no Java, so no SPIDEr
    score = judge(Task("mine", "captioning", "own", "SPIDEr", "", measures=("SPIDEr", "BLEU-4"), reported={"A": 0.455}))
    assert score["metric"] == "BLEU-4" and "0.455" not in score_table([score])
    assert "A: 0.455" in score_table([{**score, "metric": "SPIDEr"}])


def test_the_table_has_the_split_where_there_are_several(run):
    score = run[0].scores["heldout-zero-shot"]
    assert "split" not in score_table([score, score])
    assert "| 9 (of 103) | train |" in score_table([score, {**score, "split": "train"}])


def test_a_benchmark_that_ran_in_part_has_no_mean(tiny_folder, tmp_path, monkeypatch):
    mteb = pytest.importorskip("mteb")
    done = [SimpleNamespace(task_name=name, get_score=lambda: 0.9) for name in ("BeijingOpera", "FSD50K")]
    failed = [SimpleNamespace(task_name="GTZAN", exception=ConnectionError("no network"))]
    monkeypatch.setattr(mteb, "get_benchmark", lambda _: SimpleNamespace(tasks=["BeijingOpera", "FSD50K", "GTZAN"]))
    keywords = {"tasks": ["maeb"], "output": tmp_path, "download": True, "progress": False}

    def run(**result):
        monkeypatch.setattr(mteb, "evaluate", lambda *_, **__: SimpleNamespace(**result))
        return hf_slap.evaluate(tiny_folder, **keywords).scores["maeb"]

    part = run(task_results=done, exceptions=failed)
    assert part["status"] == "not measured" and "value" not in part and part["more"]["FSD50K"] == 0.9
    assert part["reason"] == "2 of 3 tasks ran: not the benchmark's mean. GTZAN: no network"
    whole = run(task_results=[*done, SimpleNamespace(task_name="GTZAN", get_score=lambda: 0.3)], exceptions=None)
    assert whole["value"] == pytest.approx(0.7) and whole["clips"] == 3


@pytest.mark.parametrize("kind, metric", [("zero_shot", "accuracy"), ("retrieval", "recall@1"), ("probe", "accuracy")])
def test_a_set_of_which_no_clip_can_be_heard_says_so(judge, tmp_path, kind, metric):
    rows = []
    for number, split in enumerate(["test", "test", "train", "train"]):
        soundfile.write(tmp_path / "nan.wav", np.full(16_000 + number, np.nan), 16_000, subtype="FLOAT")
        audio = {"bytes": (tmp_path / "nan.wav").read_bytes(), "path": f"{number}.wav"}
        rows.append({"audio": audio, "label": "ab"[number % 2], "captions": ["ab"[number % 2]], "split": split})
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "broken.parquet")
    score = judge(Task("mine", kind, "own", metric, "", train=("", "train")), tmp_path / "broken.parquet")
    assert score["status"] == "failed" and "none of 2 clips could be heard; the first, " in score["reason"]


def test_the_command_prints_the_table(run, tiny_folder, small_corpora, capsys):
    _, keywords = run
    data = [f"{name}={path}" for name, path in small_corpora.items()]
    arguments = [str(tiny_folder), "--tasks", "heldout-zero-shot", "clotho-retrieval", "--data", *data, "--classes"]
    assert main([*arguments, "--output", str(keywords["output"]), "--name", "org/tiny", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "| heldout-zero-shot | accuracy | " in printed and "clotho_captions_" in printed
    assert "| footsteps | 3 | " in printed and "results: " in printed
    assert main([str(tiny_folder), "--suite", "maeb", "--output", str(keywords["output"]), "--quiet"]) == 1
    assert "pass download=True" in capsys.readouterr().out


def test_what_cannot_be_meant_is_refused(tiny_folder, tiny_config, tmp_path):
    with pytest.raises(ValueError, match=r"no suite 'fast'; there are \['quick'"):
        hf_slap.evaluate(tiny_folder, suite="fast")
    with pytest.raises(ValueError, match=r"no tasks \['esc51'\]"):
        hf_slap.evaluate(tiny_folder, tasks=["esc51"])
    with pytest.raises(ValueError, match=r"data names unknown sets \['esc51'\]"):
        hf_slap.evaluate(tiny_folder, data={"esc51": tmp_path})
    with pytest.raises(ValueError, match="model is SlapModel without processor="):
        hf_slap.evaluate(hf_slap.SlapModel(tiny_config), output=tmp_path)
    with pytest.raises(ValueError, match="model is Linear without get_audio_features and get_text_features"):
        hf_slap.evaluate(torch.nn.Linear(1, 1), object(), output=tmp_path)
