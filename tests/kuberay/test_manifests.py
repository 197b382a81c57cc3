"""Every manifest against KubeRay's own CRD schemas, where an unknown field is an error."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from medray import config
from medray.serving.app import ServeConfig

ROOT = Path(__file__).parents[2]
CRDS = ROOT.parent / "shared" / "kuberay-crds"
MANIFESTS = sorted((ROOT / "cluster" / "kuberay").glob("*.yaml"))
needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"KubeRay's CRD schemas are not at {CRDS}")


def strict(schema):
    """Forbid unknown fields wherever a schema lists its properties, as ``kubectl --validate=strict`` does."""
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
            schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        return schema
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


def schema_of(kind):
    crd = yaml.safe_load((CRDS / f"ray.io_{kind.lower()}s.yaml").read_text())
    version = next(item for item in crd["spec"]["versions"] if item["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def documents(path):
    return [item for item in yaml.safe_load_all(path.read_text()) if item]


@needs_crds
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path):
    for item in documents(path):
        jsonschema.validate(item, schema_of(item["kind"]))


@needs_crds
def test_a_typo_is_caught():
    item = documents(ROOT / "cluster" / "kuberay" / "raycluster.yaml")[0]
    item["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(item, schema_of("RayCluster"))


def test_heads_tell_nobody_what_they_do():
    for path in MANIFESTS:
        text = path.read_text()
        assert text.count("name: ray-head") == text.count("name: RAY_USAGE_STATS_ENABLED") == 1, path.name


def test_there_is_one_of_each_kind():
    assert sorted(item["kind"] for path in MANIFESTS for item in documents(path)) == ["RayCluster", "RayJob", "RayService"]


def test_the_cluster_scales_cpu_and_gpu_workers():
    spec = documents(ROOT / "cluster" / "kuberay" / "raycluster.yaml")[0]["spec"]
    assert spec["enableInTreeAutoscaling"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    limits = {name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups.items()}
    assert "nvidia.com/gpu" in limits["gpu"]
    assert "nvidia.com/gpu" not in limits["cpu"]
    assert all(group["minReplicas"] < group["maxReplicas"] for group in groups.values())


def test_the_job_runs_a_script_that_exists():
    spec = documents(ROOT / "cluster" / "kuberay" / "rayjob-fit.yaml")[0]["spec"]
    assert (ROOT / spec["entrypoint"].split()[1]).is_file()


def test_the_service_imports_the_builder_of_medray_serve():
    import importlib

    spec = documents(ROOT / "cluster" / "kuberay" / "rayservice.yaml")[0]["spec"]
    application = yaml.safe_load(spec["serveConfigV2"])["applications"][0]
    module, name = application["import_path"].split(":")
    assert getattr(importlib.import_module(module), name).__name__ == "build"
    config.load(ServeConfig, application["args"], what="serveConfigV2")


def test_the_ray_version_is_the_pinned_one():
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    for path in MANIFESTS:
        for item in documents(path):
            spec = item["spec"]
            cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
            assert f"ray=={cluster['rayVersion']}" == pinned
