"""Whatever lies in a corpus, a tar or a row: valid records come out, or an error that says which file or field is wrong."""

import copy
import io
import shutil
import tarfile
from pathlib import Path

import pytest
from breaking import broken, soon
from hypothesis import given
from hypothesis import strategies as st

from hf_slap.data import Caption, PrepareSettings, Record, SoundSettings, prepare, read_manifest, read_records, verify
from hf_slap.data.recipes.readers import webdataset
from hf_slap.data.records import FEATURES, RecordError, validate

ANYTHING = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9)),
    st.lists(st.none() | st.text(max_size=5) | st.integers(), max_size=3),
    st.dictionaries(
        st.sampled_from(["bytes", "path", "start", "end", "text", "provenance"]),
        st.none() | st.text(max_size=5) | st.floats() | st.binary(max_size=5),
        max_size=4,
    ),
)


@pytest.fixture(scope="module")
def records(corpus_rows) -> list[Record]:
    return [
        Record(
            f"shipped/{row['id']}", "shipped", f"package:{row['id']}", row["audio"],
            [Caption(text, provenance="template") for text in row["captions"]], "CC-BY-SA-3.0", True, "sound",
        )
        for row in corpus_rows[:3]
    ]  # fmt: skip


@pytest.fixture(scope="module", params=["parquet", "webdataset"])
def corpus(request, records, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpora") / request.param
    prepare(records, folder, PrepareSettings(SoundSettings("opus"), request.param), workers=1)
    return folder


@given(data=st.data())
def test_a_corpus_with_a_broken_file(corpus, tmp_path_factory, data):
    files = sorted(
        path for path in corpus.rglob("*") if path.parent.name in ("data", "index") or path.name == "manifest.json"
    )
    chosen = data.draw(st.sampled_from(files))
    content = chosen.read_bytes()
    changed = data.draw(broken(content))
    copied = tmp_path_factory.getbasetemp() / "broken-corpus"
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(corpus, copied)
    (copied / chosen.relative_to(corpus)).write_bytes(changed)
    with soon():
        try:
            for record in read_records(copied):
                assert validate(record) is record
        except (ValueError, FileNotFoundError) as error:
            assert len(str(error)) > 20
        try:
            problems = verify(copied)
        except (ValueError, FileNotFoundError):
            assert chosen.name == "manifest.json"
        else:
            assert problems or changed == content or chosen.name == "manifest.json"


@given(data=st.data())
def test_a_broken_tar_of_somebody(records, tmp_path_factory, data):
    file = io.BytesIO()
    how = data.draw(st.sampled_from(["w", "w:gz", "w:xz", "w:bz2"]))
    with tarfile.open(
        fileobj=file,
        mode=how,
        format=data.draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])),
    ) as tar:
        for number, record in enumerate(records):
            for suffix, content in (("ogg", record.audio["bytes"][:2000]), ("txt", record.captions[0].text.encode())):
                member = tarfile.TarInfo(f"sounds/ü{'x' * 40 * number}{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    path = tmp_path_factory.getbasetemp() / "broken.tar"
    path.write_bytes(data.draw(broken(file.getvalue())))
    with soon():
        try:
            for key, parts in webdataset(path):
                assert isinstance(key, str) and all(isinstance(part, bytes) for part in parts.values())
        except ValueError as error:
            assert str(path) in str(error)


@given(
    row=st.fixed_dictionaries({}, optional={**{name: ANYTHING for name in FEATURES}, "more": ANYTHING}),
    whole=st.booleans(),
    prepared=st.booleans(),
)
def test_any_row(records, row, whole, prepared):
    if whole:  # a good row with some columns that are anything
        row = {**copy.deepcopy(records[0].to_row()), **{name: value for name, value in row.items() if name in FEATURES}}
    try:
        record = validate(Record.from_row(row), prepared)
    except RecordError as error:
        assert error.field and "accepted is" in str(error)
        return
    assert validate(Record.from_row(record.to_row()), prepared) == record


@pytest.mark.parametrize(
    "name",
    ["data/../../secret.parquet", "../data/x.parquet", "/etc/passwd", "data/a/b.parquet", "data\\x", "data/.hidden"],
)
def test_a_manifest_cannot_name_files_outside_of_its_corpus(corpus, tmp_path, name):
    copied = tmp_path / "corpus"
    shutil.copytree(corpus, copied)
    manifest = copied / "manifest.json"
    old = next(iter(read_manifest(copied)["shards"][0]["files"]))
    manifest.write_text(manifest.read_text().replace(old, name.replace("\\", "\\\\")))
    for read in (lambda: list(read_records(copied)), lambda: verify(copied)):
        with pytest.raises(ValueError, match="its shards must be files of data/ and index/"):
            read()
