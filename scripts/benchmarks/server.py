"""Measure OpenAILLM against a bare load generator, on a server that answers after a fixed time.

    python scripts/benchmarks/server.py --in-flight 32 64 --requests 2000 --latency 0.25
    python scripts/benchmarks/server.py --memory 100000 --latency 0.01

The bare generator keeps as many requests in flight with the same HTTP client, and only parses the JSON of the answers.
Rounds alternate. Prints the requests a second, their share of the bare generator's, and the processor time of a
request in this process; with --memory, the resident memory after each tenth of the requests.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import psutil
from httpx2 import AsyncClient, Limits, Timeout

from hfsynth import OpenAILLM, Request, SamplingParams
from hfsynth.llm import Requests
from machine import describe_machine

MODEL = "user/small"
ANSWER = json.dumps(
    {
        "choices": [{"message": {"role": "assistant", "content": "word " * 200}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 200},
    }
).encode()
MODELS = json.dumps({"data": [{"id": MODEL, "owned_by": "vllm"}]}).encode()


async def serve(port: Connection, latency: float) -> None:
    """Answer every POST after a fixed time, and send the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length")), 0)
                await reader.readexactly(length)
                is_post = lines[0].startswith("post")
                if is_post:
                    await asyncio.sleep(latency)
                content = ANSWER if is_post else MODELS
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
                writer.write(content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    port.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def run_server(port: Connection, latency: float) -> None:
    """Serve until the process ends."""
    asyncio.run(serve(port, latency))


@contextmanager
def running_server(latency: float) -> Iterator[str]:
    """Run the server in a process of its own, and give its address."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=run_server, args=(theirs, latency), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def request(number: int) -> Request:
    """Return a chat of some 50 tokens."""
    text = f"Question {number}: " + "why is the sky blue at noon and red in the evening? " * 4
    return Request(
        messages=({"role": "user", "content": text},), seed=number, sampling=SamplingParams(max_new_tokens=256)
    )


async def send_bare(url: str, count: int, in_flight: int) -> None:
    """Send requests by the HTTP client alone."""
    numbers = iter(range(count))
    limits = Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with AsyncClient(limits=limits, timeout=Timeout(60.0)) as client:

        async def worker() -> None:
            for number in numbers:
                body = {"model": MODEL, "messages": list(request(number).messages), "max_tokens": 256, "seed": number}
                (await client.post(f"{url}/chat/completions", json=body)).json()

        await asyncio.gather(*(worker() for _ in range(in_flight)))


def send_by_llm(llm: OpenAILLM, count: int) -> None:
    """Send requests by OpenAILLM, each taken when there is room."""
    numbers = iter(range(count))
    requests = Requests(lambda: put_next(requests, numbers))
    put_next(requests, numbers)
    completed = sum(completion.text.startswith("word") for _, completion in llm.stream(requests))
    assert completed == count, f"{completed} of {count} requests were completed"


def put_next(requests: Requests, numbers: Iterator[int]) -> None:
    """Put the next request, if there is one."""
    number = next(numbers, None)
    if number is not None:
        requests.put(number, request(number))


def measure(send: Callable[[], None], count: int) -> tuple[float, float]:
    """Return requests a second, and milliseconds of processor time a request."""
    wall, processor = time.perf_counter(), time.process_time()
    send()
    return count / (time.perf_counter() - wall), (time.process_time() - processor) / count * 1000


def compare(url: str, in_flight: int, count: int, rounds: int) -> None:
    """Print both ways' medians."""
    results: dict[str, list[tuple[float, float]]] = {"bare": [], "OpenAILLM": []}
    with OpenAILLM(MODEL, base_url=url, concurrency=in_flight) as llm:
        for _ in range(rounds):
            results["bare"].append(measure(lambda: asyncio.run(send_bare(url, count, in_flight)), count))
            results["OpenAILLM"].append(measure(lambda: send_by_llm(llm, count), count))
    rates = {way: statistics.median(rate for rate, _ in found) for way, found in results.items()}
    for way, found in results.items():
        processor = statistics.median(milliseconds for _, milliseconds in found)
        print(
            f"{in_flight} in flight, {way}: {rates[way]:.1f} requests/s ({rates[way] / rates['bare']:.1%}), "
            f"{processor:.2f} ms of processor a request"
        )


def measure_memory(url: str, count: int) -> None:
    """Print the resident memory after each tenth of the requests."""
    process = psutil.Process()
    with OpenAILLM(MODEL, base_url=url, concurrency=64) as llm:
        for part in range(1, 11):
            send_by_llm(llm, count // 10)
            print(f"{part * count // 10:,} requests: {process.memory_info().rss / 2**20:.1f} MiB", flush=True)


def main() -> None:
    """Measure what the flags name."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--in-flight", type=int, nargs="+", default=[32, 64], help="Default: 32 and 64.")
    flags.add_argument("--requests", type=int, default=2000, help="Of each round. Default: 2000.")
    flags.add_argument("--rounds", type=int, default=3, help="Default: 3.")
    flags.add_argument("--latency", type=float, default=0.25, help="Seconds of each answer. Default: 0.25.")
    flags.add_argument("--memory", type=int, help="Measure memory over this many requests instead.")
    arguments = flags.parse_args()
    print(f"Machine: {describe_machine(threads=1)}")
    with running_server(arguments.latency) as url:
        if arguments.memory:
            measure_memory(url, arguments.memory)
        else:
            for in_flight in arguments.in_flight:
                compare(url, in_flight, arguments.requests, arguments.rounds)


if __name__ == "__main__":
    main()
