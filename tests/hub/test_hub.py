"""Publishing to the Hub and loading by name, over HTTP, from a hub on loopback."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest
from loopback_hub import TOKEN, LoopbackHub

from hf_slap import use_folder

PUSH = """
import sys
import hf_slap

name, folder = sys.argv[1:]
hf_slap.SlapForPreTraining.from_pretrained(folder).push_to_hub(name)
hf_slap.SlapProcessor.from_pretrained(folder).push_to_hub(name)
"""
LOAD_CORPUS = """
import sys
from hf_slap.data import load_corpus

rows = load_corpus(sys.argv[1], split="train")
print(list(rows["id"]), [len(audio["bytes"]) for audio in rows["audio"]])
"""


class Published(NamedTuple):
    """The hub after publish_slap.py, what that said, and all that it printed."""

    hub: LoopbackHub
    said: dict
    printed: str
    folder: Path


@pytest.fixture(scope="module")
def run_folder(tiny_folder, corpus_rows, tmp_path_factory) -> Path:
    """What a pretraining leaves, as far as publishing needs it."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("a-run")
    (folder / "model").symlink_to(tiny_folder)
    rows = [{**row, "package": "chimes", "license": "CC-BY-3.0"} for row in corpus_rows]
    Dataset.from_list(rows).to_parquet(folder / "chimes.parquet")
    (folder / "config.yaml").write_text(f"train_data: {folder}/chimes.parquet\ntotal_steps: 7\n")
    return folder


@pytest.fixture(scope="module")
def published(run_folder, clip_files, tmp_path_factory):
    """Everything that publish_slap.py does, with logs at their loudest."""
    here, workspace = Path(__file__).parent, tmp_path_factory.mktemp("workspace")
    with LoopbackHub() as hub:
        hub.faults += [("PUT /large/", None), ("POST .*/commit/", 403)]
        environment = {**os.environ, **hub.environment(tmp_path_factory.mktemp("home")), "HF_DEBUG": "1"}
        command = [sys.executable, here / "publish_slap.py", run_folder, workspace, *clip_files]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-5000:]
        yield Published(hub, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr, workspace / "my-slap")


@pytest.fixture(scope="module")
def alone(published, clip_files, tmp_path_factory) -> dict:
    """What load_by_name.py says, where hf_slap cannot be imported."""
    paths = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    script = Path(__file__).with_name("load_by_name.py")
    command = [sys.executable, "-I", "-S", script, use_folder.__file__, *clip_files, "--paths", *paths]
    environment = {**os.environ, **published.hub.environment(tmp_path_factory.mktemp("home"))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_broken_upload_goes_on_by_itself_and_a_refused_commit_by_calling_again(published):
    hub, said = published.hub, published.said
    assert said["problems"] == [] and "403" in said["errors"][0]
    uploads = [request for request in hub.requests if request.startswith("PUT /large/")]
    assert [request.endswith("failed") for request in uploads] == [True, False, False]  # the last is the adapter's
    assert [len(hub.history("models/org/slap")), said["again"]] == [3, said["commit"]]  # made, pushed, mended


def test_one_commit_makes_the_repository_what_the_folder_is(published):
    commit, files = published.hub.files_at("models/org/slap", "v1")
    assert published.said["commit"].endswith(f"/commit/{commit}")
    folder = {path.name: path.read_bytes() for path in published.folder.iterdir()}
    assert set(files) - {".gitattributes"} == set(folder)
    for name in set(folder) - {"README.md", "CREDITS.md"}:  # these were mended afterwards
        assert files[name] == folder[name], name
    assert b'\nmodel = "org/slap"\n' in files["README.md"]
    assert b"| chimes.parquet | chimes | CC-BY-3.0 | 7 |" in files["CREDITS.md"]


def test_tags_branches_and_private_repositories(published, alone):
    hub, said = published.hub, published.said
    assert "has a tag 'v1' already" in said["errors"][2] and "is there and public" in said["errors"][3]
    assert [("Mended." in alone["readme"][name]) for name in ("v1", "main", "dev")] == [False, True, True]
    assert hub.files_at("models/org/slap", "dev")[1]["CREDITS.md"] == b"On sounds of my own.\n"
    assert hub.files_at("models/org/slap", "main")[1]["CREDITS.md"] != b"On sounds of my own.\n"
    assert hub.private == {"models/org/secret"} and "Error" in alone["stranger"]


@pytest.mark.parametrize("name", ["org/slap", "org/slap, v1", "org/secret", "org/adapter"])
def test_loading_by_name_gives_the_same_with_the_package_and_without(published, alone, name):
    here, there = published.said["by name"][name], alone[name]
    assert all(found.startswith("hf_slap.") for found in here["classes"])
    assert all(found.startswith("transformers_modules.org.") for found in there["classes"])
    assert here["keys that do not fit"] == there["keys that do not fit"] == []
    for output in here.keys() - {"classes"}:
        assert here[output] == there[output] and (output == "keys that do not fit" or here[output]), output


def test_what_is_loaded_by_name_is_what_was_trained(published, tiny_folder, clip_files):
    by_name, from_folder = published.said["by name"], use_folder.all_outputs(str(tiny_folder), clip_files, False)
    assert from_folder == by_name["org/slap"]
    assert by_name["org/adapter"]["text_embeds"] != by_name["org/slap"]["text_embeds"]


def test_without_package_and_without_trust_nothing_is_loaded_by_name(alone):
    assert "trust_remote_code=True" in alone["refusal"]


def test_no_token_is_ever_seen(published, alone):
    refusal, traceback = published.said["errors"][:2]
    assert "Bearer hf_***" in refusal and "Bearer hf_***" in traceback  # what the server said is told, the token is not
    assert len(published.printed) > 10_000 and "Authorization" not in traceback.split("HubError")[0]
    assert TOKEN not in published.printed and TOKEN not in json.dumps([published.said, alone])


def test_push_to_hub_sends_weights_configuration_tokenizer_and_code(published, tiny_folder, run_python, tmp_path):
    hub = published.hub
    run_python(["-c", PUSH, "org/pushed", tiny_folder], hub.environment(tmp_path))
    _, files = hub.files_at("models/org/pushed")
    for name in ("model.safetensors", "tokenizer.json", "processor_config.json", "modeling_slap.py"):
        assert files[name] == (tiny_folder / name).read_bytes(), name
    assert json.loads(files["config.json"])["auto_map"]["AutoModel"] == "modeling_slap.SlapModel"


def test_a_corpus_loads_by_name(published, corpus_rows, run_python, tmp_path):
    hub = published.hub
    from datasets import Dataset

    Dataset.from_list(corpus_rows).to_parquet(tmp_path / "train.parquet")
    hub.repositories["datasets/org/sounds"] = []
    hub.commit("datasets/org/sounds", {"train.parquet": (tmp_path / "train.parquet").read_bytes()})
    printed = run_python(["-c", LOAD_CORPUS, "org/sounds"], hub.environment(tmp_path))
    sizes = [len(row["audio"]["bytes"]) for row in corpus_rows]
    assert printed.splitlines()[-1] == f"{[row['id'] for row in corpus_rows]} {sizes}"
