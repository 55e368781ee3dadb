"""MeCab with JumanDIC that speaks as Juman++ does, `--segment` or the full format: a real analyzer for stages that know Juman++ alone.

`python -I -S mecab_as_juman.py SITE-PACKAGES ...`: it starts as fast as Juman++, 10 to 20 ms, only without Python's site modules.
PACE=a,b in the environment: it keeps the processor busy for a + b * bytes microseconds with each line.
"""

import os
import sys
import time

sys.path.append(sys.argv[1])

import fugashi
import jumandic

FULL = r'%m %f[5] %f[4] %f[0] 6 * 1 * 0 * 0 "%f[6]"\n'
UNKNOWN = r"%m %m %m 未定義語 15 その他 1 * 0 * 0 NIL\n"


def main(arguments: list[str]) -> None:
    """Answers line by line."""
    if "-v" in arguments:
        print(f"Juman++ Version: 2.0.0-mecab / Dictionary: jumandic {jumandic.__name__}")
        return
    if "--segment" in arguments:
        parse, end = fugashi.GenericTagger(f"{jumandic.MECAB_ARGS} -Owakati").parse, "\n"
    else:
        formats = f"--node-format='{FULL}' --unk-format='{UNKNOWN}' --eos-format=''"
        parse, end = fugashi.GenericTagger(f"{jumandic.MECAB_ARGS} {formats}").parse, "\nEOS\n"
    line_seconds, byte_seconds = (float(number) * 1e-6 for number in os.environ.get("PACE", "0,0").split(","))
    due = time.process_time()
    for line in sys.stdin:
        answer = parse(line.rstrip("\n"))
        text = (answer.replace(" ", "\x1f") if end == "\n" else answer) + end
        due += line_seconds + byte_seconds * len(line.encode())
        while time.process_time() < due:
            pass
        sys.stdout.write(text)
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[2:])
