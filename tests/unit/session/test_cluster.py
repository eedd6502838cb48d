"""The nodes of a cluster that a run uses: those of one device class."""

import json
from dataclasses import asdict

import pytest

from pytest_tenpak.errors import WorkerError
from pytest_tenpak.execution.executor import Standing, State
from pytest_tenpak.execution.order import REPLY, Order
from pytest_tenpak.machines.device import Device
from pytest_tenpak.session.cluster import Cluster
from pytest_tenpak.store.store import Store

AVX2, AVX512 = Device("cpu", "cpu-avx2", "cpu"), Device("cpu", "cpu-avx512", "cpu")
GPU = Device("cuda:0", "cuda-sm90", "H100")


class Nodes:
    """An executor whose nodes reply with their devices."""

    def __init__(self, devices, gpus=()):
        self.devices = devices
        self.gpus = dict.fromkeys(devices, 0.0) | dict(gpus)
        self.asked = []

    def nodes(self):
        return dict(self.gpus)

    def submit(self, job, needs):
        self.asked.append((needs, Order.read(job.folder).job))
        device = self.devices[needs.nodes[0] if needs.nodes else ""]
        (job.folder / REPLY).write_text(json.dumps({"answer": asdict(device)}))
        return job

    def poll(self, ticket, seconds):  # noqa: ARG002
        return Standing(State.DONE)

    def cancel(self, ticket):  # noqa: ARG002
        raise AssertionError("nothing is cancelled")

    def close(self):
        pass


def cluster(tmp_path, executor, wanted="auto"):
    return Cluster(lambda: executor, Store(tmp_path), wanted, 0)


def test_any_node_will_do_where_all_have_one_class(tmp_path):
    """No node is prescribed, so that the cluster may place jobs as it likes."""
    found = cluster(tmp_path, Nodes({"a": AVX2, "b": AVX2}))
    assert found.device() == AVX2
    assert found._needs(None).nodes == ()


def test_most_nodes_decide_where_classes_differ(tmp_path):
    """And only those are used; each node is asked once."""
    executor = Nodes({"a": AVX512, "b": AVX2, "c": AVX512})
    found = cluster(tmp_path, executor)
    assert found.device() == AVX512
    assert found._needs(None).nodes == ("a", "c")
    assert len(executor.asked) == 3
    assert found.classes == {"cpu-avx2": 1, "cpu-avx512": 2}


def test_a_node_that_dies_while_it_is_asked_is_left_out(tmp_path):
    """It was listed, since nobody had missed it yet; without any other the run cannot begin, and says so."""

    class Dying(Nodes):
        def submit(self, job, needs):
            if needs.nodes == ("b",):
                self.gpus.pop("b", None)
                return None
            return super().submit(job, needs)

        def poll(self, ticket, seconds):
            return super().poll(ticket, seconds) if ticket else Standing(State.LOST, "no such node")

    assert cluster(tmp_path, Dying({"a": AVX2, "b": AVX512})).device() == AVX2
    with pytest.raises(WorkerError, match="lost every node"):
        cluster(tmp_path, Dying({"b": AVX512})).device()


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_node_with_a_gpu_comes_before_many_without(tmp_path, wanted):
    """It is asked with a GPU, which a node shows to no other job; jobs ask for one."""
    executor = Nodes({"a": AVX2, "b": AVX2, "c": GPU}, {"c": 4.0})
    found = cluster(tmp_path, executor, wanted)
    assert found.device() == GPU
    assert found._needs(None).gpus == 1
    assert {needs.nodes[0]: needs.gpus for needs, _ in executor.asked}["c"] == 1


def test_a_cpu_that_is_asked_for_is_used_beside_gpus(tmp_path):
    """And no job asks for a GPU then."""
    executor = Nodes({"c": AVX2}, {"c": 4.0})
    found = cluster(tmp_path, executor, "cpu")
    assert found.device() == AVX2
    assert found._needs(None).gpus == 0
    assert executor.asked[0][1] == {"wanted": "cpu"}


def test_a_gpu_that_no_node_has_is_asked_for_all_the_same(tmp_path):
    """Of the cluster, which may add a node: a run that wants a GPU is not measured on a CPU in silence."""
    executor = Nodes({"a": AVX2, "": GPU}, {"": 0.0})
    found = cluster(tmp_path, executor, "cuda")
    assert found.device() == GPU
    ((needs, job),) = executor.asked
    assert (needs.gpus, needs.nodes, job) == (1, (), {"wanted": "cuda"})
    assert found._needs(None).nodes == ()
