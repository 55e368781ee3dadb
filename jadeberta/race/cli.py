"""`jadeberta race plan|run|task|report`."""

from jadeberta.errors import ConfigError

USAGE = """usage: jadeberta race plan RACE --out DIR [options]
       jadeberta race run DIR [options]
       jadeberta race report DIR

Races: recipes against each other at equal FLOPs.

  plan    checks a race file and lays its runs out
  run     does them on this machine; slurm/race.sh does them as a job array
  report  report.json and a page with curves and tables: what each contestant needs to reach the target's accuracy

'jadeberta race plan --help' and so on explain the options.
"""


def main(arguments: list[str]) -> int:
    """Runs the sub-command. Raises ConfigError for another word."""
    word, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if word in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if word in ("plan", "run", "task"):
        from jadeberta.race import race_commands

        return {"plan": race_commands.plan, "run": race_commands.run, "task": race_commands.task}[word](rest)
    if word == "report":
        from jadeberta.race.race_report import main as report

        return report(rest)
    raise ConfigError(f"'{word}' is none of 'plan', 'run' and 'report'; 'jadeberta race --help' explains.")
