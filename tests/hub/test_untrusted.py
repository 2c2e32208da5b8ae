"""Folders and archives of strangers: without trust_remote_code nothing in them runs, and nothing is written elsewhere."""

import io
import json
import os
import shutil
import sys
import tarfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

import hf_slap
from hf_slap.data import load_corpus
from hf_slap.data.recipes import get_recipe
from hf_slap.data.recipes.readers import webdataset

EVIL = "import os\nos.mkdir({marker!r})\n"
_LISTENING = []


def _hear(event: str, arguments: tuple) -> None:
    for written in _LISTENING:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            mode = arguments[1] if isinstance(arguments[1], str) else ""
            if set(mode) & set("wax+") or (isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_WRONLY)):
                written.append(os.path.realpath(os.fsdecode(arguments[0])))
        elif event in ("os.mkdir", "os.symlink", "os.link", "os.rename"):
            written.append(
                os.path.realpath(os.fsdecode(arguments[-1] if isinstance(arguments[-1], str) else arguments[0]))
            )


sys.addaudithook(_hear)  # it cannot be taken away again; it does nothing unless `what_is_written` listens


@contextmanager
def what_is_written():
    """The files that Python opens for writing, makes, links or renames, wherever they are."""
    _LISTENING.append([])
    try:
        yield _LISTENING[-1]
    finally:
        _LISTENING.pop()


@pytest.fixture
def evil_folder(tiny_folder, tmp_path) -> Path:
    """A SLAP folder in which every file that names code names a stranger's."""
    folder, marker = tmp_path / "evil", str(tmp_path / "ran")
    shutil.copytree(tiny_folder, folder)
    for path in folder.glob("*.py"):
        path.write_text(EVIL.format(marker=marker))
    (folder / "evil.py").write_text(EVIL.format(marker=marker))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(EVIL.format(marker=marker))
    names = [
        f"Auto{kind}"
        for kind in ("Config", "Model", "ModelForSpeechSeq2Seq", "Processor", "Tokenizer", "FeatureExtractor")
    ]
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        parts = [content, *(part for part in content.values() if isinstance(part, dict) and "model_type" in part)]
        for part in parts:
            part["auto_map"] = {auto: ["evil.Evil", None] if auto == "AutoTokenizer" else "evil.Evil" for auto in names}
        if name == "config.json":
            content["custom_pipelines"] = {
                "audio-captioning": {"impl": "evil.Evil", "pt": ["AutoModel"], "type": "audio"}
            }
        (folder / name).write_text(json.dumps(content))
    return folder


def test_no_code_of_a_folder_runs_without_trust(evil_folder, tmp_path, real_clips):
    tried = 0
    for load in (
        *(kind.from_pretrained for kind in (AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq, AutoProcessor)),
        *(kind.from_pretrained for kind in (AutoTokenizer, AutoFeatureExtractor, hf_slap.SlapProcessor)),
        *(kind.from_pretrained for kind in (hf_slap.SlapModel, hf_slap.SlapForPreTraining, hf_slap.SlapConfig)),
        lambda folder, **trust: pipeline("audio-captioning", model=folder, **trust)(real_clips[0]),
        lambda folder, **trust: pipeline("audio-feature-extraction", model=folder, **trust)(real_clips[0]),
        lambda folder, **trust: hf_slap.embed([real_clips[0]["bytes"]], folder),
    ):
        with suppress(ValueError, OSError, TypeError, AttributeError):
            load(str(evil_folder), trust_remote_code=False)
            tried += 1
        assert not (tmp_path / "ran").exists()
    assert tried > 5  # most load, by the classes of this package


def test_the_same_code_runs_where_it_is_trusted(evil_folder, tmp_path):
    """So the test above would have seen it."""
    config = json.loads((evil_folder / "config.json").read_text())
    (evil_folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModel.from_pretrained(evil_folder, trust_remote_code=False)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(AttributeError):
        AutoModel.from_pretrained(evil_folder, trust_remote_code=True)
    assert (tmp_path / "ran").exists()


@pytest.fixture
def evil_tar(tmp_path, real_clips) -> Path:
    """A WebDataset shard with members that would land elsewhere, links and devices, a hole of a terabyte, and a clip."""
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "evil-000.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("../../escaped/one", "/tmp/escaped-by-slap/two", "three"):
            for suffix, content in (("ogg", real_clips[0]["bytes"]), ("txt", b"a dog")):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        for kind, target in (
            (tarfile.SYMTYPE, "/etc/passwd"),
            (tarfile.LNKTYPE, "three.txt"),
            (tarfile.FIFOTYPE, ""),
            (tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(f"four-{int(kind)}.txt")
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return folder


def test_archives_write_nothing_outside_of_the_cache_and_follow_no_links(evil_tar, tmp_path):
    with what_is_written() as written:
        clips = dict(webdataset(evil_tar / "evil-000.tar"))
        records = list(get_recipe("webdataset", name="mine").records(evil_tar))
    assert written == [] and set(clips) == {"../../escaped/one", "/tmp/escaped-by-slap/two", "three"}
    assert len(records) == 3
    with what_is_written() as written:
        corpus = load_corpus(evil_tar, cache_dir=tmp_path / "cache")
    inside = [os.path.realpath(place) for place in (tmp_path / "cache", os.environ.get("HF_HOME", "~/.cache"))]
    assert written and [path for path in written if not path.startswith((*inside, "/dev/null"))] == []
    assert corpus["captions"][:] == [["a dog"]] * 3
    assert not (tmp_path.parent / "escaped").exists() and not Path("/tmp/escaped-by-slap").exists()


def test_a_hole_of_a_terabyte_in_an_archive_takes_no_memory(tmp_path):
    header = bytearray(tarfile.TarInfo("hole.ogg").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    terabyte = b"\x80" + (1 << 40).to_bytes(11, "big")
    header[386:410] = terabyte + b"\x80" + bytes(11)  # one piece of no bytes, at the end
    header[483:495] = terabyte
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    path = tmp_path / "hole.tar"
    path.write_bytes(bytes(header) + bytes(1024))
    with tarfile.open(path) as archive:
        assert archive.getmembers()[0].issparse() and archive.getmembers()[0].size == 1 << 40
    assert list(webdataset(path)) == []
