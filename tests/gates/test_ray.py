"""Gates on a real Ray cluster: three nodes of this machine, each with one CPU."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from elsewhere import GATES as ANYWHERE
from elsewhere import METHODS
from processes import gone
from projects import LEAN, ONE_THREAD
from s3 import free_port

pytestmark = pytest.mark.slow

GATES = """
    @pytest.mark.parametrize("group", [0, 1])
    @pytest.mark.quantize(method="int4", group_size=32, max_tokens=640)
    @pytest.mark.quantize(method="int4", group_size=64, max_tokens=640)
    def test_it(quantized, group): pass

    @pytest.mark.quantize(method="int4", group_size=16, max_tokens=640, max_ppl_delta=-0.5)
    def test_fails(quantized): pass

    @pytest.mark.quantize(method="int4", group_size=128, max_tokens=640)
    def test_asks(quantized):
        assert isinstance(quantized.generate("To be", max_new_tokens=2), str)
"""

PATIENT = """
import os, pathlib, shutil, socket, time
from pytest_tenpak import Option, Quantizer

HERE = pathlib.Path(__file__).parent

class Patient(Quantizer):
    method = "patient"
    options = (Option("number", int, 0, "nothing"),)
    def quantize(self, job):
        begun = HERE / "begun"
        begun.mkdir(exist_ok=True)
        (begun / f"{job.spec.options['number']}-{os.getpid()}").touch()
        deadline = time.monotonic() + 120
        while not (HERE / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        for path in job.model.iterdir():
            shutil.copy(path, job.out)

class Hungry(Quantizer):
    method = "hungry"
    def quantize(self, job):
        taken = bytearray(1 << 30)
        taken[::4096] = b"x" * len(taken[::4096])
        time.sleep(60)

def pytest_tenpak_register_quantizers(register):
    register(Patient)
    register(Hungry)
"""


def patient(count):
    """Test code of so many gates that wait for a file."""
    return "".join(
        f"@pytest.mark.quantize(method='patient', number={number}, max_tokens=640)\n"
        f"def test_{number}(quantized): pass\n"
        for number in range(count)
    )


@pytest.fixture(scope="module")
def cluster(cluster_utils, tmp_path_factory):
    """Three nodes; one more can be added and killed."""
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    head = {**node, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENPAK_CACHE_DIR", str(tmp_path_factory.mktemp("nodes")))
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(**node)
        cluster.add_node(**node, resources={"fast_disk": 1})
        cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def on_ray(project, cluster, tmp_path):
    """The project with a cache of its own, and the arguments that run its gates on the cluster."""
    project.ini(**{**project.settings, "cache_dir": tmp_path / "cache", "executor": "ray"})
    return project, f"--tenpak-ray-address={cluster.address}"


def outcomes(path):
    """The outcomes of a JSON report, by the gates' ids."""
    return {one["case"]["nodeid"]: one for one in json.loads(path.read_text())["outcomes"]}


def started(project, *arguments):
    """The project's run as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *LEAN, "--tenpak-json=run.json", *arguments],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_begun(project, count):
    """The process numbers of the first jobs that have begun."""
    begun, deadline = project.path / "begun", time.monotonic() + 120
    while time.monotonic() < deadline:
        if begun.exists() and len(found := list(begun.iterdir())) >= count:
            return {int(path.name.split("-")[0]): int(path.name.split("-")[1]) for path in found}
        time.sleep(0.1)
    raise AssertionError("no job has begun")


def test_outcomes_are_those_of_this_machine(on_ray, tmp_path):
    """Figure by figure and check by check, on nodes that torch gives one thread each."""
    project, address = on_ray
    project.test(GATES)
    remote = project.run(address, "--tenpak-json=remote.json", "--tenpak-baseline-dir=remote")
    remote.assert_outcomes(passed=5, failed=1)
    local = project.run(
        "--tenpak-executor=local",
        "--tenpak-json=local.json",
        "--tenpak-baseline-dir=local",
        f"--tenpak-cache-dir={tmp_path / 'other'}",
    )
    local.assert_outcomes(passed=5, failed=1)
    ours, theirs = (outcomes(project.path / f"{name}.json") for name in ("local", "remote"))
    assert ours.keys() == theirs.keys()
    for nodeid, one in ours.items():
        other = theirs[nodeid]
        assert one["verdict"] == other["verdict"]
        for left, right in zip(one["parts"], other["parts"], strict=True):
            assert left["measurement"]["windows"] == right["measurement"]["windows"]
    assert not list((tmp_path / "cache" / "jobs").iterdir())


def test_a_node_that_dies_costs_a_retry(on_ray, cluster):
    """Killed in the middle of its job: every verdict is there, and the report names what was begun again."""
    project, address = on_ray
    extra = cluster.add_node(num_cpus=1, object_store_memory=80 << 20, resources={"doomed": 1})
    cluster.wait_for_nodes()
    project.pytester.makeconftest(PATIENT)
    project.test(patient(4))
    with started(project, address) as process:
        pids = list(wait_for_begun(project, 4).values())
        cluster.remove_node(extra, allow_graceful=False)
        while not any(gone([pid], 0.1) for pid in pids):
            assert process.poll() is None
        (project.path / "go").touch()
        printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    found = outcomes(project.path / "run.json")
    assert len(found) == 4
    lost = [text for one in found.values() for text in one["retried"]]
    assert len(lost) == 1
    assert lost[0].startswith("quantize, attempt 1: ")


def test_a_head_without_a_cpu_for_jobs_is_not_asked(on_ray, cluster):
    """As Kubernetes' heads are: the run neither waits for it nor ends with an error, and uses the others."""
    project, address = on_ray
    head = cluster.add_node(num_cpus=0, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    project.test("@pytest.mark.quantize(method='int4', max_tokens=640)\ndef test_it(quantized): pass")
    result = project.run(address)
    cluster.remove_node(head)
    result.assert_outcomes(passed=1)


def test_a_cluster_that_goes_away_is_said_within_a_minute(project, cluster_utils, tmp_path):
    """Its head killed in the middle: each gate says so, and the run ends with its report."""
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    doomed = cluster_utils.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    project.ini(**{**project.settings, "cache_dir": tmp_path / "cache", "executor": "ray"})
    project.pytester.makeconftest(PATIENT)
    project.test(patient(2))
    with started(project, f"--tenpak-ray-address={doomed.address}") as process:
        wait_for_begun(project, 1)
        doomed.remove_node(doomed.head_node, allow_graceful=False)
        printed, _ = process.communicate(timeout=90)
    doomed.shutdown()
    assert process.returncode == pytest.ExitCode.TESTS_FAILED, printed
    assert printed.count(": the Ray cluster is gone\n  given:") == 2
    assert len(outcomes(project.path / "run.json")) == 2


def test_a_killed_driver_leaves_no_task(on_ray):
    """kill -9 of pytest: after ten seconds none of its jobs runs on any node."""
    project, address = on_ray
    project.pytester.makeconftest(PATIENT)
    project.test(patient(2))
    with started(project, address) as process:
        pids = wait_for_begun(project, 2)
        process.kill()
    assert gone(list(pids.values()), 10)


def test_a_job_that_takes_too_much_memory_is_one_failed_case(on_ray):
    """By the run's own limit, in the same words as on one machine; the other gate passes."""
    project, address = on_ray
    project.pytester.makeconftest(PATIENT)
    project.test(
        "@pytest.mark.quantize(method='hungry', max_tokens=640)\ndef test_hungry(quantized): pass\n"
        "@pytest.mark.quantize(method='int4', max_tokens=640)\ndef test_fine(quantized): pass\n"
    )
    result = project.run(address, "--tenpak-memory=0.9")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*quantize took * GiB of memory, more than 0.90 GiB, and was stopped*"])


def test_a_cluster_that_sees_no_file_of_the_driver(project, cluster, hide, tmp_path):
    """The driver has cache, model and suite where no node looks; its gates pass all the same."""
    own, bucket = tmp_path / "own", tmp_path / "bucket"
    own.mkdir()
    project.test(ANYWHERE)
    project.pytester.makeconftest(METHODS)
    run = " ".join(
        (
            f"cp -r {project.settings['model']} {own}/model && cp -r {project.path} {own}/suite",
            f"&& cd {own}/suite && exec {sys.executable} -m pytest {' '.join(LEAN)} -k 'int4 or asks'",
            f"-o tenpak_model={own}/model -o tenpak_cache_dir={own}/cache --tenpak-executor=ray",
            f"--tenpak-ray-address={cluster.address} --tenpak-transport=store",
            f"--tenpak-store={bucket.as_uri()}",
        )
    )
    command = [hide, str(own), "--", "sh", "-c", run]
    environment = {**os.environ, **ONE_THREAD}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
    assert not list((bucket / "jobs").iterdir())


@pytest.mark.usefixtures("cluster_utils")
def test_a_cluster_without_nodes_grows_for_the_first_job(project, tmp_path):
    """Ray's own autoscaler adds a node that runs jobs, on this machine: the run waits, and its gates pass."""
    place = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets have short names
    address = f"127.0.0.1:{free_port()}"
    node = {"node_config": {}, "min_workers": 0}
    small = {"CPU": 1, "object_store_memory": 80 << 20}
    lists = "initialization_commands setup_commands head_setup_commands worker_setup_commands rsync_exclude"
    lists += " head_start_ray_commands worker_start_ray_commands cluster_synced_files rsync_filter"
    config = {
        "cluster_name": "growing",
        "max_workers": 1,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {"ssh_user": "nobody"},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in lists.split()},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {**node, "resources": {"CPU": 0}, "max_workers": 0},
            "small": {**node, "resources": small, "max_workers": 1},
        },
    }
    (place / "config.json").write_text(json.dumps(config))
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--num-cpus=0"]
    command += [f"--port={address.partition(':')[2]}", f"--autoscaling-config={place / 'config.json'}"]
    command += ["--include-dashboard=false", f"--object-store-memory={80 << 20}", f"--temp-dir={place}"]
    project.ini(**{**project.settings, "cache_dir": tmp_path / "cache", "executor": "ray"})
    project.test("@pytest.mark.quantize(method='int4', max_tokens=640)\ndef test_it(quantized): pass")
    environment = {**os.environ, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    try:
        subprocess.run(command, check=True, capture_output=True, env=environment)
        project.run(f"--tenpak-ray-address={address}", "--tenpak-ray-wait=120").assert_outcomes(passed=1)
    finally:
        subprocess.run(["pkill", "-f", str(place)], check=False)
        shutil.rmtree(place, ignore_errors=True)


def test_an_impossible_request_says_what_the_cluster_has(on_ray):
    """In place of waiting for ever; a request that one node can meet runs there."""
    project, address = on_ray
    project.test(
        """
        @pytest.mark.quantize(method="int4", group_size=32, max_tokens=640, gpus=8)
        def test_impossible(quantized): pass

        @pytest.mark.quantize(method="int4", group_size=64, max_tokens=640, resources={"fast_disk": 1})
        def test_possible(quantized): pass
        """
    )
    result = project.run(address, "--tenpak-ray-wait=3")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*no node of the Ray cluster can run this job*",
            "*8 GPU, *has waited for 3 s*",
            "*accepted:*1 CPU*1 fast_disk*",
        ]
    )


def test_no_cluster_is_said_before_any_work(project):
    """With what an address may be."""
    project.test(GATES)
    result = project.run("--tenpak-executor=ray", "--tenpak-ray-address=127.0.0.1:1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no Ray cluster to connect to*"])
