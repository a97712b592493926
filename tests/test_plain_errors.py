"""How a command ends: one sentence for what the user can mend, a traceback for a fault in the code."""

from argparse import Namespace

import pytest

from hfsynth import EchoLLM, Magpie, Pipeline, TextGeneration
from hfsynth.cli import RunArguments, from_args, plain_errors, run_and_save
from hfsynth.errors import ColumnError, GenerationError, PushError, RunError


def ending(action, capsys):
    with pytest.raises(SystemExit) as stopped, plain_errors():
        action()
    return stopped.value.code, capsys.readouterr().err


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize("kind", [ColumnError, GenerationError, RunError, PushError, FileNotFoundError])
def test_an_expected_error_is_one_sentence(kind, capsys):
    assert ending(raising(kind("no column\n'a'.")), capsys) == (1, "error: no column 'a'.\n")


def test_ctrl_c_ends_with_130(capsys):
    status, text = ending(raising(KeyboardInterrupt()), capsys)
    assert status == 130
    assert "the same command" in text


@pytest.mark.parametrize("fault", [lambda: int("x"), lambda: {}["a"], lambda: len(3), lambda: [][1]])
def test_a_fault_in_the_code_keeps_its_error(fault):
    with pytest.raises((ValueError, LookupError, TypeError)), plain_errors():
        fault()


@pytest.mark.parametrize(
    ("cls", "flags", "flag"),
    [
        (TextGeneration, {"top_p": 2.0}, "--top-p"),
        (TextGeneration, {"temperature": -1.0}, "--temperature"),
        (Magpie, {"response_top_p": 2.0}, "--response-top-p"),
        (Magpie, {"n_turns": 0}, "--n-turns"),
    ],
)
def test_a_value_out_of_range_names_its_flag(cls, flags, flag, capsys):
    status, text = ending(lambda: from_args(cls, Namespace(**flags), EchoLLM()), capsys)
    assert status == 1
    assert text.startswith(f"error: {flag} ")


def test_a_name_of_no_configuration_names_its_flag(capsys):
    run = RunArguments(num_rows=1, config_name="a.b")
    status, text = ending(lambda: run_and_save(Pipeline((Magpie(EchoLLM()),)), run, "magpie"), capsys)
    assert status == 1
    assert text.startswith("error: --config-name ")
    assert "'a.b'" in text


@pytest.mark.parametrize("below", ["", "data/rows"])
def test_a_file_as_output_folder_ends_before_a_run(tmp_path, capsys, below):
    (tmp_path / "rows.jsonl").touch()
    run = RunArguments(num_rows=1, output_dir=str(tmp_path / "rows.jsonl" / below))
    status, text = ending(lambda: run_and_save(Pipeline((Magpie(EchoLLM()),)), run, "magpie"), capsys)
    assert status == 1
    assert text.startswith("error: --output-dir ")
    assert "rows.jsonl' is a file" in text
    assert "step 1" not in text
