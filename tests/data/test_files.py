"""List the files of a corpus, given as a path, folder, glob, URI or dataset."""

import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.data import CorpusFile, Fields, corpus_files, read_corpus
from raycol.data.corpus import scan_corpus
from raycol.errors import InputError


def line(id_: str) -> bytes:
    return f'{{"_id": "{id_}", "text": "text"}}\n'.encode()


def fill(folder: Path, *names: str) -> Path:
    """Write files of one document each, with the file name as id."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(line(name)) if name.endswith(".gz") else line(name))
    return folder


def names(corpus: object, folder: Path) -> list[str]:
    return [str(Path(file.uri).relative_to(folder)) for file in corpus_files(str(corpus))]


def refusal(corpus: object, **options: str) -> str:
    with pytest.raises(InputError) as error:
        corpus_files(str(corpus), **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.jsonl", "jsonl"),
        ("a.NDJSON", "jsonl"),
        ("a.json", "jsonl"),
        ("a.b.jsonl.gz", "jsonl"),
        ("a.csv.zst", "csv"),
        ("a.tsv", "tsv"),
        ("a.parquet", "parquet"),
        ("a.npz", "npz"),
    ],
)
def test_format_follows_from_the_suffix(tmp_path: Path, name: str, format_: str) -> None:
    path = fill(tmp_path, name) / name
    assert corpus_files(str(path)) == [CorpusFile(str(path), format_)]  # type: ignore[arg-type]


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "below/a.jsonl")
    monkeypatch.chdir(tmp_path / "below")
    for corpus in ("a.jsonl", "../below/a.jsonl", ".", "*.jsonl"):
        assert corpus_files(corpus) == [CorpusFile(str(tmp_path / "below" / "a.jsonl"), "jsonl")]


@pytest.mark.parametrize("name", ["a.txt", "a", "a.gz", "a.parquet.gz", "a.npz.zst", "a.jsonl.zip", ".jsonl"])
def test_unknown_format_is_refused(tmp_path: Path, name: str) -> None:
    path = fill(tmp_path, name) / name
    assert refusal(path) == (
        f"{path}: unknown format; expected .jsonl, .csv or .tsv (also .gz, .zst, .bz2, .xz), .parquet or .npz"
    )


@pytest.mark.parametrize(
    "name", ["gone", "gone.jsonl", "gone/a.jsonl", "a\0b.jsonl", "a" * 300 + ".jsonl", "\udcff.csv"]
)
def test_missing_path_is_reported(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path / name)
    assert message.startswith(str(tmp_path))
    assert "no such file or folder; expected a corpus" in message or "cannot be read" in message


# Folders


@pytest.mark.parametrize("corpus", ["corpus.jsonl", "corpus.jsonl.gz", "corpus.tsv"])
def test_beir_folder_is_its_corpus_file(tmp_path: Path, corpus: str) -> None:
    fill(tmp_path, corpus, "queries.jsonl", "qrels/test.tsv", "a.jsonl", "corpus/b.jsonl", "corpus.json")
    assert names(tmp_path, tmp_path) == [corpus]


def test_two_corpus_files_in_a_folder_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "corpus.jsonl", "corpus.jsonl.gz")
    assert refusal(tmp_path) == f"{tmp_path}: holds corpus.jsonl and corpus.jsonl.gz; name one of them"


def test_folder_is_read_recursively_in_path_order(tmp_path: Path) -> None:
    fill(tmp_path, "b.jsonl", "a/c.csv", "a/b/d.parquet", "a.tsv.gz", "B.jsonl", "10.jsonl", "9.jsonl")
    expected = ["10.jsonl", "9.jsonl", "B.jsonl", "a.tsv.gz", "a/b/d.parquet", "a/c.csv", "b.jsonl"]
    assert names(tmp_path, tmp_path) == expected
    assert names(f"{tmp_path}/", tmp_path) == expected


def test_hidden_and_unknown_files_are_ignored(tmp_path: Path) -> None:
    left_out = [".hidden.jsonl", "_temporary/b.jsonl", ".git/c.jsonl", "a/.d.jsonl", "README.md", "about.json"]
    fill(tmp_path, "a/b.jsonl", "_SUCCESS", *left_out)
    assert names(tmp_path, tmp_path) == ["a/b.jsonl"]
    fill(tmp_path / ".cache", "e.jsonl")
    assert names(tmp_path / ".cache", tmp_path) == [".cache/e.jsonl"]


def test_index_inside_a_corpus_folder_is_ignored(tmp_path: Path) -> None:
    """Both a committed index and the unfinished files of a killed build."""
    fill(tmp_path, "a.jsonl", "documents.parquet", "below/partitions/b.jsonl")
    fill(tmp_path / "index", "partitions/00000001-ab/documents.parquet", "unfinished/0-x/partition/documents.parquet")
    expected = ["a.jsonl", "below/partitions/b.jsonl", "documents.parquet"]
    assert names(tmp_path, tmp_path) == names(f"{tmp_path}/**/*.*", tmp_path) == expected
    assert "no corpus files" in refusal(tmp_path / "index")


@pytest.mark.parametrize("files", [[], ["README.md"], ["a.json"], [".a.jsonl"], ["_a/b.jsonl"]])
def test_folder_without_corpus_files_is_refused(tmp_path: Path, files: list[str]) -> None:
    fill(tmp_path, *files)
    message = f"{tmp_path}: no corpus files; expected a BEIR folder, or files in .jsonl, .csv or .tsv"
    assert refusal(tmp_path).startswith(message)
    assert refusal(f"{tmp_path}/*.csv").startswith(f"{tmp_path}/*.csv: no corpus files")


def test_unusual_file_names(tmp_path: Path) -> None:
    odd = ["a b.jsonl", "a#b%20.jsonl", "a?b.jsonl", "[a].jsonl", "é大.jsonl", "x=y&z.jsonl", "it's.jsonl"]
    fill(tmp_path / "od d", *odd)
    assert {passage.id for passage in read_corpus(tmp_path / "od d")} == set(odd)
    for name in odd:
        assert [passage.id for passage in read_corpus(tmp_path / "od d" / name)] == [name]


def test_file_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")).write_bytes(line("a"))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert refusal(tmp_path).startswith(f"{tmp_path}: cannot be read (")


def test_symlinks_are_followed_and_broken_ones_ignored(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "a.jsonl")
    folder = fill(tmp_path / "here", "b.jsonl")
    (folder / "c.jsonl").symlink_to(tmp_path / "elsewhere" / "a.jsonl")
    (folder / "d.jsonl").symlink_to(tmp_path / "nowhere")
    assert names(folder, folder) == ["b.jsonl", "c.jsonl"]


# Globs


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jsonl", ["a.jsonl", "b.jsonl", "c.jsonl"]),
        ("[bc].jsonl", ["b.jsonl", "c.jsonl"]),
        ("?.*", ["a.jsonl", "b.jsonl", "c.jsonl", "d.csv"]),
        ("*/*.jsonl", ["below/e.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b.jsonl", "below/deep/f.jsonl", "below/e.jsonl", "c.jsonl"]),
        (".*.jsonl", [".hidden.jsonl"]),
        ("*/.hidden/*.jsonl", ["below/.hidden/g.jsonl"]),
        ("*.parquet", ["table.parquet/part-0.parquet", "table.parquet/part-1.parquet"]),
        ("**/part*.parquet", ["table.parquet/part-0.parquet", "table.parquet/part-1.parquet"]),
    ],
)
def test_glob_lists_matches_in_order(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    fill(tmp_path, "c.jsonl", "a.jsonl", "b.jsonl", "d.csv", "x.txt", ".hidden.jsonl")
    fill(tmp_path / "below", "e.jsonl", "deep/f.jsonl", ".hidden/g.jsonl")
    fill(tmp_path / "table.parquet", "part-1.parquet", "part-0.parquet", "_SUCCESS", "_part.parquet", ".part.parquet")
    assert names(tmp_path / pattern, tmp_path) == expected


def test_existing_file_takes_precedence_over_glob(tmp_path: Path) -> None:
    fill(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert names(tmp_path / "a[1].jsonl", tmp_path) == ["a[1].jsonl"]


@given(text=st.text(st.one_of(st.sampled_from("*?[]{}!/.:@%#= hfs3"), st.characters()), max_size=20))
def test_any_location_is_listed_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = fill(tmp_path_factory.mktemp("any"), "a.jsonl")
    text = text.replace("..", "")
    for corpus in (f"{folder}/{text}", f"file://{folder}/{text}", f"nonsense://{text}"):
        try:
            files = corpus_files(corpus)
        except InputError:
            continue
        assert [Path(file.uri).name for file in files] == ["a.jsonl"]


# Datasets


@pytest.fixture
def save() -> Callable[..., Path]:
    """Save a dataset of documents with the given ids, or a dataset with the given splits."""
    import datasets

    datasets.disable_progress_bars()

    def write(folder: Path, *ids: str, **splits: list[str]) -> Path:
        def of(ids: object) -> datasets.Dataset:
            return datasets.Dataset.from_list([{"id": id_, "text": "text"} for id_ in ids])  # type: ignore[attr-defined]

        (datasets.DatasetDict({name: of(ids) for name, ids in splits.items()}) if splits else of(ids)).save_to_disk(
            folder
        )
        return folder

    return write


def ids(corpus: object, **options: str) -> list[str]:
    files = corpus_files(str(corpus), **options)
    return [item.id for file in files for _, item in scan_corpus(file, Fields())]  # type: ignore[union-attr]


def test_saved_dataset_is_one_file(tmp_path: Path, save: Callable[..., Path]) -> None:
    folder = save(tmp_path / "saved", "a", "b")
    assert corpus_files(str(folder)) == [CorpusFile(str(folder), "dataset")]
    assert ids(folder) == ids(f"file://{folder}") == ["a", "b"]


def test_split_must_be_selected(tmp_path: Path, save: Callable[..., Path]) -> None:
    folder = save(tmp_path / "saved", train=["a"], test=["b"])
    assert ids(folder, split="test") == ["b"]
    for split, problem in ((None, "several splits"), ("dev", "no split 'dev'")):
        with pytest.raises(InputError) as error:
            ids(folder, **{"split": split} if split else {})
        assert str(error.value) == f"{folder}: {problem}; choose one of train, test with `split=`"
    assert ids(save(tmp_path / "single", train=["a"])) == ["a"]


@pytest.mark.parametrize(("option", "message"), [("split", "has no splits"), ("subset", "a folder has no subsets")])
def test_split_or_subset_without_such_is_refused(
    tmp_path: Path, save: Callable[..., Path], option: str, message: str
) -> None:
    folder = save(tmp_path / "saved", "a")
    with pytest.raises(InputError, match=f"{message}; leave `{option}=` out"):
        ids(folder, **{option: "x"})
    path = fill(tmp_path, "a.jsonl") / "a.jsonl"
    assert refusal(path, **{option: "x"}) == (
        f"{path}: only Hugging Face datasets have subsets and splits; leave them out"
    )


def test_overwritten_dataset_is_read_again(tmp_path: Path, save: Callable[..., Path]) -> None:
    assert ids(save(tmp_path / "saved", "a")) == ["a"]
    (tmp_path / "saved").rename(tmp_path / "old")
    assert ids(save(tmp_path / "saved", "b", "c")) == ["b", "c"]


def test_folder_that_resembles_a_saved_dataset(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "state.json")
    assert ids(tmp_path) == ["a.jsonl"]


def test_hub_dataset_by_hf_name(tmp_path: Path) -> None:
    assert corpus_files("hf:BeIR/scifact", "corpus", "x") == [CorpusFile("hf:BeIR/scifact", "dataset", "corpus", "x")]
    assert refusal("hf:") == "hf:: names no dataset; expected hf:NAME, for instance hf:BeIR/scifact"
    with pytest.raises(InputError, match=f"hf:{tmp_path}/gone: cannot be opened"):
        ids(f"hf:{tmp_path}/gone")


def test_hf_name_may_be_a_folder_of_data_files(tmp_path: Path) -> None:
    fill(tmp_path, "train.jsonl", "test.jsonl")
    assert ids(f"hf:{tmp_path}", split="test") == ["test.jsonl"]


# URIs


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Query string of a URI for an S3-compatible server on loopback, which has a bucket `corpora`."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("ACCESS_KEY_ID", "test"),
            ("SECRET_ACCESS_KEY", "test"),
            ("EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(f"AWS_{name}", value)
        options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        system, _ = pafs.FileSystem.from_uri(f"s3://corpora?{options}&allow_bucket_creation=true")
        system.create_dir("corpora")
        yield options
    running.stop()


@pytest.fixture
def put(server: str) -> Callable[[str, bytes], None]:
    system, _ = pafs.FileSystem.from_uri(f"s3://corpora?{server}")

    def write(key: str, content: bytes) -> None:
        with system.open_output_stream(f"corpora/{key}", compression=None) as stream:
            stream.write(content)

    return write


def test_corpus_in_object_store(server: str, put: Callable[[str, bytes], None]) -> None:
    table, arrays = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table({"id": ["p"], "text": ["text"]}), table)
    np.savez(arrays, embeddings=np.ones((1, 2, 2), np.float32), ids=["n"])
    put("all/a.jsonl", line("a"))
    put("all/below/b.jsonl.gz", gzip.compress(line("b")))
    put("all/c.csv", b"id,text\nc,text\nd,text\n")
    put("all/p.parquet", table.getvalue())
    put("all/.hidden.jsonl", line("hidden"))
    put("n/n.npz", arrays.getvalue())
    put("h/header.csv", b"id,text\n")
    put("beir/corpus.jsonl", line("of BEIR"))
    put("beir/queries.jsonl", line("q"))
    for corpus, expected in (
        ("all", ["a", "b", "c", "d", "p"]),
        ("all/", ["a", "b", "c", "d", "p"]),
        ("all/a.jsonl", ["a"]),
        ("all/*.jsonl", ["a"]),
        ("all/?.[jc]s*", ["a", "c", "d"]),
        ("**/*.jsonl.gz", ["b"]),
        ("beir", ["of BEIR"]),
    ):
        assert [passage.id for passage in read_corpus(f"s3://corpora/{corpus}?{server}")] == expected
    (encoded,) = read_corpus(f"s3://corpora/n?{server}", fields=Fields(encoded=True))
    assert encoded.id == "n"
    (file,) = corpus_files(f"s3://corpora/all/c.csv?{server}")
    second = list(scan_corpus(file, Fields()))[1]
    assert list(scan_corpus(file, Fields(), second[0], 1)) == [second]
    with pytest.raises(InputError, match="an empty corpus"):
        list(read_corpus(f"s3://corpora/h/header.csv?{server}"))
    for gone in ("corpora/gone.jsonl", "corpora/gone/", "no-such-bucket/a.jsonl"):
        assert "no such file or folder" in refusal(f"s3://{gone}?{server}")


def test_unusual_names_in_object_store(server: str, put: Callable[[str, bytes], None]) -> None:
    odd = ["a b.jsonl", "a#b%20.jsonl", "a?b=c.jsonl", "[a].jsonl", "é.jsonl", "it's+1.jsonl"]
    for name in odd:
        put(f"odd/{name}", line(name))
    files = corpus_files(f"s3://corpora/odd?{server}")
    assert {passage.id for passage in read_corpus(f"s3://corpora/odd?{server}")} == set(odd)
    for file in files:  # a returned URI is a corpus again
        assert corpus_files(file.uri) == [file]
    assert ids(f"s3://corpora/odd/[[]a].jsonl?{server}") == ["[a].jsonl"]
    assert ids(f"s3://corpora/odd/a b.jsonl?{server}") == ["a b.jsonl"]


def test_file_uri_equals_path(tmp_path: Path) -> None:
    path = fill(tmp_path, "a.jsonl") / "a.jsonl"
    for corpus in (f"file://{path}", f"file://{tmp_path}", f"file://{tmp_path}/*.jsonl", f"file://{tmp_path}/?.jsonl"):
        assert corpus_files(corpus) == [CorpusFile(str(path), "jsonl")]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nonsense://x/y", "nonsense://x/y: cannot be opened"),
        ("s3://", "s3://: cannot be opened (it names no bucket)"),
        ("s3://bucket[1]/a.jsonl", "s3://bucket[1]/a.jsonl: not a valid URI"),
        ("s3://corpora/a.jsonl?nonsense=1", "unknown option 'nonsense'"),
        ("s3://key:secret@corpora/a", "s3://corpora: credentials in a URI; put them into the environment"),
        ("s3://key@corpora/a", "s3://corpora: credentials in a URI"),
        ("s3://key:sec/ret@corpora/a", "s3://...: not a valid URI; if it holds credentials, put them"),
    ],
)
def test_unusable_uri_is_refused_without_leaking_secrets(uri: str, message: str) -> None:
    error = refusal(uri)
    assert message in error
    assert "secret" not in error
    assert "sec/ret" not in error
