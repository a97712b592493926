import sys

from hfsynth.run_record import machine, versions


def test_the_machine_is_named_with_its_cores():
    assert machine().endswith(("core", "cores")) or "torch" in sys.modules


def test_an_accelerator_is_named_where_torch_has_one(monkeypatch):
    class Torch:
        class cuda:
            is_available = staticmethod(lambda: True)
            get_device_name = staticmethod(lambda: "NVIDIA H100")

    monkeypatch.setitem(sys.modules, "torch", Torch)
    assert machine() == "NVIDIA H100"


def test_the_versions_are_those_that_are_installed():
    import datasets

    assert versions()["datasets"] == datasets.__version__
    assert {"python", "hfsynth", "torch", "transformers"} <= set(versions())
