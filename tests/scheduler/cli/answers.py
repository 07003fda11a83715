"""Answers of the broker, word for word, as the command line expects them."""

from typing import Any

Json = dict[str, Any]

SCHEMA = "scsched/v1"

PING: Json = {
    "schema": SCHEMA,
    "version": "0.1.0",
    "pid": 4711,
    "uid": 1000,
    "deployment": "d-3f2a",
    "started_at": "2026-11-22T10:00:00Z",
    "ticks": 812,
}

RUNNING: Json = {
    "id": 42,
    "name": "empiar-10025",
    "user": "alice",
    "uid": 1000,
    "state": "RUNNING",
    "market": "spot",
    "priority": 0,
    "steps_total": 10,
    "steps_done": 6,
    "steps_failed": 0,
    "now": {"step": "311", "label": "Refine3D", "state": "RUNNING"},
    "progress": {"iteration": 14, "of": 25, "resolution_a": 3.9, "seconds_per_iteration": 61.5},
    "pool": "gpu-spot",
    "nodes": 2,
    "run_s": 4360.0,
    "usd": 12.34,
    "reason": None,
    "reason_text": None,
    "tags": {"owner": "alice"},
    "submitted_at": "2026-11-22T08:00:00Z",
    "ended_at": None,
}
PENDING: Json = {
    **RUNNING,
    "id": 44,
    "name": "test-apoferritin",
    "user": "chen",
    "uid": 1002,
    "state": "PENDING",
    "market": "on-demand",
    "steps_total": 7,
    "steps_done": 0,
    "now": None,
    "progress": None,
    "pool": None,
    "nodes": 0,
    "run_s": 0.0,
    "usd": 0.0,
    "reason": "Resources",
    "reason_text": "2 of 2 nodes of pool cpu are busy",
    "tags": {},
}
GATED: Json = {
    **PENDING,
    "id": 45,
    "name": "picking",
    "user": "alice",
    "uid": 1000,
    "state": "ATTENTION",
    "steps_done": 3,
    "reason": "Interactive",
    "reason_text": "Pick particles in Scipion; then `scsched release 45.150`",
}
WORKFLOWS: Json = {"schema": SCHEMA, "items": [RUNNING, GATED, PENDING]}

STEP: Json = {
    "id": "311",
    "workflow": 42,
    "label": "Refine3D",
    "protocol": "ProtRelionRefine3D",
    "class": "gpu-bound",
    "state": "RUNNING",
    "reason": None,
    "reason_text": None,
    "attempts": 2,
    "progress": {"iteration": 14, "of": None, "resolution_a": 3.9, "seconds_per_iteration": 61.5},
    "run_s": 4360.0,
    "usd": 7.9,
    "pool": "gpu-spot",
    "nodes": 2,
    "gate": "",
    "demand": {"shape": "split-halves", "ranks": 5, "threads": 4, "gpus": 4, "memory_gib": 6.5},
    "parents": ["290"],
    "started_at": "2026-11-22T09:00:00Z",
    "ended_at": None,
    "last_end": {"reason": "PREEMPTED", "exit_code": None, "detail": "gpu-spot took n7 back"},
}
WAITING_STEP: Json = {
    **STEP,
    "id": "377",
    "label": "PostProcess",
    "protocol": "ProtRelionPostprocess",
    "class": "light",
    "state": "PENDING",
    "reason": "Dependency",
    "reason_text": "waits for step 311",
    "attempts": 0,
    "progress": None,
    "run_s": 0.0,
    "usd": 0.0,
    "pool": None,
    "nodes": 0,
    "parents": ["311"],
    "started_at": None,
    "last_end": None,
}
FAILED_STEP: Json = {
    **STEP,
    "id": "290",
    "label": "Class3D",
    "protocol": "ProtRelionClassify3D",
    "state": "FAILED",
    "pool": None,
    "nodes": 0,
    "parents": [],
    "ended_at": "2026-11-22T09:00:00Z",
    "last_end": {
        "reason": "FAILED",
        "exit_code": 1,
        "detail": "ERROR: \nFailed to read particles.star\n\x1b[31mfile not found\x1b[0m",
    },
}

LOST_RUN: Json = {
    "id": 70,
    "workflow": 42,
    "step": "311",
    "attempt": 1,
    "state": "ENDED",
    "pool": "gpu-spot",
    "market": "spot",
    "nodes": 2,
    "ranks": 5,
    "threads": 4,
    "started_at": "2026-11-22T09:00:00Z",
    "running_at": "2026-11-22T09:01:00Z",
    "ended_at": "2026-11-22T09:40:00Z",
    "end_reason": "PREEMPTED",
    "exit_code": None,
    "detail": "gpu-spot took n7 back",
    "resumed_from": None,
    "iterations_done": 9,
    "iterations_lost": 1,
    "usd": 3.95,
    "hours": 1.3,
}
LIVE_RUN: Json = {
    **LOST_RUN,
    "id": 71,
    "attempt": 2,
    "state": "RUNNING",
    "ended_at": None,
    "end_reason": None,
    "detail": "",
    "resumed_from": 9,
    "iterations_done": 5,
    "iterations_lost": 0,
}
NODE: Json = {
    "id": 7,
    "name": "n7",
    "workflow": 42,
    "pool": "gpu-spot",
    "provider": "aws",
    "provider_id": "i-0123456789abcdef0",
    "type": "g5.4xlarge",
    "zone": "eu-west-1a",
    "market": "spot",
    "state": "UP",
    "cores": 8,
    "memory_gib": 61.5,
    "usd_per_hour": 1.61,
    "run": 71,
    "launched_at": "2026-11-22T08:58:00Z",
    "notice_deadline": None,
    "ended_at": None,
    "end_reason": None,
    "usd": 2.1,
}
EVENT: Json = {
    "id": 901,
    "at": "2026-11-22T09:38:11Z",
    "workflow": 42,
    "step": "311",
    "run": 70,
    "node": "n7",
    "kind": "node.notice",
    "actor": "broker",
    "text": "will be taken back in 120 s",
}
END_EVENT: Json = {
    **EVENT,
    "id": 902,
    "at": "2026-11-22T10:40:00Z",
    "step": None,
    "run": None,
    "node": None,
    "kind": "workflow.state",
    "text": "COMPLETED",
}

