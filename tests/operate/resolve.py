#!/usr/bin/env python3
"""Holds alerts, rules and dashboards against what a real Prometheus has scraped: `resolve.py PROMETHEUS_URL`, in the root of the project.

Every query must be understood, every selector in it must find a series, every label that it groups by must be on one of its series, and
every query of a panel must answer something, with the labels of its legend. What cannot be met here stands in ABSENT with the reason;
an entry that is met after all is a failure as well. Every alert has its section in the runbook, its two tests, and nothing else has.
"""

import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

PATIENCE = 90  # seconds until everything was scraped and recorded
ALERTS, RUNBOOK = Path("deploy/alerts"), Path("deploy/runbook.md")

# Selectors that find nothing in this test, and why.
ABSENT = {
    r'likeness_gpu_memory_bytes(\{.*\})?': "there is no GPU",
    r'likeness:refusals:increase30m\{code="storage_full"\}': "the disk is not full",
    r'likeness_store_operation_duration_seconds_count\{outcome="error"\}': "the store does not fail",
    r'likeness_bucket_operation_duration_seconds_count\{outcome="error"\}': "the bucket does not fail",
    r'likeness:rpc_server_calls:rate5m\{.*INTERNAL.*\}': "the service does not fail",
    r'rpc_client_call_duration_seconds_count\{.*UNAVAILABLE.*\}': "no worker is cut off",
    r'likeness:subjects_trained:increase1h\{.*outcome=(~"failed\|diverged"|"diverged")\}': "no training fails by itself",
    r'likeness:attempts:increase30m\{outcome="failed"\}': "no attempt fails by itself",
}
# Labels that only Kubernetes has.
KUBERNETES = {"namespace"}

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[a-zA-Z_:][a-zA-Z0-9_:]*|\[[^\]]*\]|=~|!~|!=|==|[0-9.]+[a-z]*|[^\s]')
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "offset", "bool", "Inf", "NaN"}


def parts(query):
    """The selectors of a query, and the labels that it groups by."""
    tokens, selectors, labels, at = TOKEN.findall(query), [], set(), 0
    while at < len(tokens):
        token, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        if token in GROUPING and following == "(":
            end = tokens.index(")", at)
            labels |= {label for label in tokens[at + 2 : end] if label != ","}
            at = end
        elif re.match(r"[a-zA-Z_:]", token) and token not in WORDS | GROUPING and following not in GROUPING | {"("}:
            end = tokens.index("}", at) if following == "{" else at
            selectors.append("".join(tokens[at : end + 1]))
            at = end
        at += 1
    return selectors, labels


class Prometheus:
    def __init__(self, url):
        self.url = url

    def get(self, path, **parameters):
        query = urllib.parse.urlencode({key.replace("match", "match[]"): value for key, value in parameters.items()})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def labels(self, selector):
        """All labels of all series that a selector finds; none: it finds no series."""
        return {label for series in self.get("series", match=selector) for label in series}

    def query(self, expression):
        return self.get("query", query=expression)["result"]


def resolved(query):
    """As Grafana sends it when everything is chosen."""
    for name, value in {"$namespace": ".*", "$instance": ".*", "$__rate_interval": "2m"}.items():
        query = query.replace(name, value)
    return query


