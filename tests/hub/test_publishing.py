"""A corpus goes to the Hub in few commits, goes on where it was interrupted, and is read back by name."""

import dataclasses
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

from hf_slap.data import Caption, PrepareSettings, Record, SoundSettings, prepare, push_to_hub, write_card
from hf_slap.data.shards import read_shards

# Pushes a corpus twice, the first time interrupted after one commit, then reads it by name in every way.
PUBLISH = """
import sys
import datasets
from huggingface_hub import HfApi
from hf_slap.data import load_corpus, push_to_hub

folder, tars = sys.argv[1:]
commit, commits = HfApi.create_commit, []

def interrupted(self, *arguments, **keywords):
    if len(commits) == 1:
        commits.append(None)
        raise KeyboardInterrupt
    commits.append(keywords["commit_message"])
    return commit(self, *arguments, **keywords)

HfApi.create_commit = interrupted
try:
    push_to_hub(folder, "org/corpus", files_per_commit=2)
except KeyboardInterrupt:
    print("interrupted")
print(push_to_hub(folder, "org/corpus", files_per_commit=2).rsplit("/", 3)[1:])
print(commits)
push_to_hub(tars, "org/tars")

corpus = load_corpus("org/corpus", split="train")
print(corpus["id"][:], len(corpus[0]["audio"]["bytes"]), corpus[0]["captions"])
stream = datasets.load_dataset("org/corpus", split="test", streaming=True)
print([row["id"] for row in stream])
stream = datasets.load_dataset("org/tars", split="train", streaming=True).cast_column("flac", datasets.Audio(decode=False))
print([(row["json"]["id"], len(row["flac"]["bytes"])) for row in stream])
print(load_corpus("org/tars", split="test")["id"][:])
"""


@pytest.fixture(scope="module")
def records(corpus_rows) -> list[Record]:
    return [
        Record(
            f"shipped/{row['id']}", "shipped", f"package:{row['id']}", row["audio"],
            [Caption(text, provenance="template") for text in row["captions"]], "CC-BY-SA-3.0", True, "sound",
            split="test" if number > 4 else "train",
        )
        for number, row in enumerate(corpus_rows)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def corpora(records, tmp_path_factory) -> tuple[Path, Path]:
    folders = []
    for format in ("parquet", "webdataset"):
        folders.append(tmp_path_factory.mktemp("corpora") / format)
        prepare(records, folders[-1], PrepareSettings(SoundSettings("flac"), format, shard_bytes=20_000), workers=1)
    return tuple(folders)


def test_a_corpus_is_pushed_in_pieces_and_read_by_name(corpora, records, run_python, tmp_path):
    folder, tars = corpora
    shards = read_shards(folder)
    assert len(shards) > 3
    (folder / "datasheet").mkdir()
    (folder / "datasheet" / "datasheet.md").write_text("## Numbers\n![durations](durations.png)\n")
    (folder / "datasheet" / "durations.png").write_bytes(b"png")
    write_card(folder, "Seven sounds")
    with LoopbackHub() as hub:
        said = run_python(["-c", PUBLISH, folder, tars], hub.environment(tmp_path)).splitlines()
        files = hub.files_at("datasets/org/corpus")[1]
        requests = list(hub.requests)
    left = len(shards) - 2
    commits = [f"Shards 1 to 2 of {len(shards)}", None]
    commits += [f"Shards {start + 1} to {min(start + 2, left)} of {left}" for start in range(0, left, 2)]
    assert said[:3] == ["interrupted", "['datasets', 'org', 'corpus']", str([*commits, "Card, datasheet and manifest"])]
    uploads = [request for request in requests if request.startswith("PUT /large/")]
    assert len(uploads) == len(set(uploads))  # nothing was sent twice
    assert {path: files[path] for path in files if path.startswith("data/")} == {
        shard.data: (folder / shard.data).read_bytes() for shard in shards
    }
    assert {"manifest.json", "errors.parquet", "datasheet/durations.png", "README.md"} < set(files)
    assert not [path for path in files if path.startswith("parts/")]
    card = files["README.md"].decode()
    assert "path: data/train-*.parquet" in card and "cc-by-sa-3.0" in card and "# Seven sounds" in card
    assert "![durations](datasheet/durations.png)" in card
    train = [record for record in records if record.split == "train"]
    ids = [record.id for record in records]
    assert said[3].startswith(f"{ids[:5]} ") and train[0].captions[0].text in said[3]
    assert said[4] == str(ids[5:]) == said[6]
    assert all(name in said[5] for name in ids[:5])


def test_what_must_not_be_published_is_refused(records, tmp_path):
    ours = [*records[:2], dataclasses.replace(records[2], license="GPL-2.0", redistributable=False)]
    prepare(ours, tmp_path / "kept", workers=1)
    with pytest.raises(ValueError, match=r"1 clips may not be given away: shipped \(GPL-2.0\) \(1\)"):
        push_to_hub(tmp_path / "kept", "org/kept")
    clip = tmp_path / "clip.ogg"
    clip.write_bytes(records[0].audio["bytes"])
    by_path = [dataclasses.replace(records[0], audio={"bytes": None, "path": str(clip)})]
    prepare(by_path, tmp_path / "paths", PrepareSettings(SoundSettings("path", None)), workers=1)
    with pytest.raises(ValueError, match="refers to files of this machine"):
        push_to_hub(tmp_path / "paths", "org/paths")
    shard = tmp_path / "kept" / read_shards(tmp_path / "kept")[0].data
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not as it was written"):
        push_to_hub(tmp_path / "kept", "org/kept", only_redistributable=False)
