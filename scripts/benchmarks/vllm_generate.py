"""Run vLLM as an engine of `generation.py`: eager, without a prefix cache. Imports only vLLM.

python vllm_generate.py FOLDER job.json --dtype float32 --slots 64
"""

import argparse
import json
import os
import time


def main() -> None:
    """Run each call of a job, and print the seconds of each and the tokens of its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Name on the Hub, or folder.")
    parser.add_argument("job", help="File that generation.py writes.")
    parser.add_argument("--dtype", default="float32", help="Type of the weights. Default: %(default)s.")
    parser.add_argument("--slots", type=int, default=64, help="Most sequences at once. Default: %(default)s.")
    arguments = parser.parse_args()
    with open(arguments.job, encoding="utf-8") as file:
        job = json.load(file)
    out = os.dup(1)
    os.dup2(2, 1)  # other output goes to stderr, so that stdout has only the result
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{job['threads'] - 1}",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
    }
    from vllm import LLM, SamplingParams
    from vllm.inputs import tokens_input

    llm = LLM(
        arguments.model,
        dtype=arguments.dtype,
        max_model_len=2048,
        max_num_seqs=arguments.slots,
        max_num_batched_tokens=4096,
        enforce_eager=True,
        enable_prefix_caching=False,
        generation_config="vllm",
    )
    sampling = SamplingParams(
        temperature=job["temperature"], top_p=job["top_p"], max_tokens=job["max_new_tokens"], detokenize=False
    )
    tokenizer = llm.get_tokenizer()
    seconds, processor_seconds, rows = [], [], []
    for prompts in job["calls"]:
        inputs = [tokens_input(tokenizer.encode(text, add_special_tokens=False)) for text in prompts]
        began, processor = time.perf_counter(), time.process_time()
        outputs = llm.generate(inputs, sampling, use_tqdm=False)
        seconds.append(time.perf_counter() - began)
        processor_seconds.append(time.process_time() - processor)
        rows.append([len(output.outputs[0].token_ids) for output in outputs])
    result = {"seconds": seconds, "cpu_seconds": processor_seconds, "rows": rows}
    os.write(out, (json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    main()
