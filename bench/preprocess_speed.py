"""How fast preprocessing is, each measure beside what it is compared with, in one run: `python bench/preprocess_speed.py`.

The parts lie in bench/preprocess/. Prints a table with the goals and writes JSON with every round. What needs the sample corpora
(../shared/data/corpora beside the repository) or Juman++'s stand-in is left out where they are not there, and said.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from jadeberta.utils.paths import path_option

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # in place of bench/, where files are named like packages

from bench.preprocess.measure import Row, table  # noqa: E402
from bench.results_file import write_results  # noqa: E402

PARTS = {
    "clean": "cleaning_speed", "segment": "segmentation_speed", "stages": "stage_speed", "reads": "shard_reads", "filters": "filter_speed",
    "parquet": "parquet_speed",
}  # fmt: skip
"""Name of a part -> its module in bench/preprocess."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="less text: to see that it runs")
    parser.add_argument("--output", type=path_option, help="JSON file; parts that are not measured now are kept in it")
    options = parser.parse_args()
    found: dict[str, list[Row]] = {}
    loads: dict[str, float] = {}
    for part in options.parts:
        work = Path(tempfile.mkdtemp(prefix=f"bench-preprocess-{part}-"))
        loads[part] = os.getloadavg()[0]
        try:
            found[part] = import_module(f"bench.preprocess.{PARTS[part]}").measure(work, options.rounds, options.quick)
        finally:
            shutil.rmtree(work)
        if found[part]:
            print("\n".join(table(found[part])), flush=True)
    if options.output is not None:
        earlier = json.loads(options.output.read_text(encoding="utf-8"))["parts"] if options.output.exists() else {}
        parts = {
            part: {
                "rows": [asdict(row) | {"met": row.met} for row in rows],
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "load_before": loads[part],
            }
            for part, rows in found.items()
        }
        machine = {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
        document = {"machine": machine, "rounds": options.rounds, "quick": options.quick, "parts": earlier | parts}
        write_results(options.output, document)
    if missed := [row.measure for rows in found.values() for row in rows if row.met is False]:
        print(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
