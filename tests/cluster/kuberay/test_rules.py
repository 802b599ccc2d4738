"""What no schema says: KubeRay's own rules, and what keeps pods and the sandbox in bounds."""

import re

import pytest
import yaml
from ray.runtime_env import RuntimeEnv
from ray.scripts.scripts import start

from cluster.job import STOP_ENVIRONMENT
from tests.cluster.kuberay.rendered import (
    OVERLAYS,
    ROOT,
    Object,
    cluster_specs,
    groups,
    only,
    overlay,
    pod_templates,
    with_component,
)

# Fields that KubeRay 1.7 rejects unless a feature gate is set that is off by default.
GATED = {"historyServerOptions", "networkPolicy", "tlsOptions"}
ALL = pytest.mark.parametrize("name", OVERLAYS)


def _specs(name: str) -> list[Object]:
    return list(cluster_specs(overlay(name)).values())


def _group(spec: Object, name: str) -> Object:
    return next(group for group in spec["workerGroupSpecs"] if group["groupName"] == name)


def _containers(template: Object) -> list[Object]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


@ALL
def test_three_clusters_have_the_ray_version_of_the_locks_and_ask_for_a_token(name):
    lock = (ROOT / "requirements" / "cpu.txt").read_text()
    (version,) = re.findall(r"^ray(?:\[[^]]*\])?==(\S+)", lock, re.MULTILINE)
    specs = _specs(name)
    assert len(specs) == 3
    for spec in specs:
        assert spec["rayVersion"] == version
        assert spec["authOptions"] == {"mode": "token", "secretName": "crucible-ray-token"}


@ALL
def test_no_field_needs_a_feature_gate(name):
    for spec in _specs(name):
        assert not GATED & set(spec)
        fault_tolerance = spec.get("gcsFaultToleranceOptions", {})
        assert fault_tolerance.get("backend", "redis") == "redis"
        assert "storage" not in fault_tolerance


@ALL
def test_groups_have_sizes_that_kuberay_takes(name):
    for spec in _specs(name):
        for group in spec["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["maxReplicas"]
            assert group["minReplicas"] <= group.get("replicas", group["minReplicas"])
            assert spec["enableInTreeAutoscaling"] or "replicas" in group
            assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", group["groupName"])


@ALL
def test_start_parameters_are_options_of_ray_start_and_name_no_resource(name):
    options = {option for parameter in start.params for option in parameter.opts}
    for spec in _specs(name):
        for group in groups(spec):
            given = set(group["rayStartParams"])
            assert {f"--{key}" for key in given} <= options
            assert not given & {"num-cpus", "num-gpus", "memory", "resources", "labels"}


@ALL
def test_pods_are_never_restarted_in_place_as_the_autoscaler_wants_it(name):
    for spec in _specs(name):
        assert {group["template"]["spec"]["restartPolicy"] for group in groups(spec)} == {"Never"}


@ALL
def test_every_container_has_requests_limits_and_no_privilege(name):
    for template in pod_templates(overlay(name)):
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] > 0
        for container in _containers(template):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            for amounts in container["resources"].values():
                assert {"cpu", "memory"} <= set(amounts)
            assert set(container["resources"]) == {"requests", "limits"}


@ALL
def test_only_kind_s_sandbox_leaves_the_default_seccomp_profile(name):
    for template in pod_templates(overlay(name)):
        role = template["metadata"]["labels"].get("crucible/role")
        profile = template["spec"]["securityContext"]["seccompProfile"]["type"]
        expected = "Unconfined" if (name, role) == ("kind", "sandbox") else "RuntimeDefault"
        assert profile == expected


@ALL
def test_ray_s_nodes_have_probes_and_only_the_head_a_service_account(name):
    for cluster, spec in cluster_specs(overlay(name)).items():
        for group in groups(spec):
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            is_head = "groupName" not in group
            assert "livenessProbe" in container
            # KubeRay's own readiness of a Serve worker asks the proxy as well.
            assert ("readinessProbe" in container) == (is_head or cluster != "endpoint")
            assert pod.get("automountServiceAccountToken", True) is is_head


@ALL
def test_every_volume_that_is_mounted_exists_and_the_other_way_round(name):
    for template in pod_templates(overlay(name)):
        mounted = {m["name"] for c in _containers(template) for m in c.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in template["spec"].get("volumes", [])}


@ALL
def test_secrets_are_only_referred_to(name):
    assert not [item for item in overlay(name) if item["kind"] == "Secret"]
    for template in pod_templates(overlay(name)):
        for container in _containers(template):
            for variable in container.get("env", []):
                is_secret = re.search(r"(?i)token|password|secret|key", variable["name"])
                assert not is_secret or "secretKeyRef" in variable["valueFrom"]


@ALL
def test_the_sandbox_sees_no_secret_and_no_storage_and_has_a_kernel_of_its_own(name):
    specs = cluster_specs(overlay(name))
    assert "sandbox" not in {g["groupName"] for g in specs["endpoint"]["workerGroupSpecs"]}
    for spec in (specs["run"], specs["work"]):
        group = _group(spec, "sandbox")
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        # No CPU slots: nothing but what asks for the resource sandbox comes here.
        assert group["resources"]["CPU"] == "0"
        assert int(group["resources"]["sandbox"]) > 0
        assert "envFrom" not in container
        assert [v["name"] for v in container["env"]] == ["CRUCIBLE_ISOLATOR"]
        assert {volume["name"] for volume in pod["volumes"]} == {"recipe", "tmp", "home"}
        assert ("runtimeClassName" in pod) == (name != "kind")


