"""Warnings while an llm completes nothing."""

import logging
import threading
import time
from dataclasses import dataclass

from hfsynth import EchoLLM, Request
from hfsynth.flow import FlowDriver, RowSeeds
from hfsynth.watchdog import Watchdog


@dataclass(frozen=True)
class SlowLLM(EchoLLM):
    """Completes requests one by one, each after a while."""

    seconds_per_request: float = 0.4

    def stream(self, requests):
        while item := requests.take():
            yield item[0], self.complete([item[1]])[0]


def flow():
    completion = yield Request(messages=({"role": "user", "content": "Hi"},))
    return {"text": completion.text}


def finish(llm, number, patience):
    flows = FlowDriver(llm, patience=patience)
    return flows.finish(flows.start([flow() for _ in range(number)], [RowSeeds(0, "Step", n) for n in range(number)]))


def test_watchdog_silent_llm_warns_with_step_and_rows(caplog):
    outcomes = finish(SlowLLM(), 2, patience=0.15)
    assert [outcome.rows for outcome in outcomes] == [[{"text": "Hi"}]] * 2
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0].startswith("Step: no completion from echo for 0 seconds; 2 rows wait.")
    assert warnings[-1].startswith("Step: no completion from echo for 0 seconds; 1 rows wait.")


def test_watchdog_llm_in_time_warns_nothing(caplog):
    assert len(finish(SlowLLM(seconds_per_request=0.01), 8, patience=30)) == 8
    assert caplog.text == ""


def test_watchdog_warns_each_time_the_silence_doubles(caplog):
    with Watchdog("Step", "echo", lambda: 1, patience=0.1):
        time.sleep(1.0)
    assert 2 <= caplog.text.count("no completion") <= 4  # after 0.1, 0.2, 0.4 and 0.8 seconds


def test_watchdog_thread_ends_with_its_block():
    before = threading.active_count()
    with Watchdog("Step", "echo", lambda: 1, patience=60):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_watchdog_rows_without_requests_start_no_thread():
    def nothing():
        return {"text": ""}
        yield

    flows, before = FlowDriver(EchoLLM()), threading.active_count()
    (outcome,) = flows.finish(flows.start([nothing()], [RowSeeds(0, "Step", 0)]))
    assert outcome.rows == [{"text": ""}]
    assert threading.active_count() == before
