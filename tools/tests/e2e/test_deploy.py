"""What is deployed beside the daemon speaks of things that exist: metrics in alerts and dashboard, flags and settings."""

import json
import re

import pytest
import yaml

from bucketsd import REPOSITORY, run

DEPLOY = REPOSITORY / "deploy"


def exported(server):
    """The names of /metrics, also of those that have no sample yet."""
    status, text = server.ask("/metrics")
    assert status == 200
    names = set()
    for kind, name in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        names.add(kind)
        if name == "histogram":
            names |= {kind + suffix for suffix in ("_bucket", "_sum", "_count")}
    return names


def expressions():
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]
    dashboard = json.loads((DEPLOY / "grafana/dashboards/buckets.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]


def test_alerts_and_dashboard_name_metrics_that_exist(server):
    names = exported(server)
    for where, expression in expressions():
        used = set(re.findall(r"\b(?:buckets|s3)_[a-z0-9_]+", expression))
        assert used or "up{" in expression, where
        assert used <= names, f"{where} names {used - names}"


def test_alerts_say_what_to_do():
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"]["summary"], rule["alert"]


def test_the_sample_configuration_is_understood():
    """It names disks that are not here; everything else in it must be right."""
    done = run("bucketsd", "--config", DEPLOY / "node.toml", environment={"HOME": "/nonexistent"})
    assert done.returncode == 1 and "not understood" not in done.stderr, done.stderr
    assert "/mnt/disk" in done.stderr or "credentials" in done.stderr, done.stderr


@pytest.mark.parametrize("path", ["container/compose.yaml", "prometheus/prometheus.yml", "grafana/provisioning/datasources/prometheus.yml"])
def test_files_are_well_formed(path):
    assert yaml.safe_load((DEPLOY / path).read_text())


def test_the_container_may_use_io_uring():
    profile = json.loads((DEPLOY / "container/seccomp.json").read_text())
    forbidden = {name for rule in profile["syscalls"] if rule["action"] != "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert not {name for name in forbidden if name.startswith("io_uring")} and "mount" in forbidden
