import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hfsynth import TransformersLLM
from hfsynth.engine.forwards import install_attention
from hfsynth.engine.packed_linear import PackedLinear, has_fbgemm
from tests.tiny import SIZES, tiny

SCRIPTS = Path(__file__).parent.parent / "scripts" / "benchmarks"


def benchmark(*flags):
    command = [sys.executable, str(SCRIPTS / "generation.py"), "--threads", "1", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def script(monkeypatch):
    """Import a script by its name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture
def ended(script, monkeypatch):
    """Run the script in this process, with flags that it refuses before it measures; return what it exits with."""

    def status(*flags):
        monkeypatch.setattr(sys, "argv", ["generation.py", "--dtype", "float32", "--threads", "1", *map(str, flags)])
        with pytest.raises(SystemExit) as exited:
            script("generation").main()
        return exited.value.code

    return status


@pytest.fixture
def cells(script, monkeypatch):
    """The table's cells, of a way's runs that took so long and wrote so many tokens."""
    benchmark = script("generation")
    monkeypatch.setattr(sys, "argv", ["generation.py", "--model", "folder", "--dtype", "float32"])

    def table(**ways):
        for run in (run for runs in ways.values() for run in runs):
            calls = zip(run["rows"], run["seconds"], strict=True)
            run["tokens_per_second"] = [sum(rows) / seconds for rows, seconds in calls]
        results = benchmark.markdown(ways, benchmark.parsed())
        head, _, *rows = [line.strip("| ").split(" | ") for line in results.splitlines() if line.startswith("|")]
        return [dict(zip(head, row, strict=True)) for row in rows]

    return table


def test_table_has_medians_of_cold_and_warm_calls(cells):
    rows = [[40, 60], [1], [50, 50]]
    calls = [(2.0, 9.0, 1.0), (10.0, 9.0, 5.0), (5.0, 9.0, 2.0)]
    runs = [{"seconds": seconds, "rows": rows, "cpu_seconds": [0.0, 0.0, 2 * seconds[-1]]} for seconds in calls]
    (row,) = cells(engine=runs)
    assert (row["tokens/s, cold"], row["tokens/s, warm"]) == ("20 (10–50)", "50 (20–100)")
    assert row["cold ÷ warm"] == "0.50"
    assert row["tokens per processor-second, warm"] == "25"


def test_table_has_share_of_roofline(cells):
    roofline = {"tokens_per_second": 200.0, "products": 250.0, "reading": 300.0, "bytes_per_second": 2e10}
    process = {"occupancy": 0.9, "shares": dict.fromkeys(("forward", "attention", "sampling"), 0.2)}
    process |= {"prompt_tokens_computed": 5, "prompt_tokens_copied": 6, "roofline": roofline}
    run = {"seconds": [2.0], "rows": [[30, 70]]}
    own, other = cells(own=[{**run, **process}], other=[dict(run)])
    assert (own["of the roofline, warm"], other["of the roofline, warm"]) == ("25%", "")
    assert "roofline: 200 tokens/s (matrix products alone 250; memory alone 300, at 20.0 GB/s)" in own["notes"]


def test_table_of_engine_with_seconds_and_rows_only(cells):
    (row,) = cells(engine=[{"seconds": [2.0], "rows": [[3, 5]]}])
    assert row["tokens/s, cold"] == row["tokens/s, warm"] == "4 (4–4)"
    assert row["tokens per processor-second, warm"] == ""


def test_machine_names_threads_and_instructions(script):
    line = script("machine").describe_machine(threads=3)
    assert "3 threads" in line
    assert torch.backends.cpu.get_cpu_capability() in line


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("overhead", "--rows 8"),
        ("overlap", "--rows 8 --steps 1"),
        ("server", "--in-flight 2 --requests 4 --rounds 1 --latency 0.01"),
    ],
)
def test_benchmark_without_model_names_the_machine(name, flags, script):
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *flags.split()]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert f"Machine: {script('machine').describe_machine(threads=1)}" in process.stdout.splitlines()


def test_texts_are_asked_each_task(script, tmp_path):
    module, texts, asked = script("generation"), tmp_path / "texts.jsonl", tmp_path / "asked.jsonl"
    texts.write_text('{"input": "Tea is a plant."}\n{"input": "Rain is water."}\n')
    asked.write_text('{"instruction": "Add.", "instances": [{"input": "1, 2"}]}\n{"instruction": "Sing."}\n')
    prompts = module.instructions(texts)
    assert len(set(prompts)) == len(prompts) == 2 * len(module.TASKS)
    assert module.instructions(asked) == ["Add.\n1, 2", "Sing."]


def test_too_few_prompts_for_all_calls_are_an_error(ended, tmp_path):
    message = ended("--model", tmp_path, "--num-requests", 50, "--calls", 3)
    assert "144" in message
    assert "150" in message


def test_model_or_random_weights_are_required(ended, capsys):
    assert ended() == 2
    assert "give --model or --random-weights" in capsys.readouterr().err


def test_any_architecture_can_be_measured_without_weights(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SIZES})
    )
    flags = ["--random-weights", tmp_path, "--num-requests", 10, "--max-new-tokens", 60, "--slots", 4, "--repeats", 1]
    flags += ["--calls", 2, "--dtype", "float32"]
    ways = ["generate, batch 32", "continuous batching", "hfsynth"]
    process = benchmark(*flags, "--output-dir", tmp_path / "out", "--ways", *ways)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "out" / "benchmark.json").read_text())["results"]
    assert list(results) == ways, process.stderr
    static, continuous, own = (results[way][0] for way in ways)
    wanted = [sorted(call) for call in own["rows"]]
    assert wanted[0] != wanted[1]
    assert all(call[0] < call[-1] <= 60 for call in wanted)
    for other in (static, continuous):  # what no request asked for is no work
        assert [sorted(call) for call in other["rows"]] == wanted
    assert 0 < own["occupancy"] <= 1
    assert 0 < own["shares"]["forward"] + own["shares"]["sampling"] < 1
    limit = own["roofline"]
    assert 0 < limit["tokens_per_second"] <= min(limit["products"], limit["reading"])
    assert process.stdout.strip() == (tmp_path / "out" / "benchmark.md").read_text().strip()


def test_engine_is_measured_in_every_round(tmp_path):
    engine = f"""echo={sys.executable} -c 'print("{{\\"seconds\\": [2.0, 1.0], \\"rows\\": [[3, 5], [8]]}}")'"""
    flags = ["--random-weights", tmp_path, "--num-requests", 10, "--repeats", 2, "--output-dir", tmp_path, "--ways"]
    process = benchmark(*flags, "--engine", engine)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert [run["tokens_per_second"] for run in results["echo"]] == [[4.0, 8.0]] * 2


@pytest.mark.model
def test_run_and_continuous_batching_on_real_model(script, monkeypatch, smollm_weights):
    """In this process, since another test starts a process for each way."""
    flags = ["--model", smollm_weights, "--dtype", "float32", "--threads", "1"]
    flags += ["--num-requests", "3", "--max-new-tokens", "4", "--calls", "1"]
    monkeypatch.setattr(sys, "argv", ["generation.py", *flags])
    job, _ = script("generation").jobs(script("generation").parsed())
    try:
        for way in ("hfsynth, whole run", "continuous batching"):
            (rows,) = script("ways").WAYS[way](job)["rows"]
            assert len(rows) == 3
            assert all(0 < tokens <= 4 for tokens in rows)
    finally:
        TransformersLLM(smollm_weights, dtype="float32", device="cpu").unload()


def test_timed_waits_for_the_device(script, monkeypatch):
    ways = script("ways")
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: time.sleep(0.05))
    monkeypatch.setattr(ways.CudaForwards, "decode", lambda: None)
    spent, none = {}, {}
    with ways.shares(torch.device("cuda"), spent):
        ways.CudaForwards.decode()
    with ways.shares(torch.device("cpu"), none):
        ways.CudaForwards.decode()
    assert spent["forward"] >= 0.05 > none["forward"]


def test_the_peak_of_a_gpu_is_its_own_memorys(script, monkeypatch):
    process = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: process.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 if process == ["reset", "run"] else 0)

    def run(work):
        process.append("run")
        return [1]

    assert script("ways").timed({"device": "cuda"}, run, [[([1], 1)]])["peak_bytes"] == 7


def test_timed_measures_each_call(script):
    def run(work):
        time.sleep(0.2 * len(work))
        return [limit for _, limit in work]

    first, second = [([1], 9)] * 2, [([2], 7)]
    result = script("ways").timed({"device": "cpu"}, run, [first, second])
    assert result["rows"] == [[9, 9], [7]]
    assert result["seconds"][0] >= 0.4
    assert result["seconds"][1] >= 0.2
    assert len(result["cpu_seconds"]) == 2


def test_the_roofline_is_the_longer_of_products_and_reading(script, monkeypatch):
    module = script("roofline")
    model = tiny()
    install_attention(model)
    layers = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 64) * 4  # bytes of 2 layers, in float32
    head, cached = 64 * 64 * 4, 2 * 2 * 2 * 16 * 4  # bytes of the head, and of one token's keys and values

    def limits(speed, step=0.5, forward=2.0):
        monkeypatch.setattr(module, "bandwidth", lambda *_: speed)
        taken = {2: step, 1024: forward}
        monkeypatch.setattr(module, "seconds_of_products", lambda model, layers, count: taken[count])
        # 2 rows write 12 tokens in 6 steps, each after its prompt and, on average, half of what it writes
        return module.roofline(model, 5, [(10, 4), (20, 8)], 512)

    kept = cached * (4 * (10 + 2) + 8 * (20 + 4))
    slow = limits(speed=1000.0)
    assert slow["products"] == pytest.approx(12 / (6 * 0.5 + 2.0 / 2))
    assert slow["reading"] == pytest.approx(12 / ((6 * (layers + head) + kept + layers / 2) / 1000))
    assert slow["tokens_per_second"] == slow["reading"]
    fast = limits(speed=1e15)
    assert fast["tokens_per_second"] == fast["products"] < fast["reading"]
    mixed = limits(speed=1000.0, step=0.0, forward=1e6)
    assert mixed["tokens_per_second"] < min(mixed["products"], mixed["reading"])


@pytest.mark.skipif(not has_fbgemm(), reason="this torch has no FBGEMM")
def test_weights_count_as_they_are_stored(script):
    weight_bytes, plain, rounded = script("roofline").weight_bytes, torch.nn.Linear(5, 7), torch.nn.Linear(5, 7)
    rounded.half().float()
    layers = [plain, torch.nn.Linear(5, 7, dtype=torch.bfloat16), PackedLinear(plain), PackedLinear(rounded)]
    assert [weight_bytes([layer]) for layer in layers] == [4 * 35, 2 * 35, 4 * 35, 2 * 35]


def test_memory_and_products_are_measured_on_the_device(script):
    module = script("roofline")
    model = tiny()
    install_attention(model)
    found = module.roofline(model, 2, [(10, 4), (20, 8)], 30, size=2**16)
    assert 1e6 < found["bytes_per_second"] < 1e14
    head = [model.get_output_embeddings()]
    assert module.seconds_of_products(model, head * 100, 64) > module.seconds_of_products(model, head, 64) > 0
