import bz2
import gzip
import lzma
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

from hfsynth import ColumnError, push_to_hub, save
from hfsynth.__main__ import main
from hfsynth.data import TextColumns, iter_text_batches, load_rows, load_splits, sample_indices, texts_at


def test_load_rows_unsupported_type_lists_the_types(tmp_path):
    (tmp_path / "rows.xml").touch()
    with pytest.raises(ValueError, match=r"has type '\.xml'; use one of \['\.csv', "):
        load_rows(str(tmp_path / "rows.xml"), None, "train")


LINES = b'{"q": "a"}\n{"q": "b"}\n'
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder and home of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.JSONL", LINES),
        ("a.ndjson", LINES),
        ("a.NDJSON", LINES),
        ("a.v1.2.jsonl", LINES),
        ("a[1] *.jsonl", LINES),
        ("a.Json", b'[{"q": "a"}, {"q": "b"}]'),
        ("a.CSV", b"q\na\nb\n"),
        ("a.tsv", b"q\tn\na\t1\nb\t2\n"),
        ("a.TSV.gz", gzip.compress(b"q\tn\na\t1\nb\t2\n", mtime=0)),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.JSONL.GZ", gzip.compress(LINES, mtime=0)),
        ("a.csv.bz2", bz2.compress(b"q\na\nb\n")),
        ("a.ndjson.xz", lzma.compress(LINES)),
        ("bom.jsonl", BOM + LINES),
        ("bom.json", BOM + b'[{"q": "a"}, {"q": "b"}]'),
        ("bom.csv", BOM + b"q\na\nb\n"),
        ("bom.tsv", BOM + b"q\tn\na\t1\nb\t2\n"),
        ("bom.jsonl.gz", gzip.compress(BOM + LINES, mtime=0)),
    ],
)
def test_load_rows_file_of_a_type_gives_its_rows(folder, name, content):
    (folder / name).write_bytes(content)
    assert load_rows(name, None, "train")["q"][:] == ["a", "b"]
    assert load_rows(f"~/{name}", None, "train[1:]")["q"][:] == ["b"]


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.txt.gz"])
def test_load_rows_text_with_a_bom_leaves_the_bom_out(folder, name):
    text = BOM + b"one\ntwo\n"
    (folder / name).write_bytes(gzip.compress(text, mtime=0) if name.endswith("gz") else text)
    assert load_rows(name, None, "train")["text"][:] == ["one", "two"]


def test_load_rows_parquet_in_upper_case_gives_its_rows(folder):
    Dataset.from_dict({"q": ["a"]}).to_parquet("A.PARQUET")
    assert load_rows("A.PARQUET", None, "train")["q"][:] == ["a"]


@pytest.mark.skipif(find_spec("zstandard") is not None, reason="zstandard is installed")
def test_load_rows_zst_without_zstandard_names_the_package(folder):
    (folder / "a.jsonl.zst").write_bytes(b"(\xb5/\xfd")
    with pytest.raises(ValueError, match="install zstandard"):
        load_rows("a.jsonl.zst", None, "train")


def test_load_rows_broken_compression_names_the_file(folder):
    for suffix in ("gz", "bz2", "xz"):
        (folder / f"a.jsonl.{suffix}").write_bytes(LINES)
        with pytest.raises(ValueError, match=rf"a\.jsonl\.{suffix}' can't be read"):
            load_rows(f"a.jsonl.{suffix}", None, "train")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.JSONL", b" \n\n"),
        ("a.ndjson", BOM),
        ("a.json", b""),
        ("a.json", b"[]"),
        ("a.csv", b""),
        ("a.csv", b"q,n\n"),
        ("a.tsv", b"\n"),
        ("a.txt", b""),
        ("a.parquet", b""),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl.gz", b""),
    ],
)
def test_load_rows_file_without_rows_says_so(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' has no rows"):
        load_rows(name, None, "train")


def test_load_rows_parquet_without_rows_says_so(folder):
    Dataset.from_dict({"q": []}).to_parquet("a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet' has no rows"):
        load_rows("a.parquet", None, "train")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("seed.jsonl", "seeds.jsonl"),
        ("Seeds.JSONL", "seeds.jsonl"),
        ("seeds.json", "seeds.jsonl"),
        ("./seedz.jsonl", "seeds.jsonl"),
        ("~/seeds.jsonll", "seeds.jsonl"),
        ("data/train.csv", "data/trian.csv"),
        ("dat/trian.csv", "data"),
        ("data/trian.csv.gz", "data/trian.csv"),
        ("./dta", "data"),
        ("../{home}/datas", "data"),
        ("{root}/datas", "data"),
    ],
)
def test_load_rows_mistyped_path_names_the_nearest(folder, hub, name, nearest):
    (folder / "seeds.jsonl").write_bytes(LINES)
    (folder / "data").mkdir()
    (folder / "data" / "trian.csv").write_bytes(b"q\na\n")
    with pytest.raises(ValueError, match=rf"nearest name is '.*{nearest}'"):
        load_rows(name.format(home=folder.name, root=folder), None, "train")