def panels():
    """Where it stands, query and legend of every query of every dashboard."""
    for path in sorted(Path("deploy/dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                selector = re.fullmatch(r"label_values\((.*), *\w+\)", variable["query"]["query"])[1]
                yield f"{path.stem}: ${variable['name']}", selector, ""
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                if target["datasource"]["type"] == "prometheus":
                    yield f"{path.stem}: {panel['title']}", target["expr"], target["legendFormat"]


def rules(prometheus):
    groups = prometheus.get("rules")["groups"]
    return [rule | {"group": group["name"]} for group in groups for rule in group["rules"]]


def absent(selector):
    return next((pattern for pattern in ABSENT if re.fullmatch(pattern, re.sub(r'namespace=~"\.\*",?|instance=~"\.\*",?', "", selector))), None)


def wrong_with(prometheus, query, met):
    """What is wrong with a query's names; `met` collects which entries of ABSENT found something or were needed."""
    selectors, groups = parts(query)
    found = set()
    for selector in selectors:
        labels, excuse = prometheus.labels(selector), absent(selector)
        if excuse:
            met.setdefault(excuse, bool(labels))
        if not labels and not excuse:
            yield f"no series is {selector}"
        found |= labels | ({"device", "state", "outcome", "instance", "job"} if excuse else set())
    for label in groups - found - KUBERNETES - {"le"}:
        yield f"no series of it has the label {label}"


def faults(prometheus):
    met = {}
    for rule in rules(prometheus):
        if rule["health"] == "err":
            yield f"{rule['name']}: {rule['lastError']}"
        yield from (f"{rule['name']}: {wrong}" for wrong in wrong_with(prometheus, rule["query"], met))
    for place, query, legend in panels():
        query = resolved(query)
        yield from (f"{place}: {wrong}" for wrong in wrong_with(prometheus, query, met))
        try:
            answers = prometheus.query(query)
        except ValueError as error:
            yield f"{place}: {error}: {query}"
            continue
        if not answers and not any(absent(selector) for selector in parts(query)[0]):
            yield f"{place} is empty: {query}"
        for label in re.findall(r"\{\{(\w+)\}\}", legend) if answers else []:
            if not any(label in answer["metric"] for answer in answers):
                yield f"{place}: no answer has the label {label} of its legend"
    for pattern, why in ABSENT.items():
        if pattern not in met:
            yield f"ABSENT has {pattern}, which no query asks for"
        elif met[pattern]:
            yield f"ABSENT has {pattern} since {why}, but it was found"


def alerts(prometheus):
    """Every alert has its section, its tests and what Prometheus needs, and nothing else has."""
    known = [rule for rule in rules(prometheus) if rule["type"] == "alerting"]
    names = {rule["name"] for rule in known}
    sections = set(re.findall(r"^### (Likeness\w+)$", RUNBOOK.read_text(), re.M))
    if sections != names:
        yield f"alerts without a section in {RUNBOOK}, or the other way round: {sorted(sections ^ names)}"
    tests = (ALERTS / "likeness.tests.yaml").read_text()
    for which in ("fires", "stays quiet"):
        tested = set(re.findall(rf'name: "(\w+) {which}: ', tests))
        if tested != names:
            yield f"alerts without a test that one {which}, or the other way round: {sorted(tested ^ names)}"
    for rule in known:
        annotations, labels = rule["annotations"], rule["labels"]
        if annotations.get("runbook_url") != f"deploy/runbook.md#{rule['name'].lower()}":
            yield f"{rule['name']}: its runbook_url is {annotations.get('runbook_url')}"
        if labels.get("severity") not in ("critical", "warning") or not {"summary", "description"} <= annotations.keys():
            yield f"{rule['name']} has no severity, summary or description"


def main(url):
    """What is wrong, which is printed as well."""
    prometheus, end = Prometheus(url), time.monotonic() + PATIENCE
    nonsense = 'sum by (knd) (likeness_queue_tasks{class="ligth"}) / likeness_queue_task'
    if len([*wrong_with(prometheus, nonsense, {})]) != 3:
        sys.exit("what names nothing is not noticed")
    found = [*faults(prometheus)]
    while found and time.monotonic() < end:
        time.sleep(2)
        found = [*faults(prometheus)]
    found += alerts(prometheus)
    for fault in dict.fromkeys(found):
        print(fault, file=sys.stderr)
    queries = sum(1 for _ in panels())
    print(f"{len(rules(prometheus))} rules and {queries} queries of dashboards, {len(found)} faults")
    return found


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1])))
