"""Rows out of files, good and bad."""

import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from fusion.errors import BadInputError
from fusion.ingest.reading import DataPath, check_data_path, read_rows
from fusion.ingest.rows import Malformed, Row
from fusion.store import Location, StorageError
from tests.fusion.store.flaky import FlakyWay

RECORDS = [{"q": "one", "n": 1}, {"q": "zwei\nlines", "n": 2}, {"q": "三", "n": 3}]


def read(path: Path) -> list[Row | Malformed]:
    return list(read_rows(DataPath(str(path))))


def columns(path: Path) -> list[dict[str, object]]:
    return [row.columns for row in read(path) if isinstance(row, Row)]


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(record) for record in RECORDS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "lines.json").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps(RECORDS, indent=2))
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert columns(path) == RECORDS, path.name


def test_csv_gives_texts_and_the_line_where_a_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('q,n\none,1\n"zwei\nlines",2\n三,3\n')
    assert columns(path) == [{**record, "n": str(record["n"])} for record in RECORDS]
    assert [row.number for row in read(path)] == [2, 3, 5]


def test_jsonl_numbers_lines_and_skips_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"q": "a"}\r\n\r\n{"q": "b"}\r\n')
    assert read(path) == [Row(1, {"q": "a"}), Row(3, {"q": "b"})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"q": ', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"q": "\xff"}', "invalid_utf8"),
        (b'["q"]', "not_an_object"),
        (b"null", "not_an_object"),
    ],
)
def test_bad_line_is_malformed_and_the_next_is_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b'\n{"q": "b"}\n')
    bad, good = read(path)
    assert isinstance(bad, Malformed)
    assert (bad.number, bad.reason) == (1, reason)
    assert good == Row(2, {"q": "b"})


@pytest.mark.timeout(30)
def test_many_empty_lines_within_a_bracket_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{" + b"\n" * 1_000_000 + b"x")
    assert [row.number for row in read(path)] == [1, 1_000_001]


@pytest.mark.parametrize("line", [b'{ "q": "b"}', b"{}", b"[]"])
def test_a_first_row_of_one_line_is_no_json_over_several(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n" + line + b'\n{"q": "b"}\n')
    assert [row.number for row in read(path)] == [2, 3]


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"one", "wrong_columns"), (b"1,2,3", "wrong_columns"), (b"\xff,1", "invalid_utf8")],
)
def test_bad_csv_row_is_malformed_and_the_next_is_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"q,n\n" + line + b"\nb,2\n")
    bad, good = read(path)
    assert isinstance(bad, Malformed)
    assert (bad.number, bad.reason) == (2, reason)
    assert good == Row(3, {"q": "b", "n": "2"})


@pytest.mark.parametrize(
    ("opened", "later", "last", "reason"),
    [
        ('"question 50,50', "question 80,80", 101, "invalid_csv"),
        ('"question 50,50', '"question, 80",80', 81, "invalid_csv"),
        ('"question 50,50', 'question 80",80,80', 81, "wrong_columns"),
    ],
)
def test_every_line_that_an_open_quote_swallows_in_csv_is_malformed(
    tmp_path: Path, opened: str, later: str, last: int, reason: str
) -> None:
    lines = ["q,n", *(f"question {number},{number}" for number in range(1, 101))]
    lines[50], lines[80] = opened, later
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n")
    rows = read(path)
    assert [row.number for row in rows] == list(range(2, 102))
    bad = [row for row in rows if isinstance(row, Malformed)]
    assert [row.number for row in bad] == list(range(51, last + 1))
    assert {row.reason for row in bad} == {reason}
    open_quote = f"a quote that opens in line 51 is not closed before line {last}"
    said = f"goes from line 51 to line {last}" if reason == "wrong_columns" else open_quote
    assert all(row.detail.endswith(said) for row in bad)


def test_wrong_quote_in_one_line_of_csv_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('q,n\n"a"b,1\nb,2\n')
    bad, good = read(path)
    assert isinstance(bad, Malformed)
    assert "is not closed" not in bad.detail
    assert good == Row(3, {"q": "b", "n": "2"})


def test_long_cell_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("q\n" + "x" * 300_000 + "\n")
    assert len(str(columns(path)[0]["q"])) == 300_000


