"""How do all the ratios stand? Runs every benchmark, then renders the tables and the figure of README.md.

Results are kept as JSON in a directory, one file a run, so that one benchmark can be
run again and the page rendered from all. True minutes (``--minutes``) take half an
hour more. ``--quick`` runs two of them shortly and renders into a copy.

    python benchmarks/run_all.py [--quick] [--minutes] [--only NAME …] [--render] [--results DIR] [--json FILE]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rig.measure import parser_of
from rig.render import page_with

HERE = Path(__file__).parent
_FIGURE = HERE / "figures" / "peers.svg"
_QUICK = ("dispatch", "fairness")
_TRUE_MINUTES = ["--minute", "60", "--capacities", "2.5", "--parallel", "6"]


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem != Path(__file__).stem)


def run(name: str, results: Path, options: list[str]) -> None:
    file = {"peers60": "peers"}.get(name, name)
    command = [sys.executable, str(HERE / f"{file}.py"), "--json", str(results / f"{name}.json"), *options]
    print(f"== {name}", flush=True)
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"{name} failed; the results of the others are in {results}")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", action="store_true", help="peers.py with true minutes too")
    parser.add_argument("--only", nargs="*", choices=names(), default=None)
    parser.add_argument("--render", action="store_true", help="run nothing, render what is there")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the JSON of the runs is kept")
    options = parser.parse_args()
    page = HERE / "README.md"
    if options.quick:
        with tempfile.TemporaryDirectory() as place:
            results = Path(place)
            for name in _QUICK:
                run(name, results, ["--quick"])
            rendered = page_with(page.read_text(encoding="utf-8"), results)
            print(f"rendered {len(rendered):,} characters")
            _collect(options.json, results)
        return
    options.results.mkdir(parents=True, exist_ok=True)
    if not options.render:
        for name in options.only or names():
            run(name, options.results, ["--figure", str(_FIGURE)] if name == "peers" and not options.minutes else [])
        if options.minutes:
            run("peers60", options.results, [*_TRUE_MINUTES, "--figure", str(_FIGURE)])
    page.write_text(page_with(page.read_text(encoding="utf-8"), options.results), encoding="utf-8")
    _collect(options.json, options.results)


def _collect(file: str | None, results: Path) -> None:
    """Write the figures of all runs into one file."""
    if file:
        reports = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
        Path(file).write_text(json.dumps(reports, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
