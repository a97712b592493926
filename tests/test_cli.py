import json
from argparse import Namespace

import pytest
from datasets import Dataset

from hfsynth import (
    BootstrapInstructions,
    EchoLLM,
    EvolInstruct,
    InstructionFollowingDifficulty,
    Judge,
    Magpie,
    OpenAILLM,
    Pipeline,
    Reward,
    RewardModel,
    SamplingParams,
    SelfInstruct,
    TextGeneration,
    TransformersLLM,
)
from hfsynth.cli import RunArguments, build_parser, from_args, plain_errors, run_and_save
from hfsynth.errors import ColumnError, GenerationError, PushError, RunError

TECHNIQUES = [TextGeneration, SelfInstruct, EvolInstruct, Magpie, Judge, InstructionFollowingDifficulty, Reward]


def parse(cls, *flags):
    return from_args(
        cls, build_parser(None, cls).parse_args(flags), None if cls in (TransformersLLM, RunArguments) else EchoLLM()
    )


@pytest.mark.parametrize("cls", TECHNIQUES)
def test_without_flags_a_technique_has_its_defaults(cls):
    assert parse(cls) == cls(EchoLLM())


def test_every_field_has_a_help_text():
    for cls in (*TECHNIQUES, TransformersLLM, OpenAILLM, RewardModel, SamplingParams, RunArguments):
        for field in cls.__dataclass_fields__.values():
            if field._field_type.name != "_FIELD_CLASSVAR":
                assert field.metadata["help"], (cls, field.name)


def test_flags_become_fields_of_their_types():
    dataset = parse(
        Magpie, "--n-turns", "2", "--end-with-user", "--no-keep-thinking", "--response-temperature", "0.5",
        "--instruction-stop", "a", "b", "--system-prompt", '{"x": ["X", 2], "y": "Y"}', "--seed", "3",
    )  # fmt: skip
    assert (dataset.n_turns, dataset.end_with_user, dataset.keep_thinking, dataset.seed) == (2, True, False, 3)
    assert dataset.response_sampling == SamplingParams(temperature=0.5, max_new_tokens=1024)
    assert dataset.instruction_sampling.stop == ("a", "b")
    assert dataset.system_prompt == {"x": ["X", 2], "y": "Y"}
    for text in ("Plain text.", "[INST] be nice"):
        assert parse(Magpie, "--system-prompt", text).system_prompt == text


def test_the_main_sampling_has_flags_without_a_prefix():
    dataset = parse(EvolInstruct, "--temperature", "0.2", "--answer-temperature", "0.4")
    assert (dataset.sampling.temperature, dataset.answer_sampling.temperature) == (0.2, 0.4)


def test_a_model_is_required_and_its_options_are_read(capsys):
    with pytest.raises(SystemExit):
        parse(TransformersLLM)
    assert "--model" in capsys.readouterr().err
    dataset = parse(TransformersLLM, "--model", "m", "--chat-template-kwargs", '{"enable_thinking": false}')
    assert dataset == TransformersLLM("m", chat_template_kwargs={"enable_thinking": False})


def test_rows_are_read_from_files_folders_and_from_nothing(tmp_path):
    file = tmp_path / "texts" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps({"instruction": f"say {n}"}) + "\n" for n in range(3)))
    assert parse(RunArguments, "--dataset", str(file)).rows()["instruction"][:] == ["say 0", "say 1", "say 2"]
    assert len(parse(RunArguments, "--dataset", str(file.parent), "--max-rows", "2").rows()) == 2
    assert len(parse(RunArguments, "--dataset", str(file), "--split", "train[:2]").rows()) == 2
    assert parse(RunArguments, "--max-rows", "4").rows()["id"][:] == [0, 1, 2, 3]


def test_rows_without_input_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="give --dataset, or --num-rows"):
        parse(RunArguments).rows()
    (tmp_path / "rows.xml").touch()
    with pytest.raises(ValueError, match=r"has type '\.xml'; use one of \['\.csv', "):
        parse(RunArguments, "--dataset", str(tmp_path / "rows.xml")).rows()


def test_a_preview_shows_rows_and_leaves_nothing_behind(tmp_path, capsys):
    arguments = parse(RunArguments, "--preview", "--max-rows", "9", "--output-dir", str(tmp_path / "out"))
    run_and_save(Pipeline((Magpie(EchoLLM(), only_instruction=True),)), arguments, "magpie")
    assert "Question 0" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_preview_estimates_num_rows(capsys):
    arguments = parse(RunArguments, "--preview", "--num-rows", "1000", "--max-rows", "1100", "--chunk-size", "100")
    run_and_save(Pipeline((Magpie(EchoLLM(), only_instruction=True),)), arguments, "magpie")
    output = capsys.readouterr().out
    assert "1,000 accepted rows" in output
    assert "about 1,000 (1,000 to 1,100)" in output


