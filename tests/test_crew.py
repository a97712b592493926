import pytest
from torch.distributed import TCPStore

from hfsynth.distributed import Crew, is_main_process, wait_until


def test_a_process_alone_counts_for_itself():
    crew = Crew.here()
    assert (crew.rank, crew.size, crew.is_main, crew.on_its_own) == (0, 1, True, True)
    assert [crew.draw("chunk") for _ in range(3)] == [0, 1, 2]
    assert crew.read("chunk") == 3
    assert crew.agrees("step", "anything")


def test_two_processes_draw_every_number_once_from_one_store():
    store = TCPStore("127.0.0.1", 0, is_master=True)
    crews = [Crew(rank, 2, TCPStore("127.0.0.1", store.port, is_master=False), "t") for rank in (0, 1)]
    drawn = [crew.draw("chunk") for _ in range(5) for crew in crews]
    assert sorted(drawn) == list(range(10))
    assert crews[0].agrees("step", "a")
    assert not crews[1].agrees("step", "b")


def test_where_the_store_is_lost_a_process_goes_on_counting_for_itself():
    class Lost:
        def add(self, counter, amount):
            raise RuntimeError("Connection reset by peer")

    crew = Crew(1, 2, Lost(), "t")
    assert crew.draw("chunk") == 0
    assert crew.on_its_own
    assert crew.draw("chunk") == 1


def test_each_process_of_each_run_has_a_name_of_its_own():
    one, two = Crew(0, 2, None, "a" * 32), Crew(1, 2, None, "a" * 32)
    assert one.member != two.member
    assert one.member.split("-")[0] == two.member.split("-")[0] == "a" * 8


@pytest.mark.parametrize(("rank", "main"), [("0", True), ("3", False)])
def test_process_0_does_what_is_done_once(monkeypatch, rank, main):
    monkeypatch.setenv("RANK", rank)
    assert is_main_process() is main


def test_waiting_ends_when_it_may():
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), seconds=5, pause=0)
    assert not wait_until(lambda: False, seconds=0)