@pytest.mark.parametrize("name", ["/nowhere/rows", "x/y/z", "data\\rows", "q.parquet", "Q.TSV", "no/q.jsonl.zst"])
def test_load_rows_path_without_a_similar_name_is_an_error(folder, name):
    with pytest.raises(ValueError, match=r"no file or folder"):
        load_rows(name, None, "train")


def test_load_rows_saved_dataset_gives_its_rows(folder):
    Dataset.from_dict({"q": ["a", "b"]}).save_to_disk("disk")
    assert load_rows("disk", None, "train")["q"][:] == ["a", "b"]
    assert load_rows("~/disk", None, "train[:1]")["q"][:] == ["a"]


def test_load_rows_saved_dataset_dict_gives_the_split(folder):
    parts = {"train": Dataset.from_dict({"q": ["a"]}), "test": Dataset.from_dict({"q": ["b"]})}
    DatasetDict(parts).save_to_disk("disk")
    assert load_rows("disk", None, "test")["q"][:] == ["b"]
    assert load_rows("disk", None, "train+test")["q"][:] == ["a", "b"]
    assert sorted(load_splits("disk")) == ["test", "train"]
    with pytest.raises(ValueError, match=r"dev.*train.*test"):
        load_rows("disk", None, "dev")


@pytest.mark.parametrize("name", ["b.jsonl", "B.JSONL", "b.ndjson", "b.jsonl.gz", "B.JSONL.GZ", "TRAIN.JSONL"])
def test_load_rows_folder_of_files_gives_their_rows(folder, name):
    (folder / "data").mkdir()
    (folder / "data" / name).write_bytes(gzip.compress(LINES, mtime=0) if name.lower().endswith("gz") else LINES)
    assert load_rows("data", None, "train")["q"][:] == ["a", "b"]


@pytest.mark.parametrize(("name", "match"), [("a.jsonl", "is empty"), ("a.xyz", "no data files")])
def test_load_rows_folder_without_rows_is_an_error(folder, name, match):
    (folder / "data").mkdir()
    (folder / "data" / name).touch()
    with pytest.raises(ValueError, match=match):
        load_rows("data", None, "train")


LATIN = "q\ncafé\n".encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b'{"q": "a"}\n{bad\n', "line 2"),
        ("a.jsonl.gz", gzip.compress(b'{"q": "a"}\n\n{bad\n', mtime=0), "line 3"),
        ("a.json", b'[{"q": "a"},\n{bad]', "line 2"),
        ("a.jsonl", '{"q": "a"}\n{"q": "café"}\n'.encode("latin-1"), "byte 0xe9 in line 2"),
        ("a.csv", LATIN, "byte 0xe9 in line 2"),
        ("a.txt", LATIN, "byte 0xe9 in line 2"),
        ("a.csv", "q\na\n".encode("utf-16"), "UTF-16"),
        ("a.csv", b"q,n\nName it, please.,1\nAdd 1, 2.,2\n", "more fields than its header"),
        ("a.jsonl", '{"q": "a"}'.encode("utf-16"), "UTF-16"),
        ("a.parquet", b"hello", "Parquet"),
        ("a.jsonl", b'{"q": "\\ud83d"}\n', "surrogate"),
    ],
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_load_rows_broken_file_names_file_and_reason(folder, caplog, name, content, reason, in_folder):
    (folder / "data").mkdir()
    (folder / "data" / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        load_rows("data" if in_folder else f"data/{name}", None, "train")
    assert "data" in str(caught.value)
    assert name in str(caught.value) or reason in ("surrogate", "more fields than its header")
    assert "\n" not in str(caught.value)
    assert caplog.text == ""


def test_load_rows_folder_of_two_types_names_both(folder):
    (folder / "data").mkdir()
    (folder / "data" / "a.jsonl").write_bytes(LINES)
    (folder / "data" / "b.csv").write_bytes(b"q\na\n")
    with pytest.raises(ValueError, match=r"\.jsonl \(a\.jsonl\) and \.csv \(b\.csv\)"):
        load_rows("data", None, "train")


def test_load_rows_folder_with_a_license_reads_the_data(folder):
    (folder / "data").mkdir()
    (folder / "data" / "a.jsonl").write_bytes(LINES)
    (folder / "data" / "LICENSE.txt").write_bytes(LATIN)
    assert load_rows("data", None, "train")["q"][:] == ["a", "b"]


@pytest.mark.parametrize(("name", "content"), [("a.csv", LATIN), ("a.jsonl", b"{bad\n"), ("a.parquet", b"hello")])
def test_view_broken_file_is_one_sentence(folder, monkeypatch, capsys, name, content):
    (folder / name).write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["hfsynth", "view", name])
    with pytest.raises(SystemExit):
        main()
    assert name in capsys.readouterr().err.splitlines()[-1]


def save_two(folder):
    for config in ("magpie", "self_instruct"):
        save(Dataset.from_dict({"instruction": [config], "response": ["Yo."]}), folder, config_name=config)


