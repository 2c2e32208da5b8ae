"""The schema of a record: what is accepted, what is refused, and that its version travels with a file."""

import dataclasses
import pickle

import pyarrow as pa
import pytest

from hf_slap.data.records import (
    FEATURES,
    SCHEMA_KEY,
    Caption,
    Record,
    RecordError,
    arrow_schema,
    check_schema,
    validate,
)

RECORD = Record(
    id="birds/7",
    source="birds",
    source_id="freesound:1234",
    audio={"bytes": b"RIFF", "path": "7.wav"},
    captions=[Caption("A bird sings"), Caption("birdsong", "tags", "machine", "gpt-4", "wavcaps")],
    license="CC0-1.0",
    redistributable=True,
    domain="sound",
    labels=["bird"],
    segment={"start": 2.5, "end": 5.0},
    duration=2.5,
    sampling_rate=16_000,
)


def test_a_record_goes_through_a_table_unchanged():
    table = pa.Table.from_pylist([RECORD.to_row()], arrow_schema())
    assert Record.from_row(table.to_pylist()[0]) == RECORD
    without = dataclasses.replace(RECORD, segment=None, labels=[])
    assert Record.from_row(pa.Table.from_pylist([without.to_row()], arrow_schema()).to_pylist()[0]) == without


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": " "}, "id"),
        ({"source": "Bird Songs"}, "source"),
        ({"source_id": "1234"}, "source_id"),
        ({"audio": {"bytes": None, "path": None}}, "audio"),
        ({"audio": {"bytes": b"", "path": "7.wav"}}, "audio"),
        ({"audio": "7.wav"}, "audio"),
        ({"duration": 0.0}, "duration"),
        ({"duration": float("nan")}, "duration"),
        ({"duration": None}, "duration"),
        ({"sampling_rate": 16_000.0}, "sampling_rate"),
        ({"segment": {"start": 5.0, "end": 2.5}}, "segment"),
        ({"segment": {"start": 5.0}}, "segment"),
        ({"segment": True}, "segment"),
        ({"segment": ""}, "segment"),
        ({"captions": []}, "captions"),
        ({"captions": ["A bird sings"]}, "captions"),
        ({"captions": [Caption("\n")]}, "captions[0].text"),
        ({"captions": [RECORD.captions[0], Caption("a bird", provenance="robot")]}, "captions[1].provenance"),
        ({"captions": [Caption("a bird", provenance="machine")]}, "captions[0].model"),
        ({"captions": [Caption("a bird", model="gpt-4")]}, "captions[0].model"),
        ({"labels": None}, "labels"),
        ({"domain": "birds"}, "domain"),
        ({"language": "English"}, "language"),
        ({"license": ""}, "license"),
        ({"redistributable": 1}, "redistributable"),
        ({"split": "eval"}, "split"),
        ({"cut": (0.0, 1.0)}, "cut"),
    ],
)
def test_what_breaks_the_schema_is_refused_by_the_name_of_the_field(change, field):
    assert validate(RECORD) is RECORD
    with pytest.raises(RecordError) as caught:
        validate(dataclasses.replace(RECORD, **change))
    assert caught.value.field == field
    assert field in str(caught.value) and "accepted is" in str(caught.value)
    assert RECORD.id in str(caught.value) or field == "id"
    assert "RIFF" not in str(caught.value)  # no sound in a message


def test_a_raw_record_may_leave_open_what_preparing_reads():
    validate(dataclasses.replace(RECORD, duration=None, sampling_rate=None, cut=(0.0, 1.0)), prepared=False)


def test_an_error_keeps_its_field_between_processes():
    problem = pickle.loads(pickle.dumps(RecordError("birds/7", "split", "eval", "one of these")))
    assert (problem.record, problem.field) == ("birds/7", "split")
    assert "'eval'" in str(problem)


def test_columns_that_are_not_the_schemas_are_refused():
    row = RECORD.to_row()
    with pytest.raises(RecordError, match="columns"):
        Record.from_row({**row, "caption": "x"})
    with pytest.raises(RecordError, match="captions"):
        Record.from_row({**row, "captions": [{"words": "x"}]})
    for wrong in (True, {}, [0.0, 1.0]):
        with pytest.raises(RecordError, match="segment"):
            validate(Record.from_row({**row, "segment": wrong}))


def test_a_file_of_another_version_is_refused():
    check_schema(arrow_schema(), "a file")
    with pytest.raises(ValueError, match="a file has schema version 2; this release reads version 1"):
        check_schema(arrow_schema().with_metadata({SCHEMA_KEY: b"2"}), "a file")
    with pytest.raises(ValueError, match="carries no schema version"):
        check_schema(arrow_schema().remove_metadata(), "a file")
    other = FEATURES.arrow_schema.remove(0).with_metadata({SCHEMA_KEY: b"1"})
    with pytest.raises(ValueError, match="other types"):
        check_schema(other, "a file")
