"""Fuzz the decoders with atheris: `python -m tests.fuzz run [TARGET...] --minutes 60`, `... seed`, `... list`.

Each target runs in a process of its own, for an equal share of the minutes, from the corpus that is kept beside this
file; new inputs that reach new code go to a working folder (`--work`), and only what was *found* (an exception that is
not ours, memory beyond the limit, 20 s for one input) is to be put into the corpus by hand, with the fix.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RSS_MB = 2048
"""Memory at which the process ends with a finding; torch, Flower and gRPC take a quarter of it before any input."""
SLOWEST = 20
"""Seconds for one input."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("command", choices=("run", "seed", "list", "one"))
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--work", type=Path, default=Path(".fuzz"))
    parser.add_argument("--json", type=Path, help="add what was run to this file")
    given = parser.parse_args()
    if given.command == "one":
        _fuzz(given.targets[0], given.minutes, given.work)
        return
    from tests.fuzz.targets import TARGETS

    names = given.targets or list(TARGETS)
    if given.command == "list":
        print("\n".join(f"{name}: {(TARGETS[name].decode.__doc__ or '').strip()}" for name in names))
    elif given.command == "seed":
        _seed(names)
    else:
        sys.exit(_run(names, given.minutes, given.work, given.json))


def _seed(names: list[str]) -> None:
    """Put the targets' seeds into the corpus, for a target that has none yet."""
    from tests.fuzz.targets import CORPUS, TARGETS

    for name in names:
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for seed in TARGETS[name].seeds():
            (folder / f"seed-{hashlib.sha256(seed).hexdigest()[:12]}").write_bytes(seed)


def _run(names: list[str], minutes: float, work: Path, results: Path | None) -> int:
    found = 0
    for name in names:
        started, before = time.monotonic(), _artifacts(work, name)
        share = str(minutes / len(names))
        command = [sys.executable, "-m", "tests.fuzz", "one", name, "--minutes", share, "--work", str(work)]
        log = work / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
        new = sorted(_artifacts(work, name) - before)
        found += len(new) or bool(code)
        inputs, seconds = _inputs(log), time.monotonic() - started
        print(f"{name:20} {seconds:6.0f} s {inputs:9,d} inputs  {', '.join(new) or ('ok' if not code else log)}")
        sys.stdout.flush()
        if results is not None:
            _note(results, name, seconds, inputs, len(new))
    return min(found, 1)


def _artifacts(work: Path, name: str) -> set[str]:
    return {str(path) for kind in ("crash", "oom", "timeout") for path in (work / name).glob(f"{kind}-*")}


def _inputs(log: Path) -> int:
    """Read libFuzzer's own count."""
    counts = [line.split(b"\t")[0] for line in log.read_bytes().splitlines() if line.startswith(b"#")]
    return max((int(count[1:]) for count in counts if count[1:].isdigit()), default=0)


def _note(path: Path, name: str, seconds: float, inputs: int, found: int) -> None:
    """Add to what was run before, so that the total is the sum of all calls."""
    rows = json.loads(path.read_text()) if path.exists() else {}
    row = rows.setdefault(name, {"seconds": 0, "inputs": 0, "findings": 0})
    row["seconds"] = round(row["seconds"] + seconds)
    row["inputs"] += inputs
    row["findings"] += found
    path.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")


def _fuzz(name: str, minutes: float, work: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["fedwon"], enable_loader_override=False):
        from tests.fuzz.targets import CORPUS, LARGEST_INPUT, TARGETS
    target, new = TARGETS[name], work / name
    new.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": round(minutes * 60),
        "max_len": LARGEST_INPUT,
        "rss_limit_mb": RSS_MB,
        "malloc_limit_mb": RSS_MB // 2,
        "timeout": SLOWEST,
        "artifact_prefix": f"{new}/",
        "print_final_stats": 1,
    }
    flags = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup(["fuzz", *flags, str(new), str(CORPUS / name)], lambda data: target(bytes(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
