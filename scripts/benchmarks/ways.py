"""Run one of the ways that `generation.py` compares: `python ways.py WAY job.json`.

A job is {"model", "dtype", "device", "random_weights", "threads", "calls", "max_new_tokens", "temperature",
"slots"}; a call is a list of prompts, each {"instruction", "text", "limit"}. Prints one line of JSON:
for each call the seconds without loading, the processor-seconds and the tokens of each row; the peak memory; and the
way's own counts.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.utils import WorkloadHints

from hfsynth import SamplingParams, TextGeneration, TransformersLLM
from hfsynth.chat import TokenizedRequest
from hfsynth.engine import decode_loop as decoding
from hfsynth.engine.attention import DecodeBatch, PrefillBatch
from hfsynth.engine.cuda import CudaForwards
from hfsynth.engine.decode_loop import DecodeLoop, LoopStats
from hfsynth.engine.forwards import BucketForwards, install_attention
from hfsynth.engine.packed_linear import pack_linears
from hfsynth.engine.sampling import Sampler
from hfsynth.flow import derive_seed
from hfsynth.pipeline import Pipeline
from roofline import roofline, settle

Result = dict[str, Any]
Work = list[tuple[Any, int]]  # prompts, as tokens or texts, and the most new tokens of each


def load(job: Result) -> tuple[Any, list[Work], list[int]]:
    """Return the model as transformers loads it, the work of each call, and the end tokens."""
    if job["random_weights"]:
        config = AutoConfig.from_pretrained(job["random_weights"])
        torch.set_default_device(job["device"])  # created on its device: a large model may not fit in the host
        model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, job["dtype"]))
        torch.set_default_device(None)  # "cpu" would be a mode that slows every call down
        draw = torch.Generator().manual_seed(0)

        def tokens(text: str) -> list[int]:
            length = max(len(text) // 4, 1)
            return torch.randint(0, config.vocab_size, (length,), generator=draw).tolist()

        return model.eval(), calls(job, tokens), []
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=job["dtype"])
    model.to(job["device"]).eval()
    ends = [tokenizer.eos_token_id]
    return model, calls(job, lambda text: tokenizer(text, add_special_tokens=False).input_ids), ends


def calls(job: Result, tokens: Callable[[str], list[int]]) -> list[Work]:
    """Return the work of each call, the prompts as tokens."""
    return [[(tokens(prompt["text"]), prompt["limit"]) for prompt in call] for call in job["calls"]]


def generate(job: Result, batch_size: int, rows: int | None = None) -> Result:
    """`model.generate` in static batches, longest prompts first; of the first `rows` prompts, where all take long."""
    model, works, ends = load(job)
    model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=0)

    def run(work: Work) -> list[int]:
        written = []
        order = sorted(work, key=lambda one: -len(one[0]))
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            longest = len(batch[0][0])
            ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt, _ in batch])
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in batch])
            result = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max(limit for _, limit in batch),
                do_sample=job["temperature"] > 0,
                **({"temperature": job["temperature"], "top_k": 0} if job["temperature"] else {}),
            )
            for (_, limit), tokens in zip(batch, result[:, longest:].tolist(), strict=True):
                end = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
                written.append(min(end, limit))
        return written

    return timed(job, run, [work[:rows] for work in works])


def continuous(job: Result) -> Result:
    """Continuous batching by transformers, with the calls of `generate_batch`, which itself has one limit for all."""
    model, works, ends = load(job)
    longest = max(limit for work in works for _, limit in work)
    settings = GenerationConfig(
        max_new_tokens=longest,
        eos_token_id=ends[0] if ends else -1,
        pad_token_id=0,
        do_sample=job["temperature"] > 0,
        **({"temperature": job["temperature"], "top_k": 0} if job["temperature"] else {}),
    )
    sizes = ContinuousBatchingConfig(num_blocks=256, max_batch_tokens=512) if job["device"] == "cpu" else None
    hints = WorkloadHints(max(len(prompt) for work in works for prompt, _ in work), longest, len(works[0]))

    def run(work: Work) -> list[int]:
        # in the order of `generate_batch`, so that prompts with a shared prefix follow one another
        asked = [manager.add_request(prompt, max_new_tokens=limit) for prompt, limit in sorted(work, reverse=True)]
        written: dict[str, int] = {}
        while len(written) < len(asked):
            result = manager.get_result(timeout=1)
            if result and result.is_finished():
                written[result.request_id] = len(result.generated_tokens)
            elif not result and not manager.is_running():
                raise SystemExit(f"continuous batching ended after {len(written)} of {len(asked)} rows")
        return [written[name] for name in asked]

    with (
        torch.no_grad(),
        model.continuous_batching_context_manager(
            settings, continuous_batching_config=sizes, workload_hints=hints
        ) as manager,
    ):
        return timed(job, run, works)


def loop(job: Result, sharing: bool = True) -> Result:
    """The decode loop; without sharing, all tokens of every prompt are computed."""
    model, works, ends = load(job)
    if fault := install_attention(model):
        raise SystemExit(fault)
    pack_linears(model)
    decoding._REUSED_TOKENS = decoding._REUSED_TOKENS if sharing else sys.maxsize
    engine = DecodeLoop(model, str, job["slots"])

    def run(work: Work) -> list[int]:
        engine.stats = LoopStats()
        sampling = SamplingParams(temperature=job["temperature"], max_new_tokens=job["max_new_tokens"])
        seeds = [derive_seed(0, TextGeneration.__name__, row, 0) for row in range(len(work))]  # as the whole run's
        rows = zip(work, seeds, strict=True)
        jobs = [TokenizedRequest(prompt, sampling, seed, limit, frozenset(ends), ()) for (prompt, limit), seed in rows]
        waiting = list(reversed(jobs))
        written = dict(engine.run(lambda: waiting.pop() if waiting else None))
        return [len(written[one].token_ids) for one in jobs]

    result = timed(job, run, works)
    spent: dict[str, float] = {}
    with shares(model.device, spent):  # a run of its own, since measuring waits for the device
        watched = timed(job, run, works[-1:])
    stats = engine.stats
    result["occupancy"] = stats.decoded / max(stats.steps * job["slots"], 1)
    result["prompt_tokens_computed"], result["prompt_tokens_copied"] = stats.prefilled, stats.reused
    result["shares"] = {name: seconds / watched["seconds"][0] for name, seconds in spent.items()}
    rows = [(len(prompt), count) for (prompt, _), count in zip(works[-1], result["rows"][-1], strict=True)]
    result["roofline"] = roofline(model, job["slots"], rows, stats.prefilled)
    return result


def runner(job: Result) -> Result:
    """The whole pipeline: TextGeneration over a dataset, in chunks, saved."""
    llm = TransformersLLM(
        job["model"],
        dtype=job["dtype"],
        device=job["device"],
        batch_size=job["slots"],
    ).load()

    def run(work: Work) -> list[int]:
        sampling = SamplingParams(temperature=job["temperature"], max_new_tokens=max(limit for _, limit in work))
        dataset = Dataset.from_dict({"instruction": [text for text, _ in work]})
        pipeline = Pipeline((TextGeneration(llm, sampling=sampling),))
        chunk_size = 4 * job["slots"]  # one is done before the next begins
        with tempfile.TemporaryDirectory() as folder:
            result = pipeline.run(dataset, run_dir=folder, chunk_size=chunk_size, quiet=True)
            return [entries[-1]["completion_tokens"] for entries in result["generation_metadata"]]

    return timed(job, run, [[(prompt["instruction"], prompt["limit"]) for prompt in call] for call in job["calls"]])


def timed(job: Result, run: Callable[[Work], list[int]], works: list[Work]) -> Result:
    """Run each call's work, one after the other, and measure each."""
    device = torch.device(job["device"])
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    result: Result = {"seconds": [], "cpu_seconds": [], "rows": []}
    for work in works:
        settle(device)
        began, processor = time.perf_counter(), time.process_time()
        result["rows"].append(run(work))
        settle(device)
        result["seconds"].append(time.perf_counter() - began)
        result["cpu_seconds"].append(time.process_time() - processor)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**result, "peak_bytes": torch.cuda.max_memory_allocated(device) if on_cuda else resident}


