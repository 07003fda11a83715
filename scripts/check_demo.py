"""Does the demo's outcome hold what the demo claims? Says so line by line; exits 1 if not."""

import json
import sys
from pathlib import Path

REFINEMENT, POST_PROCESSING = "6", "8"
NYQUIST_A = 14.0
"""Of the data set: 7 Å a pixel."""
FAR_TOO_COARSE_A = 35.0


def main(path: str) -> int:
    workflow = json.loads(Path(path).read_text())
    steps = {step["id"]: step for step in workflow["steps"]}
    runs = [run for run in workflow["runs"] if run["step"] == REFINEMENT]
    preempted = [run for run in runs if run["end_reason"] == "PREEMPTED"]
    completed = [run for run in runs if run["end_reason"] == "COMPLETED"]
    resolution_a = (steps[POST_PROCESSING]["progress"] or {}).get("resolution_a") or 0.0
    resumed_from = int(completed[-1]["resumed_from"] or 0) if completed else 0
    found = [
        _claim(workflow["state"] == "COMPLETED", f"the workflow is {workflow['state']}"),
        _claim(
            all(step["state"] == "COMPLETED" for step in steps.values()),
            f"{sum(step['state'] == 'COMPLETED' for step in steps.values())} of {len(steps)} steps",
        ),
        _claim(bool(preempted), f"the refinement lost its nodes {len(preempted)} time(s)"),
        _claim(resumed_from >= 1, f"it went on from iteration {resumed_from}, not from the start"),
        _claim(
            NYQUIST_A <= resolution_a <= FAR_TOO_COARSE_A,
            f"the post-processed map has {resolution_a:.1f} Å",
        ),
    ]
    return 0 if all(found) else 1


def _claim(holds: bool, text: str) -> bool:
    print(f"{'ok  ' if holds else 'FAIL'} {text}")
    return holds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