@pytest.mark.parametrize("flags", [[], ["--config", "other"]])
def test_view_several_configs_without_a_name_lists_them(folder, monkeypatch, capsys, flags):
    save_two(folder / "two")
    monkeypatch.setattr(sys, "argv", ["hfsynth", "view", "two", *flags])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "--config: magpie, self_instruct" in capsys.readouterr().err


def test_view_several_configs_with_a_name_shows_that_one(folder, monkeypatch):
    save_two(folder / "two")
    monkeypatch.setattr(sys, "argv", ["hfsynth", "view", "~/two", "--config", "magpie", "--output", "page.html"])
    main()
    page = (folder / "page.html").read_text()
    assert "~/two, magpie, train" in page
    assert "self_instruct" not in page


def test_view_mistyped_file_names_the_nearest(folder, monkeypatch, capsys):
    (folder / "seeds.jsonl").write_bytes(LINES)
    monkeypatch.setattr(sys, "argv", ["hfsynth", "view", "seed.jsonl"])
    with pytest.raises(SystemExit):
        main()
    assert "seeds.jsonl" in capsys.readouterr().err


def test_load_rows_hub_with_several_configs_lists_them(hub):
    for config in ("one", "two"):
        push_to_hub(Dataset.from_dict({"instruction": ["a"]}), "user/made", config_name=config)
    with pytest.raises(ValueError, match="--config: one, two"):
        load_rows("user/made", None, "train")


CHAT = List({"role": Value("string"), "content": Value("string")})


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


TALK = [
    talk(("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho")),
    talk(("user", "One"), ("assistant", "1"), ("user", "Two")),
    [],
    None,
    talk(("user", None)),
]


def rows(**columns):
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["instruction", "response"], ("instruction", "response")),
        (["instruction", "evolved_instruction", "generation"], ("evolved_instruction", "generation")),
        (["prompt", "completion", "text"], ("prompt", "completion")),
        (["instruction"], ("instruction", "")),
        (["prompt", "chosen", "rejected"], ("prompt", "chosen")),
    ],
)
def test_text_columns_find_recognizes_names(names, found):
    columns = TextColumns.find(rows(**{name: ["a"] for name in names}), None, None)
    assert (columns.instruction, columns.response) == found


def test_iter_text_batches_chat_reads_both_parts():
    talks = Dataset.from_dict({"conversation": TALK}, features=Features({"conversation": CHAT}))
    assert TextColumns.find(talks, None, None) == TextColumns("conversation", "conversation")
    assert list(iter_text_batches(talks, "conversation", "instruction")) == [["Hi", "One", "", "", ""]]
    assert list(iter_text_batches(talks, "conversation", "response")) == [["Ho", "", "", "", ""]]


def test_text_columns_find_preference_reads_chosen():
    both = Dataset.from_dict({"rejected": TALK, "chosen": TALK}, features=Features({"rejected": CHAT, "chosen": CHAT}))
    assert TextColumns.find(both, None, None) == TextColumns("chosen", "chosen")


def test_iter_text_batches_versions_reads_the_last():
    texts = {"evolved_instructions": [["a", "b"], [], None], "answers": [["x"], ["y", "z"], None]}
    features = Features({"instruction": Value("string")} | {name: List(Value("string")) for name in texts})
    some = Dataset.from_dict({"instruction": ["a"] * 3, **texts}, features=features)
    assert TextColumns.find(some, None, None) == TextColumns("evolved_instructions", "answers")
    assert list(iter_text_batches(some, "evolved_instructions", "instruction")) == [["b", "", ""]]
    assert list(iter_text_batches(some, "answers", "response")) == [["x", "z", ""]]


def test_text_columns_find_accepts_null_responses():
    some = rows(instruction=["a", "b"], response=[None, None])
    assert TextColumns.find(some, None, None) == TextColumns("instruction", "response")
    assert list(iter_text_batches(some, "response", "response")) == [["", ""]]


def test_iter_text_batches_none_or_blank_is_empty():
    some = rows(a=["x", None, " \n", "", " y "])
    assert list(iter_text_batches(some, "a", "instruction")) == [["x", "", "", "", " y "]]


def test_texts_at_ignores_the_dataset_format():
    some = rows(a=["x", "y", "z"]).with_format("numpy")
    assert texts_at(some, "a", "instruction", np.array([2, 0])) == ["z", "x"]


def test_text_columns_find_no_text_column_lists_columns():
    some = rows(number=[1], text=["a"])
    with pytest.raises(ColumnError, match=r"\['text'\].*report\(dataset, column="):
        TextColumns.find(some, None, None)
    with pytest.raises(ColumnError, match=r"'number' .*\['text'\]"):
        TextColumns.find(some, "text", "number")


def test_text_columns_find_dataset_dict_is_a_type_error():
    with pytest.raises(TypeError, match=r"DatasetDict.*report\(dataset\['train'\]\)"):
        TextColumns.find(DatasetDict(train=rows(instruction=["a"])), None, None)


def test_sample_indices_smaller_sample_is_a_prefix():
    assert sample_indices(100, 10).tolist() == sample_indices(100, 50)[:10].tolist()
    assert sorted(sample_indices(100, 200).tolist()) == list(range(100))
