import importlib.util
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "simulate_cluster", Path(__file__).parent.parent / "scripts" / "simulate_cluster.py"
)
simulation = importlib.util.module_from_spec(SPEC)
sys.modules["simulate_cluster"] = simulation
SPEC.loader.exec_module(simulation)
Cluster = simulation.Cluster


def test_equal_chunks_in_equal_parts_lose_nothing():
    assert simulation.makespan([2.0] * 32, Cluster(8, 0.0)) == (8.0, 8.0)
    assert simulation.lost([2.0] * 32, Cluster(8, 0.0)) == 0


def test_claims_queue_for_the_one_store():
    end, _ = simulation.makespan([1.0] * 8, Cluster(8, 0.5))
    assert end == 8 * 0.5 + 1.0


def test_the_last_chunk_of_an_odd_number_leaves_the_others_idle():
    assert simulation.lost([1.0] * 9, Cluster(8, 0.0)) == pytest.approx(1 - 9 / 16)


def test_a_slow_device_takes_fewer_chunks_and_costs_its_last_one():
    end, rate = simulation.makespan([1.0] * 100, Cluster(2, 0.0, slow_share=0.5, slow_factor=4.0))
    assert rate == 1.25
    assert 80 <= end <= 84


def test_every_chunk_is_made_though_devices_fail():
    cluster = Cluster(4, 0.0, failures_per_hour=600, restart_seconds=1.0)
    end, _ = simulation.makespan([1.0] * 100, cluster)
    assert end > 25
    assert simulation.makespan([1.0] * 100, cluster)[0] == end


def test_times_come_from_a_real_run_or_it_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"has no timings\.jsonl"):
        simulation.read_timings(tmp_path)
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "timings.jsonl").write_text('{"chunk": 0, "rows": 2, "seconds": 0.5}\n')
    assert simulation.read_timings(tmp_path) == [0.5]


def test_the_stores_cost_is_measured_on_a_real_one():
    assert 0 < simulation.store_cost(50) < 1
