"""The command line of `jadeberta finetune`; mistakes in it are one sentence."""

import argparse
from pathlib import Path

from jadeberta.finetune.encoder import ENGINES
from jadeberta.finetune.tasks import TASKS
from jadeberta.utils.command_line import OneSentenceParser

DEFAULT_SETTING = (3e-5, 3)
DEFAULT_SEED = 42


def _setting(text: str) -> tuple[float, int]:
    try:
        lr, epochs = text.split(",")
        setting = float(lr), int(epochs)
    except ValueError:
        setting = 0.0, 0
    if not 0 < setting[0] < 1 or setting[1] < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no rate and number of epochs, such as 3e-5,4")
    return setting


def _seeds(text: str) -> list[int]:
    if not all(part.isdecimal() and int(part) < 2**32 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of seeds from 0 to 4294967295, such as 42,43,44")
    return [int(part) for part in text.split(",")]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def make_parser() -> OneSentenceParser:
    parser = OneSentenceParser(
        prog="jadeberta finetune",
        description="Fine-tunes a model on a task of JGLUE and scores it, with one setting or the grid of JGLUE's authors.",
        epilog="Points that are done are skipped: give the same command again after an interruption. docs/fine-tune.md explains more.",
    )
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument(
        "--model", type=Path, required=True, help="an exported directory, a checkpoint, or a run (its newest one)"
    )
    parser.add_argument("--data", type=Path, required=True, help="JGLUE's folder 'datasets', or the task's folder in it")
    parser.add_argument("--out", type=Path, help="directory for results (default: runs/finetune/TASK)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--setting",
        type=_setting,
        action="append",
        metavar="LR,EPOCHS",
        help="such as 3e-5,4; may be given again (default: 3e-5,3)",
    )
    which.add_argument("--grid", action="store_true", help="5e-5, 3e-5 and 2e-5, each for 3 and 4 epochs")
    parser.add_argument(
        "--seeds", type=_seeds, default=[DEFAULT_SEED], metavar="N,N", help="each setting once for each (default: 42)"
    )
    parser.add_argument(
        "--choose-on",
        choices=["valid", "fold"],
        default="valid",
        help="what settings are compared on; fold: a tenth of train, kept out",
    )
    parser.add_argument("--point", type=int, metavar="N", help="only the N-th point, from 0, as --dry-run numbers them")
    parser.add_argument("--pool", metavar="NAME", help="with --point: processes of the same name share --out")
    parser.add_argument("--train", type=Path, metavar="FILE", help="a file to train on instead")
    parser.add_argument("--valid", type=Path, metavar="FILE", help="a file to be scored on instead")
    parser.add_argument("--batch-size", type=_count, help="sequences of a step (default: 32; jcommonsenseqa 64)")
    parser.add_argument(
        "--micro-batch-size", type=_count, help="sequences at once, less for less memory (default: all of a batch)"
    )
    parser.add_argument(
        "--max-length", type=_count, help="pieces of a sequence (default: 128; jsquad 384, marc-ja 512, jcommonsenseqa 64)"
    )
    parser.add_argument(
        "--schedule", choices=["linear", "cosine"], default="linear", help="after a warm-up of a tenth of the steps"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast, weights stay fp32")
    parser.add_argument("--weights", choices=["trained", "ema"], default="trained", help="ema: a checkpoint's running average")
    parser.add_argument("--segmenter", choices=ENGINES, help="for a model that does not say which one made its pre-training text")
    parser.add_argument("--segmenter-command", default="", metavar="COMMAND", help="program and options of jumanpp or juman")
    parser.add_argument("--save-models", action="store_true", help="keep every fine-tuned model in OUT/models")
    parser.add_argument("--dry-run", action="store_true", help="read and check everything, list the points, train nothing")
    return parser
