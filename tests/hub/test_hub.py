"""Publishing to the Hub and loading by name, over HTTP, from a hub on loopback."""

import json

import pytest
from loopback_hub import LoopbackHub
from use_slap import all_outputs

PUSH = """
import sys
import hf_slap

name, folder = sys.argv[1:]
hf_slap.SlapForPreTraining.from_pretrained(folder).push_to_hub(name)
hf_slap.SlapProcessor.from_pretrained(folder).push_to_hub(name)
"""
UPLOAD = """
import sys
import huggingface_hub

name, folder = sys.argv[1:]
huggingface_hub.create_repo(name)
huggingface_hub.upload_folder(repo_id=name, folder_path=folder)
"""
LOAD_CORPUS = """
import sys
from hf_slap.data import load_corpus

rows = load_corpus(sys.argv[1], split="train")
print(list(rows["id"]), [len(audio["bytes"]) for audio in rows["audio"]])
"""


@pytest.fixture(scope="module")
def hub(tiny_folder, run_python, tmp_path_factory):
    """A hub with the tiny model as "org/slap-tiny"."""
    with LoopbackHub() as hub:
        home = tmp_path_factory.mktemp("publisher")
        run_python(["-c", UPLOAD, "org/slap-tiny", tiny_folder], hub.environment(home))
        yield hub


def test_an_uploaded_folder_arrives_as_it_is(hub, tiny_folder):
    _, files = hub.files_at("models/org/slap-tiny")
    del files[".gitattributes"]
    assert files == {path.name: path.read_bytes() for path in tiny_folder.iterdir()}


def test_push_to_hub_sends_weights_configuration_tokenizer_and_code(hub, tiny_folder, run_python, tmp_path):
    run_python(["-c", PUSH, "org/pushed", tiny_folder], hub.environment(tmp_path))
    _, files = hub.files_at("models/org/pushed")
    for name in ("model.safetensors", "tokenizer.json", "processor_config.json", "modeling_slap.py"):
        assert files[name] == (tiny_folder / name).read_bytes(), name
    assert json.loads(files["config.json"])["auto_map"]["AutoModel"] == "modeling_slap.SlapModel"


@pytest.mark.parametrize("with_package", [True, False])
def test_loading_by_name_gives_what_the_folder_gives(hub, with_package, use_slap, tiny_folder, clip_files, tmp_path):
    by_name = use_slap("org/slap-tiny", with_package, hub.environment(tmp_path))
    from_folder = all_outputs(str(tiny_folder), clip_files, trust_remote_code=False)
    assert by_name["classes"][0].startswith("hf_slap." if with_package else "transformers_modules.org.")
    for name in from_folder.keys() - {"classes"}:
        assert by_name[name] == from_folder[name], name
    assert any("/org/slap-tiny/resolve/" in request for request in hub.requests)


def test_a_corpus_loads_by_name(hub, corpus_rows, run_python, tmp_path):
    from datasets import Dataset

    Dataset.from_list(corpus_rows).to_parquet(tmp_path / "train.parquet")
    hub.repositories["datasets/org/sounds"] = []
    hub.commit("datasets/org/sounds", {"train.parquet": (tmp_path / "train.parquet").read_bytes()})
    printed = run_python(["-c", LOAD_CORPUS, "org/sounds"], hub.environment(tmp_path))
    sizes = [len(row["audio"]["bytes"]) for row in corpus_rows]
    assert printed.splitlines()[-1] == f"{[row['id'] for row in corpus_rows]} {sizes}"