@contextmanager
def shares(device: torch.device, spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds spent on forwards, on attention where Python sees it, and on choosing tokens."""
    spent |= {"forward": 0.0, "attention": 0.0, "sampling": 0.0}

    def watch(owner: Any, name: str, label: str) -> Callable[[], None]:
        real = getattr(owner, name)

        def watched(*args: Any) -> Any:
            settle(device)
            began = time.perf_counter()
            try:
                return real(*args)
            finally:
                settle(device)
                spent[label] += time.perf_counter() - began

        setattr(owner, name, watched)
        return lambda: setattr(owner, name, real)

    places: list[tuple[Any, str, str]] = [(Sampler, "choose", "sampling")]
    places += [(kind, name, "forward") for kind in (BucketForwards, CudaForwards) for name in ("prefill", "decode")]
    places += [(kind, name, "attention") for kind in (DecodeBatch, PrefillBatch) for name in ("attend", "write")]
    undo = [watch(*place) for place in places]
    try:
        yield
    finally:
        for restore in undo:
            restore()


WAYS: dict[str, Callable[[Result], Result]] = {
    "row by row": lambda job: generate(job, 1, rows=8),
    "generate, batch 8": lambda job: generate(job, 8, rows=24),
    "generate, batch 32": lambda job: generate(job, 32),
    "generate, batch 64": lambda job: generate(job, 64),
    "continuous batching": continuous,
    "hfsynth": loop,
    "hfsynth, nothing shared": lambda job: loop(job, sharing=False),
    "hfsynth, whole run": runner,
}


def main() -> None:
    """Run one way on one job."""
    way, file = sys.argv[1:]
    with open(file) as text:
        job = json.load(text)
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    out = os.dup(1)
    os.dup2(2, 1)  # other output goes to stderr, so that stdout has only the result
    os.write(out, (json.dumps(WAYS[way](job)) + "\n").encode())


if __name__ == "__main__":
    main()
