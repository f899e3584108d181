#!/usr/bin/env python3
"""Writes the Grafana dashboards beside it: `make.py`. What they show stands here; `make.py --check` says whether the files are of it."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROMETHEUS = {"type": "prometheus", "uid": "${prometheus}"}
TEMPO = {"type": "tempo", "uid": "${tempo}"}

# Every query is of one namespace; `.*` also matches where there is none. Workers are told by their address.
NS = 'namespace=~"$namespace"'
AT = NS + ',instance=~"$instance"'
RATE = "[$__rate_interval]"
OURS = 'rpc_method=~"likeness[.]v1[.].+"'


def steps(*limits):
    """Green, then a colour from each limit on."""
    colours = ["orange", "red"] if len(limits) == 2 else ["red"]
    first = [{"color": "green", "value": None}]
    return {"mode": "absolute", "steps": first + [{"color": c, "value": v} for c, v in zip(colours, limits)]}


def panel(title, description, unit, *queries, kind="timeseries", limits=(), width=8, height=8, stack=False, decimals=None):
    """`queries`: pairs of an expression and a legend."""
    targets = [
        {"refId": chr(ord("A") + i), "datasource": PROMETHEUS, "expr": expr, "legendFormat": legend, "range": True}
        for i, (expr, legend) in enumerate(queries)
    ]
    defaults = {"unit": unit, "thresholds": steps(*limits), "color": {"mode": "palette-classic"}}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {}
    if kind == "timeseries":
        style = {"mode": "dashed" if limits else "off"}
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 25 if stack else 8,
            "showPoints": "never",
            "spanNulls": False,
            "thresholdsStyle": style,
            "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        }
        defaults["min"] = 0
        options = {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"], "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area", "textMode": "auto"}
    if kind == "heatmap":
        for target in targets:
            target["format"] = "heatmap"
        options = {"calculate": False, "yAxis": {"unit": unit}, "color": {"mode": "scheme", "scheme": "Blues", "steps": 64}}
    if kind == "table":
        for target in targets:
            target |= {"format": "table", "instant": True, "range": False}
        options = {"showHeader": True, "footer": {"show": False}}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": PROMETHEUS,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
        "size": (width, height),
    }


def stat(title, description, unit, expr, limits=(), decimals=None):
    return panel(title, description, unit, (expr, ""), kind="stat", limits=limits, width=4, height=4, decimals=decimals)


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "size": (24, 1)}


def quantiles(histogram, labels, by=""):
    """Half of them, and all but one in a hundred, are quicker."""
    keys = ", ".join(filter(None, [by, "le"]))
    legend = f"{{{{{by}}}}} " if by else ""
    rate = f"sum by ({keys}) (rate({histogram}_bucket{{{labels}}}{RATE}))"
    return [(f"histogram_quantile({q}, {rate})", f"{legend}{name}") for q, name in ((0.5, "p50"), (0.99, "p99"))]


def variable(name, label, query):
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def source(name, label, kind):
    return {"type": "datasource", "name": name, "label": label, "query": kind, "refresh": 1, "current": {}}


def text_box(name, label, description):
    return {"type": "textbox", "name": name, "label": label, "description": description, "query": "", "current": {"text": "", "value": ""}}


NAMESPACE = variable("namespace", "Namespace", "label_values(likeness_build_info, namespace)")


def dashboard(uid, title, description, panels, variables=(), refresh="30s", since="now-6h"):
    x = y = tallest = 0
    placed = []
    for number, given in enumerate(panels, 1):
        given = dict(given)
        width, height = given.pop("size")
        if x + width > 24:
            x, y, tallest = 0, y + tallest, 0
        placed.append(given | {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        x, tallest = x + width, max(tallest, height)
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["likeness"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": refresh,
        "time": {"from": since, "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "title": "Likeness", "tags": ["likeness"], "asDropdown": True, "keepTime": True, "includeVars": True}],
        "templating": {"list": [source("prometheus", "Prometheus", "prometheus"), NAMESPACE, *variables]},
        "annotations": {"list": []},
        "panels": placed,
    }


def fleet():
    queue = f"max by (kind, class) (likeness_queue_tasks{{{NS}}})"
    wait = f"max by (kind, class) (likeness_queue_oldest_wait_seconds{{{NS}}})"
    return dashboard(
        "likeness-fleet",
        "Likeness: fleet",
        "Is the service well, is the fleet large enough, what fails.",
        [
            stat("Jobs running", "Jobs of which some task has begun.", "none", f'max(likeness_jobs{{{NS},state="running"}})'),
            stat("Jobs queued", "Jobs of which nothing has begun.", "none", f'max(likeness_jobs{{{NS},state="queued"}})'),
            stat("Oldest wait", "How long the task waits that has waited longest.", "s", f"max({wait})", limits=(600, 1800)),
            stat("Workers", "Trainers and samplers that have asked for work lately, or are at it.", "none",
                 f"sum(max by (kind, state) (likeness_workers{{{NS}}}))"),
            stat("Calls that fail", "Share of calls that fail by the service's fault, last five minutes.", "percentunit",
                 f"max(likeness:rpc_server_errors:ratio_rate5m{{{NS}}})", limits=(0.01, 0.05), decimals=2),
            stat("Given up", "Tasks that failed as often as they may, last 30 minutes.", "none",
                 f"sum(likeness:dead_letters:increase30m{{{NS}}}) or vector(0)", limits=(1,), decimals=0),
            row("Queue"),
            panel("Waiting tasks", "Ready for a worker, by kind and class of the tenant's weight.", "none", (queue, "{{kind}} {{class}}"), stack=True),
            panel("Oldest wait", "Above half an hour LikenessQueueWaits fires, but for previews, which may wait for ever.", "s", (wait, "{{kind}} {{class}}"), limits=(1800,)),
            panel("Leases", "Tasks that workers are at.", "none", (f"max by (kind) (likeness_leases{{{NS}}})", "{{kind}}"), stack=True),
            panel("Workers", "By what they do, and whether they are at something.", "none",
                  (f"max by (kind, state) (likeness_workers{{{NS}}})", "{{kind}} {{state}}"), stack=True),
            panel("Attempts that ended", "By outcome; `released` are given back by a drain and count for nothing.", "ops",
                  (f"sum by (kind, outcome) (rate(likeness_attempts_total{{{NS}}}{RATE}))", "{{kind}} {{outcome}}")),
            panel("Leases that ran out, tasks given up", "Within the last 30 minutes.", "none",
                  (f"likeness:lease_expiries:increase30m{{{NS}}}", "{{kind}} lease ran out"),
                  (f"likeness:dead_letters:increase30m{{{NS}}}", "{{kind}} given up"), limits=(3,)),
            panel("Jobs that ended", "By how.", "none",
                  (f"sum by (state) (increase(likeness_jobs_ended_total{{{NS}}}{RATE}))", "{{state}}"), stack=True, width=12),
            panel("Jobs", "That have not ended.", "none", (f"max by (state) (likeness_jobs{{{NS}}})", "{{state}}"), stack=True, width=12),
            row("Calls"),
            panel("Calls", "Of all services, by how they ended.", "reqps",
                  (f"sum by (rpc_response_status_code) (rate(rpc_server_call_duration_seconds_count{{{NS},{OURS}}}{RATE}))", "{{rpc_response_status_code}}"), stack=True),
            panel("Slowest calls", "One call in a hundred takes longer. Calls that wait or stream by nature are left out.", "s",
                  (f"likeness:rpc_server_call_duration_seconds:p99_rate5m{{{NS}}}", "{{rpc_method}}"), limits=(1,)),
            panel("Refusals", "By code; these are answers, not failures.", "reqps",
                  (f"sum by (code) (rate(likeness_refusals_total{{{NS}}}{RATE}))", "{{code}}"), stack=True),
            row("Store and bucket"),
            panel("Store", "Time of transactions.", "s", *quantiles("likeness_store_operation_duration_seconds", NS), limits=(0.5,)),
            panel("Bucket", "Time of requests, all roles.", "s", *quantiles("likeness_bucket_operation_duration_seconds", NS, "operation"), limits=(5,)),
            panel("What fails there", "Share of operations that fail.", "percentunit",
                  (f"likeness:store_errors:ratio_rate5m{{{NS}}}", "store"), (f"likeness:bucket_errors:ratio_rate5m{{{NS}}}", "bucket"), limits=(0.01, 0.05)),
            stat("Audit log", "1: it is not what was written.", "none", f"max(likeness_audit_broken{{{NS}}})", limits=(1,), decimals=0),
            stat("Audit log verified", "How long ago it was last found whole.", "s", f"time() - max(likeness_audit_verified_time_seconds{{{NS}}})", limits=(43200, 86400)),
            stat("Audit log entries", "When it was last found whole.", "none", f"max(likeness_audit_entries{{{NS}}})", decimals=0),
            row("Processes"),
            panel("Memory", "Resident, by process.", "bytes",
                  (f"process_resident_memory_bytes{{{NS}}} * on (job, instance) group_left (role) max by (job, instance, role) (likeness_build_info)", "{{role}} {{instance}}")),
            panel("Processors", "Cores in use, by process.", "none",
                  (f"rate(process_cpu_seconds_total{{{NS}}}{RATE}) * on (job, instance) group_left (role) max by (job, instance, role) (likeness_build_info)", "{{role}} {{instance}}")),
            panel("Versions", "Processes of each version; two side by side for long are an upgrade that stopped.", "none",
                  (f"count by (role, version) (likeness_build_info{{{NS}}})", ""), kind="table"),
        ],
    )


def trainers():
    return dashboard(
        "likeness-trainers",
        "Likeness: trainers",
        "What trainers do, how fast, and what holds them up.",
        [
            stat("Steps", "Steps of all packs.", "ops", f"sum(rate(likeness_train_steps_total{{{AT}}}{RATE}))", decimals=2),
            stat("Samples", "Samples through the network and back.", "ops", f"sum(rate(likeness_train_samples_total{{{AT}}}{RATE}))", decimals=2),
            stat("Occupied", "Share of the packs' slots that subjects fill.", "percentunit",
                 f"sum(likeness_pack_subjects{{{AT}}}) / sum(likeness_pack_slots{{{AT}}})", decimals=0),
            stat("Ranks", "Devices that learn.", "none", f"sum(likeness_ranks{{{AT}}})"),
            stat("Loss", "Mean over the trainers of their packs' last step.", "none", f"avg(likeness_train_loss{{{AT}}})", decimals=4),
            stat("Diverged", "Runs whose loss was no number any more, last hour.", "none",
                 f'sum(likeness:subjects_trained:increase1h{{{NS},outcome="diverged"}}) or vector(0)', limits=(1,), decimals=0),
            row("Speed"),
            panel("Steps a second", "Of each trainer's pack.", "ops", (f"rate(likeness_train_steps_total{{{AT}}}{RATE})", "{{instance}}")),
            panel("Samples a second", "Of each trainer.", "ops", (f"rate(likeness_train_samples_total{{{AT}}}{RATE})", "{{instance}}")),
            panel("Time of a step", "All subjects of a pack together.", "s", *quantiles("likeness_train_step_duration_seconds", AT, "instance")),
            panel("Steps by their time", "Every step counts in the bucket of its time.", "s",
                  (f"sum by (le) (increase(likeness_train_step_duration_seconds_bucket{{{AT}}}{RATE}))", "{{le}}"), kind="heatmap"),
            panel("Time of an all-reduce", "Sums over all ranks; trainers of one rank make none.", "s", *quantiles("likeness_all_reduce_duration_seconds", AT, "instance")),
            panel("Share of the all-reduce", "Of the time of steps.", "percentunit",
                  (f"sum by (instance) (rate(likeness_all_reduce_duration_seconds_sum{{{AT}}}{RATE})) / sum by (instance) (rate(likeness_train_step_duration_seconds_sum{{{AT}}}{RATE}))", "{{instance}}"), limits=(0.2,)),
            row("Learning"),
            panel("Loss", "Mean over the pack's subjects of their last step. Subjects come and go, so it jumps; a job's own curve is on the status page.", "none",
                  (f"likeness_train_loss{{{AT}}}", "{{instance}}")),
            panel("Subjects in the pack", "And the room there is.", "none",
                  (f"likeness_pack_subjects{{{AT}}}", "{{instance}} subjects"), (f"likeness_pack_slots{{{AT}}}", "{{instance}} slots")),
            panel("Runs that ended", "By outcome, last hour.", "none", (f"likeness:subjects_trained:increase1h{{{NS}}}", "{{outcome}}"), stack=True),
            row("Machines"),
            panel("GPU memory", "Taken, by whomever, of all there is; above 95 % LikenessGpuMemoryNearFull fires.", "percentunit",
                  (f'sum by (instance, device) (likeness_gpu_memory_bytes{{{AT},state="used"}}) / sum by (instance, device) (likeness_gpu_memory_bytes{{{AT}}})', "{{instance}} {{device}}"), limits=(0.95,)),
            panel("Bucket", "Requests of trainers: photos, checkpoints, embeddings.", "s", *quantiles("likeness_bucket_operation_duration_seconds", AT, "operation"), limits=(5,)),
            panel("Calls to coordinators", "By how they ended.", "reqps",
                  (f"sum by (rpc_response_status_code) (rate(rpc_client_call_duration_seconds_count{{{AT}}}{RATE}))", "{{rpc_response_status_code}}"), stack=True),
        ],
        [variable("instance", "Trainer", f"label_values(likeness_pack_slots{{{NS}}}, instance)")],
    )


def samplers():
    return dashboard(
        "likeness-samplers",
        "Likeness: samplers",
        "What samplers draw, how fast, and what holds them up.",
        [
            stat("Avatars", "Drawn in a minute, all samplers.", "none", f"60 * sum(rate(likeness_images_total{{{AT}}}{RATE}))", decimals=1),
            stat("Under way", "Pictures that are being drawn.", "none", f"sum(likeness_pictures_under_way{{{AT}}})"),
            stat("Waiting", "Render tasks that no sampler has.", "none", f'sum(max by (class) (likeness_queue_tasks{{{NS},kind="render"}}))'),
            stat("Oldest wait", "Of a render task.", "s", f'max(likeness_queue_oldest_wait_seconds{{{NS},kind="render"}})', limits=(600, 1800)),
            stat("Samplers", "That have asked for work lately, or are at it.", "none", f'sum(max by (state) (likeness_workers{{{NS},kind="render"}}))'),
            stat("Drained", "Samplers that have given back their tasks and take no more.", "none", f'sum(likeness_drained{{{AT},kind="render"}})'),
            row("Speed"),
            panel("Avatars a minute", "By sampler.", "none", (f"60 * rate(likeness_images_total{{{AT}}}{RATE})", "{{instance}}"), stack=True),
            panel("Pictures under way", "Those of all tasks that a sampler holds are drawn together.", "none", (f"likeness_pictures_under_way{{{AT}}}", "{{instance}}"), stack=True),
            panel("Steps a second", "Each of all pictures under way.", "ops", (f"rate(likeness_render_step_duration_seconds_count{{{AT}}}{RATE})", "{{instance}}")),
            panel("Time of a step", "All pictures under way together.", "s", *quantiles("likeness_render_step_duration_seconds", AT, "instance")),
            panel("Time of decoding", "From latents to pixels.", "s", *quantiles("likeness_decode_duration_seconds", AT, "instance")),
            panel("Steps by their time", "Every step counts in the bucket of its time.", "s",
                  (f"sum by (le) (increase(likeness_render_step_duration_seconds_bucket{{{AT}}}{RATE}))", "{{le}}"), kind="heatmap"),
            row("Around them"),
            panel("Tasks that ended", "Of samplers, by outcome.", "ops",
                  (f'sum by (kind, outcome) (rate(likeness_attempts_total{{{NS},kind=~"render|assemble|preview"}}{RATE}))', "{{kind}} {{outcome}}")),
            panel("Bucket", "Requests of samplers: embeddings in, avatars out.", "s", *quantiles("likeness_bucket_operation_duration_seconds", AT, "operation"), limits=(5,)),
            panel("Calls to coordinators", "By how they ended.", "reqps",
                  (f"sum by (rpc_response_status_code) (rate(rpc_client_call_duration_seconds_count{{{AT}}}{RATE}))", "{{rpc_response_status_code}}"), stack=True),
        ],
        [variable("instance", "Sampler", f"label_values(likeness_pictures_under_way{{{NS}}}, instance)")],
    )


def tenants():
    by_class = [("standard", "of the default weight"), ("heavy", "of more")]
    waits = [
        stat(f"Oldest wait: {name}", f"Of tenants {what}.", "s", f'max(likeness_queue_oldest_wait_seconds{{{NS},class="{name}",kind!="preview"}})', limits=(600, 1800))
        for name, what in by_class
    ]
    tasks = [
        stat(f"Waiting: {name}", f"Tasks of tenants {what}.", "none", f'sum(max by (kind) (likeness_queue_tasks{{{NS},class="{name}",kind!="preview"}}))')
        for name, what in by_class
    ]
    calls = f"rate(rpc_server_call_duration_seconds_count{{{NS},"
    return dashboard(
        "likeness-tenants",
        "Likeness: tenants",
        "Whether tenants are served as their weights say. Metrics know classes of weight, never a tenant: names are in the audit log alone.",
        [
            *(one | {"size": (6, 4)} for one in waits + tasks),
            row("Fairness"),
            panel("Oldest wait by class", "A heavier class should wait no longer than a lighter one with as much in the queue.", "s",
                  (f'max by (class) (likeness_queue_oldest_wait_seconds{{{NS},kind!="preview"}})', "{{class}}"), limits=(1800,), width=12),
            panel("Waiting tasks by class", "Of all kinds but previews.", "none", (f'sum by (class) (max by (kind, class) (likeness_queue_tasks{{{NS},kind!="preview"}}))', "{{class}}"), stack=True, width=12),
            row("What tenants ask for"),
            panel("Jobs", "That have not ended.", "none", (f"max by (state) (likeness_jobs{{{NS}}})", "{{state}}"), stack=True),
            panel("Submitted and cancelled", "Calls that were answered.", "reqps",
                  (f'sum by (rpc_method) ({calls}rpc_method=~"likeness[.]v1[.]Avatars/(PutSubject|SubmitJob|CancelJob|ForgetSubject)",rpc_response_status_code="OK"}}{RATE}))', "{{rpc_method}}")),
            panel("Refusals", "By code: a tenant's limits are `quota_exceeded`.", "reqps",
                  (f"sum by (code) (rate(likeness_refusals_total{{{NS}}}{RATE}))", "{{code}}"), stack=True),
            panel("Photos received", "Bytes of uploads.", "Bps", (f"sum(rate(likeness_upload_bytes_total{{{NS}}}{RATE}))", "photos")),
            panel("Watches", "Jobs that are being watched.", "none", (f"sum(likeness_watches{{{NS}}})", "watches")),
            panel("Reads", "Calls that look at jobs and subjects or download.", "reqps",
                  (f'sum by (rpc_method) ({calls}rpc_method=~"likeness[.]v1[.]Avatars/(Get|List|Download|Watch).*"}}{RATE}))', "{{rpc_method}}"), stack=True),
        ],
    )


def traces(title, description, query, kind, width, height):
    target = {"refId": "A", "datasource": TEMPO, "queryType": "traceql", "query": query, "limit": 20, "tableType": "traces"}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": TEMPO,
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {},
        "targets": [target],
        "size": (width, height),
    }


def job():
    return dashboard(
        "likeness-job",
        "Likeness: one job's life",
        "A job from the client's submit to its last avatar. Give its id above, then the trace's id from the table.",
        [
            traces("Traces of the job", "The trace that began with its submit. A click opens it; its id goes into the field above.",
                   '{ span.likeness.job.id = "$job" }', "table", 24, 6),
            traces("The trace", "Submit, the coordinator's transactions, training, drawing, the contact sheet. Steps of a pack, which other jobs share, lie in the pack's own trace, to which the training links.",
                   "$trace", "traces", 24, 16),
            row("What the fleet did meanwhile"),
            panel("Loss", "Mean over the pack of each trainer: metrics know no jobs. The job's own curve: the status page, or the call GetLosses.", "none",
                  (f"likeness_train_loss{{{NS}}}", "{{instance}}")),
            panel("Steps a second", "Of each trainer's pack.", "ops", (f"rate(likeness_train_steps_total{{{NS}}}{RATE})", "{{instance}}")),
            panel("Avatars a minute", "Of each sampler.", "none", (f"60 * rate(likeness_images_total{{{NS}}}{RATE})", "{{instance}}")),
            panel("Waiting tasks", "Whether the job had to wait for others.", "none", (f"max by (kind, class) (likeness_queue_tasks{{{NS}}})", "{{kind}} {{class}}"), stack=True),
            panel("Attempts that ended", "By outcome.", "ops", (f"sum by (kind, outcome) (rate(likeness_attempts_total{{{NS}}}{RATE}))", "{{kind}} {{outcome}}")),
            panel("Store and bucket", "One operation in a hundred takes longer.", "s",
                  (f"likeness:store_operation_duration_seconds:p99_rate5m{{{NS}}}", "store"),
                  (f"max by (operation) (likeness:bucket_operation_duration_seconds:p99_rate5m{{{NS}}})", "bucket {{operation}}")),
        ],
        [source("tempo", "Tempo", "tempo"), text_box("job", "Job", "The job's id, as `likeness list` shows it"), text_box("trace", "Trace", "A trace's id, from the table")],
        since="now-1h",
    )


def main():
    stale = []
    for name, made in {"fleet": fleet(), "job": job(), "trainers": trainers(), "samplers": samplers(), "tenants": tenants()}.items():
        path, text = HERE / f"{name}.json", json.dumps(made, indent=2, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"not what make.py makes: {', '.join(stale)}; run deploy/dashboards/make.py")


if __name__ == "__main__":
    main()
