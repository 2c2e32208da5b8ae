"""classify, caption and embed, on real sounds with a tiny model."""

import json

import numpy as np
import pytest

import hf_slap

LABELS = ["dog", "rain on a roof", "hammer"]


@pytest.fixture(scope="module")
def listener(tiny_folder):
    return hf_slap.Listener(tiny_folder)


def test_classify_says_what_the_listener_says_and_reports_what_is_broken(slap, sounds, tiny_folder, listener):
    status, records, said = slap("classify", ".", "gone.wav", "-l", ",".join(LABELS), "-m", tiny_folder, "-f", "json")
    assert status == 1
    assert [record["sound"] for record in records] == ["one.wav", "two.flac"]
    for record in records:
        expected = listener.classify(record["sound"], LABELS)
        assert [row["label"] for row in record["labels"]] == [row["label"] for row in expected]
        assert [row["score"] for row in record["labels"]] == pytest.approx([row["score"] for row in expected], abs=1e-5)
    assert "'gone.wav'" in said and "'broken.ogg'" in said and said.endswith("2 of 4 sounds failed\n")


def test_classify_takes_a_list_from_stdin_and_writes_a_table(slap, sounds, tiny_folder):
    status, table, said = slap(
        "classify", "-", "-l", "dog,rain", "-k", "1", "-m", tiny_folder, stdin="two.flac\none.wav\n"
    )
    assert (status, said) == (0, "")
    head, *rows = table.splitlines()
    assert head.split() == ["sound", "label", "score"]
    assert [row.split()[0] for row in rows] == ["two.flac", "one.wav"]
    assert all(float(row.split()[2]) >= 0.5 for row in rows)  # the better one of two


def test_classify_passes_its_settings_on(slap, sounds, tiny_folder, listener):
    settings = ["--template", "the {}", "--template", "a {}", "--multi-label", "--anywhere"]
    _, [record], _ = slap("classify", "one.wav", "-l", "dog,rain", "-m", tiny_folder, *settings, "-f", "json")
    keywords = {"template": ["the {}", "a {}"], "multi_label": True, "anywhere": True}
    expected = listener.classify("one.wav", ["dog", "rain"], **keywords)
    assert {row["label"]: row["score"] for row in record["labels"]} == pytest.approx(
        {row["label"]: row["score"] for row in expected}, abs=1e-5
    )


def test_one_label_alone_is_answered_with_a_hint(slap, sounds, tiny_folder):
    status, _, said = slap("classify", "one.wav", "-l", "dog", "-m", tiny_folder)
    assert status == 0 and "one label alone always scores 1" in said
    assert slap("classify", "one.wav", "-l", "dog", "-m", tiny_folder, "--multi-label")[2] == ""


def test_a_device_that_is_not_there_is_a_usage_error(slap, sounds, tiny_folder):
    status, out, said = slap("caption", "one.wav", "-m", tiny_folder, "--device", "banana")
    assert (status, out) == (2, "") and "'--device': banana: not usable here" in said


def test_nothing_to_hear_is_a_usage_error(slap, sounds, tiny_folder):
    status, out, said = slap("classify", "gone.wav", "lost.wav", "-l", "dog", "-m", tiny_folder)
    assert (status, out) == (2, "") and "gone.wav" in said
    assert slap("caption", "-", "-m", tiny_folder)[0] == 2


def test_a_form_that_cannot_be_written_is_refused_before_the_model_is_loaded(slap, sounds):
    status, out, said = slap("classify", "one.wav", "-l", "dog", "-m", "nobody/nothing", "-o", "scores.xlsx")
    assert (status, out) == (2, "") and "scores.xlsx: name it .json" in said and "nobody" not in said


@pytest.mark.parametrize("place, reason", [("empty", "holds no model"), ("./gone", "there is no folder './gone'")])
def test_a_folder_without_a_model_is_named(slap, sounds, place, reason):
    (sounds / "empty").mkdir()
    for command in (["classify", "one.wav", "-l", "dog", "-m", place], ["eval", place]):
        status, out, said = slap(*command)
        assert (status, out) == (2, "") and reason in said and said.count("\n") <= 3


def test_a_model_that_is_not_there_is_one_line(slap, sounds):
    nowhere = ["-m", "nobody/nothing"]
    listening = ["classify", "one.wav", "-l", "dog", *nowhere], ["embed", "one.wav", "-o", "folder", *nowhere]
    for command in (*listening, ["eval", "nobody/nothing"]):
        status, out, said = slap(*command)
        assert (status, out) == (2, "") and "there is no folder 'nobody/nothing'" in said and "Traceback" not in said


def test_caption_writes_a_row_for_each_piece(slap, sounds, tiny_folder, listener):
    status, text, _ = slap("caption", "two.flac", "one.wav", "broken.ogg", "-m", tiny_folder, "-f", "csv")
    assert status == 1
    expected = [
        f"{name},{one.start},{one.end},{one.text}" for name in ("two.flac", "one.wav") for one in listener.caption(name)
    ]
    assert text.splitlines() == ["sound,start,end,caption", *expected]


def test_embed_writes_all_numbers_into_the_form_that_is_asked_for(slap, sounds, tiny_folder):
    model = hf_slap.SlapModel.from_pretrained(tiny_folder)
    processor = hf_slap.SlapProcessor.from_pretrained(tiny_folder)
    inputs = processor(audio=["one.wav", "two.flac"], return_tensors="pt")
    expected = model.get_audio_features(**inputs).pooler_output.detach().numpy()

    _, records, _ = slap("embed", ".", "-m", tiny_folder, "-f", "json")
    np.testing.assert_allclose([record["embedding"] for record in records], expected, atol=1e-5)
    assert slap("embed", ".", "-m", tiny_folder, "-o", "vectors.csv")[0] == 1  # broken.ogg
    table = np.loadtxt("vectors.csv", delimiter=",", skiprows=1, usecols=range(2, 2 + expected.shape[1]))
    np.testing.assert_allclose(table, expected, atol=1e-5)
    status, out, said = slap("embed", ".", "-m", tiny_folder, "-o", "vectors")
    assert (status, out) == (1, "") and "1 of 3 sounds failed" in said and "2 rows" in said
    np.testing.assert_allclose(np.load("vectors/embeddings.npy"), expected, atol=1e-5)
    assert json.loads((sounds / "vectors" / "ids.json").read_text()) == ["one.wav", "two.flac"]
    status, table, said = slap("embed", "one.wav", "-m", tiny_folder)
    assert f"({expected.shape[1]} numbers)" in table and "--format json" in said
