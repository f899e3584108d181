#!/usr/bin/env python3
"""Runs a fleet, an `up` and a Prometheus that scrapes them, makes things happen, and has resolve.py look: `metrics.py LIKENESS`."""

import json
import re
import signal
import sys

import resolve
from fleet import Fleet, accepted, ended, free_port, get, until


def serve_metrics(fleet, name, *arguments, **settings):
    """Starts a role and waits until it serves metrics; where."""
    address = f"127.0.0.1:{free_port()}"
    fleet.start(name, *arguments, METRICS_LISTEN=address, **settings)
    until(f"the metrics of {name}", lambda: get(f"http://{address}/metrics"))
    return address


def prometheus(fleet, addresses):
    """Scrapes every second; evaluates the rules as often."""
    port, rules = free_port(), (resolve.ALERTS / "likeness.rules.yaml").read_text()
    (fleet.path / "rules.yaml").write_text(re.sub(r"interval: \d+s", "interval: 1s", rules))
    (fleet.path / "prometheus.yaml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yaml]\n"
        f"scrape_configs: [{{job_name: likeness, static_configs: [{{targets: {json.dumps(addresses)}}}]}}]\n"
    )
    files = [f"--config.file={fleet.path}/prometheus.yaml", f"--storage.tsdb.path={fleet.path}/tsdb"]
    fleet.spawn("prometheus", ["prometheus", *files, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"], {})
    url = f"http://127.0.0.1:{port}"
    until("Prometheus", lambda: get(f"{url}/-/ready"))
    return url


def main():
    with Fleet(sys.argv[1]) as fleet:
        bucket = {"BUCKET": f"file://{fleet.path}/bucket"}
        addresses = [serve_metrics(fleet, "desk", "coordinator", "--json", **bucket)]
        ours = {"SERVER": fleet.said("desk", r"(http://[\d.:]+)"), "TOKEN_FILE": fleet.path / "desk/token", **bucket}
        addresses.append(serve_metrics(fleet, "trainer", "trainer", "--ranks", "2", "--name", "trainer", **ours))
        addresses.append(serve_metrics(fleet, "sampler", "sampler", "--name", "sampler", **ours))
        addresses.append(serve_metrics(fleet, "up", "up", "--json"))
        alone = {"SERVER": fleet.said("up", r'"server": "(http://[^"]+)"'), "TOKEN_FILE": fleet.path / "up/token"}
        url = prometheus(fleet, addresses)
        scraped = resolve.Prometheus(url)

        # One that goes on and is watched, while others come to their end or are refused.
        long = accepted(fleet, ours, "bruno", 100_000)
        fleet.spawn("watch", [fleet.program, "--state", fleet.path / "client", "watch", long], ours)
        # Its photos are in the bucket: that has to be counted before the next upload, for a rate.
        puts = f'likeness_bucket_operation_duration_seconds_count{{instance="{addresses[0]}"}}'
        until("the time of an upload", lambda: scraped.query(puts))
        for where, name in ((ours, "ada"), (alone, "cleo")):
            ended(fleet, where, accepted(fleet, where, name, 4))
        pointless, nobody = fleet.path / "pointless.toml", fleet.path / "nobody"
        pointless.write_text('prompts = ["a photo"]\n')
        fleet.submit(ours, "ada", 4, pointless)
        nobody.write_text("nobodys-token")
        fleet.client({**ours, "TOKEN_FILE": nobody}, "list")
        # The one that goes on is alone by now, so that its ranks add up: what they take has to be seen twice for a rate.
        sums = "rate(likeness_all_reduce_duration_seconds_count[2m]) > 0"
        until("the time of an all-reduce", lambda: scraped.query(sums))
        # Its worker dies in the middle: the lease runs out, and there is no second attempt.
        fleet.processes["trainer"].send_signal(signal.SIGKILL)
        until("the job to fail", lambda: '"failed"' in fleet.client(ours, "show", long, "--json").stdout)
        if resolve.main(url):
            sys.exit("not every query finds what it names")


if __name__ == "__main__":
    main()