def test_parquet_text_that_is_not_utf8_is_malformed_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array([b"good", b"\xff", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"q": texts}), path)
    assert [getattr(row, "reason", "") for row in read(path)] == ["", "invalid_utf8", ""]


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.date64()])
def test_parquet_time_that_no_calendar_holds_is_malformed_alone(
    tmp_path: Path, kind: pa.DataType
) -> None:
    path = tmp_path / "a.parquet"
    times = pa.array([0, 2**60 // 86_400_000 * 86_400_000, 0]).view(kind)
    pq.write_table(pa.table({"q": ["a", "b", "c"], "at": times}), path)
    first, bad, last = read(path)
    assert isinstance(bad, Malformed)
    assert (bad.number, bad.reason) == (2, "invalid_value")
    assert bad.detail.startswith("at cannot be read: ")
    assert [getattr(row, "number", 0) for row in (first, last)] == [1, 3]


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["a"], ["b"]], names=["q", "q"]), path)
    with pytest.raises(BadInputError, match="a column twice"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", b'"text"', "expected a list"),
        ("a.json", b"[1, ", "is not JSON"),
        ("a.parquet", b"nonsense", "not readable as Parquet"),
        ("a.txt", b"text", "unknown kind"),
        ("a.csv", b"q,q\n1,2\n", "a column twice"),
        ("a.csv", b'"q,n\n1,2\n', "no header that is CSV"),
        ("a.csv", b'"q"x,n\n1,2\n', "no header that is CSV"),
        ("a.jsonl.xz", lzma.compress(b'{"q": 1}'), "compressed with xz"),
        ("a.jsonl", gzip.compress(b'{"q": 1}', mtime=0), "compressed with gzip"),
        ("a.csv", pa.compress(b"q,n", "zstd", asbytes=True), "compressed with zstd"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), "compressed with gzip"),
        ("a.jsonl", '{"q": 1}'.encode("utf-16"), "is UTF-16"),
        ("a.json", "[]".encode("utf-16"), "is UTF-16"),
        ("a.json", json.dumps({"data": RECORDS}, indent=2).encode(), "over several lines"),
        ("a.jsonl", json.dumps({"data": RECORDS}, indent=2).encode(), "over several lines"),
        ("a.jsonl", json.dumps(RECORDS, indent=2).encode(), "over several lines"),
        ("a.jsonl", b'\xef\xbb\xbf \n{ \r\n\n"q": 1}', "over several lines"),
        ("a.jsonl.gz", gzip.compress(b'{"q": 1}\n' * 100_000)[:-200], "could not be read beyond"),
        ("a.jsonl.gz", b"no gzip", "could not be read beyond row 0"),
        ("a.json.gz", b"no gzip", "could not be read beyond row 0"),
    ],
)
def test_damaged_or_unknown_file_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=sentence):
        read(tmp_path / name)


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There is no file"):
        check_data_path(DataPath(str(tmp_path / "none.jsonl")))


def test_folder_or_pattern_of_names_is_told_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(BadInputError, match=r"is a folder; expected one file"):
        check_data_path(DataPath(str(tmp_path / "folder.jsonl")))
    with pytest.raises(BadInputError, match="not a pattern of names"):
        check_data_path(DataPath(str(tmp_path / "*.jsonl")))


def test_suffix_in_capitals_is_the_same_kind(tmp_path: Path) -> None:
    path = tmp_path / "data.JSONL"
    path.write_text(json.dumps(RECORDS[0]))
    assert columns(path) == RECORDS[:1]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (DataPath("hf://owner/name"), "has no revision"),
        (DataPath("hf://name", "main"), "expected hf://owner/name"),
    ],
)
def test_hub_data_set_needs_owner_and_revision(data: DataPath, sentence: str) -> None:
    with pytest.raises(BadInputError, match=sentence):
        check_data_path(data)


@pytest.fixture
def way() -> Iterator[FlakyWay]:
    """A way to a real S3 server on loopback that can be made to fail."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    way = FlakyWay(server.get_host_and_port()[1])
    yield way
    way.close()
    server.stop()


@pytest.fixture
def bucket(way: FlakyWay) -> Iterator[str]:
    """URI of an empty bucket on that server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", way.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "test-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="data")
        yield "s3://data"


def test_files_on_s3_read_like_local_ones(bucket: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    (Location.of(bucket) / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    (Location.of(bucket) / "a.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    for name in ("a.parquet", "a.jsonl"):
        data = DataPath(f"{bucket}/{name}")
        assert [row.columns for row in read_rows(data) if isinstance(row, Row)] == RECORDS
    before = data.fingerprint()
    assert data.fingerprint() == before
    (Location.of(bucket) / "a.jsonl").write_text('{"q": "other"}')
    assert data.fingerprint() != before
    with pytest.raises(BadInputError, match="There is no file"):
        check_data_path(DataPath(f"{bucket}/none.jsonl"))


def test_options_of_an_s3_path_are_no_part_of_its_suffix(
    bucket: str, way: FlakyWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Location.of(bucket) / "a.jsonl").write_text(json.dumps(RECORDS[0]))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    place = way.endpoint.removeprefix("http://")
    data = DataPath(f"{bucket}/a.jsonl?endpoint_override={place}&scheme=http")
    assert list(read_rows(data)) == [Row(1, RECORDS[0])]


def test_storage_that_cannot_be_reached_is_one_sentence(bucket: str, way: FlakyWay) -> None:
    data = DataPath(f"{bucket}/a.jsonl")
    for ask in (check_data_path, DataPath.fingerprint):
        with way.failing("reset"), pytest.raises(BadInputError, match="cannot be reached"):
            ask(data)


def test_storage_that_fails_in_the_middle_of_a_file_is_one_sentence(
    bucket: str, way: FlakyWay
) -> None:
    line = json.dumps({"q": "x" * 1000}) + "\n"
    (Location.of(bucket) / "long.jsonl").write_text(line * 9000)
    rows = read_rows(DataPath(f"{bucket}/long.jsonl"))
    next(rows)
    with way.failing("reset"), pytest.raises(StorageError, match=r"beyond row \d+ .*NETWORK"):
        list(rows)
    assert len(list(read_rows(DataPath(f"{bucket}/long.jsonl")))) == 9000


def test_fingerprint_follows_the_content_and_not_the_path(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "b.jsonl").write_text("{}")
    (tmp_path / "c.jsonl").write_text('{"q": 1}')
    one, same, other = (DataPath(str(tmp_path / f"{n}.jsonl")).fingerprint() for n in "abc")
    assert one == same != other
    at_hub = [DataPath("hf://a/b", revision).fingerprint() for revision in ("main", "v1")]
    assert at_hub[0] != at_hub[1]