_WITHOUT_COUNT = {key: value for key, value in RUNNING.items() if key != "nodes"}
WORKFLOW: Json = {
    "schema": SCHEMA,
    **_WITHOUT_COUNT,
    "project": "/data/alice/empiar",
    "document_sha256": "9f" * 32,
    "steps": [STEP, WAITING_STEP],
    "runs": [LOST_RUN, LIVE_RUN],
    "nodes": [NODE],
}
STEP_ANSWER: Json = {
    "schema": SCHEMA,
    **STEP,
    "runs": [LOST_RUN, LIVE_RUN],
    "events": [EVENT],
    "paths": {
        "stdout": "/data/alice/empiar/Runs/000311_ProtRelionRefine3D/logs/run.stdout",
        "stderr": "/data/alice/empiar/Runs/000311_ProtRelionRefine3D/logs/run.stderr",
        "job_dir": "/data/alice/empiar/Runs/000311_ProtRelionRefine3D",
        "project": "/data/alice/empiar",
    },
    "why": {"reason": None, "sentence": "runs since 09:41", "detail": ["attempt 2, from it 9"]},
}
SELECT: Json = {"schema": SCHEMA, "items": [{"workflow": 42, "step": None}]}
EVENTS: Json = {"schema": SCHEMA, "items": [EVENT], "last": 901}
ACTIONS: Json = {
    "schema": SCHEMA,
    "items": [{"workflow": 42, "step": None, "was": "RUNNING", "now": "CANCELLED"}],
}
HIST: Json = {
    "schema": SCHEMA,
    "items": [
        {
            **LOST_RUN,
            "workflow_name": "empiar-10025",
            "protocol": "ProtRelionRefine3D",
            "user": "alice",
        }
    ],
}
POOL: Json = {
    "pool": "gpu-spot",
    "provider": "local",
    "market": "spot",
    "max_nodes": 8,
    "up": 2,
    "starting": 1,
    "idle": 0,
    "usd_per_hour": 1.61,
    "classes": ["gpu-bound"],
    "types": ["g5.4xlarge", "g4dn.4xlarge"],
    "zones": ["eu-west-1a"],
    "held": None,
}
AUDIT: Json = {
    "schema": SCHEMA,
    "ok": False,
    "nodes": 2,
    "usd_per_hour": 3.22,
    "unpriced": 1,
    "items": [
        {
            "kind": "unknown",
            "node": None,
            "provider": "aws",
            "provider_id": "i-0123456789abcdef0",
            "sentence": "i-0123456789abcdef0 runs and no record knows it",
            "fixed": False,
        }
    ],
}
NODES: Json = {"schema": SCHEMA, "items": [NODE], "pools": [POOL]}
RECEIPT: Json = {
    "schema": SCHEMA,
    "workflow": 42,
    "lines": [
        {
            "step": "311",
            "label": "Refine3D",
            "attempt": 1,
            "pool": "gpu-spot",
            "market": "spot",
            "nodes": 2,
            "hours": 1.3,
            "iterations_done": 9,
            "iterations_lost": 1,
            "end_reason": "PREEMPTED",
            "usd": 3.95,
        }
    ],
    "boot_usd": 0.04,
    "boot_hours": 0.02,
    "boot_without_run_usd": 0.01,
    "boot_without_run_hours": 0.005,
    "idle_usd": 0.21,
    "idle_hours": 0.13,
    "total_usd": 4.17,
    "total_hours": 1.435,
    "lost_iterations": 1,
    "wall_s": 5400.0,
}
CONFIG: Json = {
    "schema": SCHEMA,
    "items": [{"key": "times.tick_s", "value": "0.5", "origin": "default"}],
}
PLAN_LINE: Json = {
    "step": "311",
    "label": "Refine3D",
    "protocol": "ProtRelionRefine3D",
    "class": "gpu-bound",
    "shape": "split-halves",
    "pool": "gpu-spot",
    "market": "spot",
    "nodes": 2,
    "ranks": 5,
    "threads": 4,
    "memory_gib": 6.5,
    "usd_per_hour": 3.22,
}
SUBMITTED: Json = {
    "schema": SCHEMA,
    "id": 46,
    "name": "empiar",
    "project": None,
    "steps": 1,
    "warnings": [{"where": "$[0].customMask", "problem": "unknown field, kept as it is"}],
    "plan": [PLAN_LINE],
}
NOT_FOUND: Json = {
    "schema": SCHEMA,
    "error": {
        "code": "not_found",
        "message": "99: no such workflow",
        "hint": "see scsched queue -a",
        "exit": 102,
    },
}
