"""The dashboard asks for metrics that there are, from ports that are scraped."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import ray

from tests.cluster.kuberay.rendered import KUBERAY, ROOT, cluster_specs, groups, only, overlay

DASHBOARD = json.loads((KUBERAY / "components" / "monitoring" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
METRIC = re.compile(r"\b((?:ray|autoscaler|crucible)_[a-z0-9_]+)\b")


def _metrics() -> set[str]:
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    variables = [variable["query"] for variable in DASHBOARD["templating"]["list"]]
    return set(METRIC.findall(" ".join([*queries, *variables])))


@cache
def _ray_s_own_dashboards() -> str:
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    return "".join(path.read_text() for path in folder.glob("*_dashboard_panels.py"))


@cache
def _our_metrics() -> set[str]:
    code = "".join(path.read_text() for path in (ROOT / "services").rglob("*.py"))
    return set(re.findall(r'"(crucible_[a-z_]+)"', code))


@pytest.mark.parametrize("metric", sorted(_metrics()))
def test_every_metric_of_the_dashboard_exists(metric):
    if metric.startswith("crucible_"):
        assert re.sub(r"_(total|bucket|count|sum)$", "", metric) in _our_metrics()
    else:
        assert re.search(rf"\b{metric}\b", _ray_s_own_dashboards())


def test_panels_do_not_lie_on_each_other_and_each_asks_something():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert place["x"] + place["w"] <= 24
    assert all(target["expr"] for panel in PANELS for target in panel["targets"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_prometheus_scrapes_ports_that_ray_s_pods_have():
    objects = overlay("h100")
    monitor = only(objects, "PodMonitor", "crucible")["spec"]
    scraped = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    heads = set()
    for spec in cluster_specs(objects).values():
        for group in groups(spec):
            (container,) = group["template"]["spec"]["containers"]
            ports = {port["name"] for port in container["ports"]}
            assert "metrics" in ports
            labels = group["template"]["metadata"]["labels"]
            assert monitor["selector"]["matchLabels"].items() <= labels.items()
            heads |= ports
    assert scraped <= heads


def test_the_dashboard_reaches_grafana_by_its_label():
    shipped = only(overlay("h100"), "ConfigMap", "crucible-dashboard")
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(shipped["data"]["dashboard.json"]) == DASHBOARD


def test_the_gateway_is_read_with_a_key_where_serve_listens():
    objects = overlay("h100")
    (read,) = only(objects, "PodMonitor", "crucible-endpoint")["spec"]["podMetricsEndpoints"]
    assert read["authorization"]["credentials"] == {"name": "crucible-metrics-key", "key": "key"}
    for group in cluster_specs(objects)["endpoint"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert read["port"] in {port["name"] for port in container["ports"]}