def test_of_several_processes_only_the_first_previews(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(EchoLLM, "complete", None)
    run_and_save(Pipeline((Magpie(EchoLLM()),)), parse(RunArguments, "--preview", "--num-rows", "9"), "magpie")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("flag", ["--max-rows", "--num-rows", "--max-tokens", "--chunk-size"])
@pytest.mark.parametrize("value", ["0", "-1"])
def test_build_number_below_one_names_the_flag(flag, value):
    with pytest.raises(ValueError, match=f"^{flag} .*at least 1.* {value}"):
        parse(RunArguments, flag, value)


@pytest.mark.parametrize("value", ["-1", "0", "1"])
def test_build_bootstrap_number_of_tasks_names_the_flag(value):
    with pytest.raises(ValueError, match=f"^--num-tasks .*at least 2.* {value}"):
        parse(BootstrapInstructions, "--num-tasks", value)


@pytest.mark.parametrize("text", ['{"a": "x"', "{'a': 'x'}", '["a", "b"', '[{"a": 1}'])
def test_parser_broken_json_is_refused_with_the_reason(text, capsys):
    with pytest.raises(SystemExit):
        parse(Magpie, "--system-prompt", text)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--system-prompt" in error
    assert "is not JSON" in error


@pytest.mark.parametrize("text", ["{{ name }} is kind.", "{name}", "[Be brief]"])
def test_parser_text_that_begins_as_json_is_a_text(text):
    assert parse(Magpie, "--system-prompt", text).system_prompt == text


@pytest.mark.parametrize(
    ("cls", "flag"), [(SelfInstruct, "--prompt"), (TextGeneration, "--template"), (Judge, "--template")]
)
def test_build_broken_template_names_the_flag(cls, flag):
    with pytest.raises(ValueError, match=f"^{flag} is "):
        parse(cls, flag, "{{ x ")


def test_plain_errors_missing_column_names_the_flag(capsys):
    @plain_errors(TextGeneration)
    def command():
        rows = Dataset.from_dict({"question": ["Why?"]})
        Pipeline((TextGeneration(EchoLLM()),)).run(rows)

    with pytest.raises(SystemExit):
        command()
    error = capsys.readouterr().err
    assert """--input-mappings '{"instruction": "<column>"}'""" in error
    assert "input_mappings" not in error


# errors: one sentence for a mistake that the user can mend, a traceback for a fault in the code


def ending(action, capsys):
    with pytest.raises(SystemExit) as stopped, plain_errors():
        action()
    return stopped.value.code, capsys.readouterr().err


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize("kind", [ColumnError, GenerationError, RunError, PushError, FileNotFoundError])
def test_plain_errors_expected_error_is_one_sentence(kind, capsys):
    assert ending(raising(kind("no column\n'a'.")), capsys) == (1, "error: no column 'a'.\n")


def test_plain_errors_ctrl_c_ends_with_130(capsys):
    status, text = ending(raising(KeyboardInterrupt()), capsys)
    assert status == 130
    assert "the same command" in text


@pytest.mark.parametrize("fault", [lambda: int("x"), lambda: {}["a"], lambda: len(3), lambda: [][1]])
def test_plain_errors_fault_in_the_code_keeps_its_error(fault):
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
def test_from_args_value_out_of_range_names_its_flag(cls, flags, flag, capsys):
    status, text = ending(lambda: from_args(cls, Namespace(**flags), EchoLLM()), capsys)
    assert status == 1
    assert text.startswith(f"error: {flag} ")


def test_run_and_save_invalid_config_name_names_its_flag(capsys):
    run = RunArguments(num_rows=1, config_name="a.b")
    status, text = ending(lambda: run_and_save(Pipeline((Magpie(EchoLLM()),)), run, "magpie"), capsys)
    assert status == 1
    assert text.startswith("error: --config-name ")
    assert "'a.b'" in text


@pytest.mark.parametrize("below", ["", "data/rows"])
def test_run_and_save_file_as_output_dir_ends_before_a_run(tmp_path, capsys, below):
    (tmp_path / "rows.jsonl").touch()
    run = RunArguments(num_rows=1, output_dir=str(tmp_path / "rows.jsonl" / below))
    status, text = ending(lambda: run_and_save(Pipeline((Magpie(EchoLLM()),)), run, "magpie"), capsys)
    assert status == 1
    assert text.startswith("error: --output-dir ")
    assert "rows.jsonl' is a file" in text
    assert "step 1" not in text
