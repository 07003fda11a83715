"""Fuzzes the workflow reader with atheris: whatever the bytes, a workflow or one `WorkflowError`.

    python tests/faults/fuzz_loader.py [SECONDS]        60 seconds without an argument

Exit 0: nothing else escaped and no input took longer than 10 s. Exit 0 with a word where atheris is
absent. A failing input is written to the current directory by libFuzzer.
"""

import json
import sys
import tempfile
from pathlib import Path

SLOWEST_S = 10
CORPUS = Path(__file__).parents[3] / "shared" / "workflows"

try:
    import atheris
except ImportError:
    print("atheris is not installed: nothing was fuzzed")
    sys.exit(0)

with atheris.instrument_imports(include=["scsched.steps"]):
    from scsched.steps.errors import WorkflowError
    from scsched.steps.scipion import read_workflow, scipion_document, to_json


def try_one(raw: bytes) -> None:
    """One input; the first byte chooses the kind of file."""
    filename = "w.json.template" if raw[:1] == b"t" else "w.json"
    try:
        workflow = read_workflow(raw[1:], filename=filename)
    except WorkflowError as exc:
        if "\n" in str(exc):
            raise AssertionError(f"two lines: {exc!r}") from exc
        return
    json.dumps(to_json(workflow))
    scipion_document(workflow)


def seed(folder: Path) -> None:
    """Small whole files to start from."""
    step = {"object.className": "ProtImportParticles", "object.id": "2", "filesPath": "~a|b|0|c~"}
    child = {
        "object.className": "ProtRelionClassify2D",
        "object.id": "5",
        "inputParticles": "2.outputParticles",
        "inputProtocols": ["2"],
        "_prerequisites": "2",
        "gpuList": "0,1:2-3",
    }
    (folder / "pair").write_bytes(b"j" + json.dumps([step, child]).encode())
    (folder / "wrap").write_bytes(b"j" + json.dumps({"content": [step]}).encode())
    (folder / "template").write_bytes(b"tText\n[\n{" + b'"a": ~T|%(X)s|3|b~}]')
    small = sorted(CORPUS.glob("**/*.json*"), key=lambda path: path.stat().st_size)[:12]
    for path in small:
        (folder / path.name).write_bytes(path.name[-1:].encode() + path.read_bytes())


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as folder:
        seed(Path(folder))
        options = [f"-max_total_time={seconds}", f"-timeout={SLOWEST_S}", "-max_len=20000"]
        atheris.Setup([sys.argv[0], *options, folder], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