@ALL
def test_network_policies_select_the_pods_that_there_are(name):
    labels = [template["metadata"]["labels"] for template in pod_templates(overlay(name))]
    for policy in (item for item in overlay(name) if item["kind"] == "NetworkPolicy"):
        assert any(_selects(policy["spec"]["podSelector"], pod) for pod in labels)
    roles = {pod.get("crucible/role") for pod in labels}
    assert {"head", "worker", "sandbox", "submitter"} <= roles


@ALL
def test_the_sandbox_reaches_ray_s_ports_and_neither_dashboard_nor_client_nor_serve(name):
    policy = only(overlay(name), "NetworkPolicy", "sandbox")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for rule in policy["egress"]:
        assert rule["to"]
        assert rule["ports"]
        for port in rule["ports"]:
            span = range(port["port"], port.get("endPort", port["port"]) + 1)
            assert not {443, 8000, 8265, 10001} & set(span)


@ALL
def test_ports_that_policies_open_are_those_that_ray_is_told_to_use(name):
    policy = only(overlay(name), "NetworkPolicy", "sandbox")["spec"]
    opened = {
        number
        for port in policy["egress"][0]["ports"]
        for number in range(port["port"], port.get("endPort", port["port"]) + 1)
    }
    for spec in _specs(name):
        for group in groups(spec):
            given = {key: int(value) for key, value in group["rayStartParams"].items()}
            lowest, highest = given.pop("min-worker-port"), given.pop("max-worker-port")
            public = {given.pop("metrics-export-port"), given.pop("dashboard-agent-listen-port")}
            assert public == {8080, 52365}
            assert set(range(lowest, highest + 1)) | set(given.values()) <= opened


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    return exact and all(
        expression["operator"] == "In" and labels.get(expression["key"]) in expression["values"]
        for expression in selector.get("matchExpressions", [])
    )


@ALL
def test_budgets_count_pods_as_kuberay_s_pods_have_no_scale(name):
    labels = [template["metadata"]["labels"] for template in pod_templates(overlay(name))]
    budgets = [item["spec"] for item in overlay(name) if item["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 3
    for budget in budgets:
        assert isinstance(budget["minAvailable"], int)
        assert any(_selects(budget["selector"], pod) for pod in labels)


@ALL
def test_no_field_has_a_rule_that_only_a_cluster_evaluates(name):
    # The fields of the CRDs that carry rules in CEL, which JSON Schema cannot express.
    with_rules = {"managedBy", "deletionStrategy", "backend"}
    assert not with_rules & set(re.findall(r"(\w+):", yaml.safe_dump(_ray_objects(name))))


def _ray_objects(name: str) -> list[Object]:
    return [item for item in overlay(name) if item["apiVersion"] == "ray.io/v1"]


@ALL
def test_the_job_s_cluster_goes_when_it_is_over_and_its_runtime_environment_is_one(name):
    job = only(overlay(name), "RayJob")["spec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert "suspend" not in job  # Kueue sets it
    assert "clusterSelector" not in job
    environment = yaml.safe_load(job["runtimeEnvYAML"])
    RuntimeEnv(**environment)
    assert STOP_ENVIRONMENT.items() <= environment["env_vars"].items()


def test_kueue_gets_a_job_of_fixed_size():
    job = only(overlay("h100x8"), "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "crucible"
    spec = job["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in spec
    for group in spec["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"]


def test_the_endpoint_s_head_keeps_its_state_outside():
    for name in OVERLAYS:
        options = cluster_specs(overlay(name))["endpoint"]["gcsFaultToleranceOptions"]
        assert options["redisAddress"]
        assert set(options["redisPassword"]) == {"valueFrom"}


def test_the_pod_isolator_is_declared_and_gets_what_it_needs_and_no_more(tmp_path):
    rendered = with_component(tmp_path, "pod-isolator")
    assert not [
        t for t in pod_templates(overlay("h100")) if t["spec"]["securityContext"]["runAsUser"] == 0
    ]
    roots = [t for t in pod_templates(rendered) if t["spec"]["securityContext"]["runAsUser"] == 0]
    assert len(roots) == 2
    for template in roots:
        (container,) = template["spec"]["containers"]
        assert template["metadata"]["labels"]["crucible/role"] == "sandbox"
        assert template["spec"]["runtimeClassName"] == "gvisor"
        assert container["env"] == [{"name": "CRUCIBLE_ISOLATOR", "value": "pod"}]
        added = container["securityContext"]["capabilities"]
        assert added == {"drop": ["ALL"], "add": ["SETUID", "SETGID", "KILL"]}


def _component(item: Object) -> str:
    return item["metadata"]["labels"]["app.kubernetes.io/component"]


@ALL
@pytest.mark.parametrize("component", ["endpoint", "run", "work"])
def test_a_part_that_is_applied_alone_has_all_it_mounts(name, component):
    applied = [item for item in overlay(name) if _component(item) in ("shared", component)]
    there = {(item["kind"], item["metadata"]["name"]) for item in applied}
    templates = list(pod_templates(applied))
    assert {t["metadata"]["labels"].get("app.kubernetes.io/component") for t in templates} <= {
        component,
        None,
    }
    for template in templates:
        for volume in template["spec"].get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in there
