"""`jadeberta scaling run|report`."""

from jadeberta.errors import ConfigError

USAGE = """usage: jadeberta scaling run --config RECIPE --out DIR --nodes N,N,.. [options]
       jadeberta scaling report DIR [--json]

Scaling tests: the same recipe at several world sizes.

  run     submits one job a size, waits, collects
  report  table, report.csv, report.json and report.png of a test, with what was predicted beside what was measured

'jadeberta scaling run --help' and 'jadeberta scaling report --help' explain the options.
"""


def main(arguments: list[str]) -> int:
    """Runs the sub-command. Raises ConfigError for another word."""
    word, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if word in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if word == "run":
        from jadeberta.scaling.run import main as run

        return run(rest)
    if word == "report":
        from jadeberta.scaling.report import main as report

        return report(rest)
    raise ConfigError(f"'{word}' is neither 'run' nor 'report'; 'jadeberta scaling --help' explains.")
