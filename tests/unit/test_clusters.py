"""The cluster files in examples/ray: what Ray accepts, and what docs/scale.md says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from places import ROOT

EXAMPLES = ROOT / "examples" / "ray"
CACHE = "/shared/tenpak"


def launched():
    """The file of Ray's own launcher."""
    return yaml.safe_load((EXAMPLES / "cluster.yaml").read_text(encoding="utf-8"))


def on_kubernetes():
    """The claim of a volume and the cluster."""
    return list(yaml.safe_load_all((EXAMPLES / "kuberay.yaml").read_text(encoding="utf-8")))


def pods():
    """The head's pod and those of each group of workers."""
    spec = on_kubernetes()[1]["spec"]
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_ray_accepts_the_launchers_file():
    """By Ray's own schema, and by the checks that its launcher makes beyond it."""
    ray = pytest.importorskip("ray")
    schema = Path(ray.__file__).with_name("autoscaler") / "ray-schema.json"
    jsonschema.validate(launched(), json.loads(schema.read_text(encoding="utf-8")))
    util = pytest.importorskip("ray.autoscaler._private.util")
    util.validate_config(util.prepare_config(launched()))


def test_the_launchers_head_does_no_jobs_and_nodes_come_with_them():
    """Otherwise a run would find the head's class, or cost money while nobody runs anything."""
    types = launched()["available_node_types"]
    head = types.pop(launched()["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in types.values())


def test_kuberays_file_is_a_cluster_of_one_image():
    """With GPUs in every group of workers, which come with the jobs, and none for the head."""
    claim, cluster = on_kubernetes()
    assert (claim["kind"], claim["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    head, *workers = (container for pod in pods() for container in pod["containers"])
    assert {head["image"]} == {worker["image"] for worker in workers}
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert all(worker["resources"]["limits"]["nvidia.com/gpu"] for worker in workers)


def test_every_container_mounts_the_shared_volume_where_the_page_has_the_cache():
    """Under one path: a job is a folder of the cache, which all nodes see."""
    claim = on_kubernetes()[0]["metadata"]["name"]
    for pod in pods():
        volumes = {
            one["name"]: one.get("persistentVolumeClaim", {}).get("claimName") for one in pod["volumes"]
        }
        for container in pod["containers"]:
            paths = [one["mountPath"] for one in container["volumeMounts"] if volumes[one["name"]] == claim]
            assert paths == [str(Path(CACHE).parent)]


@pytest.mark.parametrize("name", ["cluster.yaml", "kuberay.yaml"])
def test_the_files_name_the_pages_cache(name):
    """In the commands that they begin with; and the launcher's file mounts what holds it."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert f"(../examples/ray/{name})" in page
    assert CACHE in re.findall(r"--tenpak-executor=ray --tenpak-cache-dir=(\S+)", page)
    assert set(re.findall(r"--tenpak-cache-dir=([^\s']+)", text)) == {CACHE}
    # Nodes come with the jobs: the run has to know which, and to wait.
    assert "--tenpak-device=cuda --tenpak-ray-wait=" in text
    if name == "cluster.yaml":
        assert any(command.endswith(":/ /shared") for command in launched()["setup_commands"])
