"""Reads machine code: which instructions a kernel's main loop issues, by kind. Knows nothing of how long they take."""

import re
from collections import Counter
from dataclasses import dataclass

KINDS = {
    "HMMA": "matmul", "HGMMA": "matmul", "IMMA": "matmul", "DMMA": "matmul",
    "LDS": "shared", "STS": "shared", "LDSM": "shared", "STSM": "shared", "ATOMS": "shared", "LDGSTS": "global",
    "LDG": "global", "STG": "global", "LD": "global", "ST": "global", "RED": "global", "ATOMG": "global", "ATOM": "global",
    "LDL": "spill", "STL": "spill",
    "SHFL": "shuffle", "REDUX": "shuffle", "MOVM": "shuffle",
    "MUFU": "special",
    "FADD": "fp32", "FMUL": "fp32", "FFMA": "fp32",
    "FMNMX": "compare", "FSETP": "compare", "FSEL": "compare", "FSET": "compare", "ISETP": "integer", "SEL": "integer",
    "F2FP": "convert", "F2F": "convert", "I2F": "convert", "F2I": "convert", "I2FP": "convert", "I2I": "convert", "FRND": "convert",
    "IMAD": "integer", "IADD3": "integer", "VIADD": "integer", "LEA": "integer", "LOP3": "integer", "SHF": "integer",
    "PRMT": "integer", "SGXT": "integer", "IMNMX": "integer", "VIMNMX": "integer", "IABS": "integer", "PLOP3": "integer",
    "LOP": "integer", "BFE": "integer", "POPC": "integer", "P2R": "integer", "R2P": "integer", "VABSDIFF": "integer",
    "HADD2": "fp32", "HMUL2": "fp32", "HFMA2": "fp32", "MOV": "move", "CS2R": "move", "IMAD.MOV": "move",
    "BAR": "barrier", "DEPBAR": "barrier", "WARPGROUP": "barrier", "MEMBAR": "barrier", "SYNCS": "barrier", "LDGDEPBAR": "barrier",
}  # fmt: skip
"""Kind of each instruction by the first word of its name; what is missing here is "other"."""

INSTRUCTION = re.compile(r"/\*(?P<at>[0-9a-f]{4,})\*/\s+(?:@!?U?P[0-9T]\s+)?(?P<name>[A-Z][A-Za-z0-9_.]*)(?P<rest>[^;]*);")
LABEL = re.compile(r"^(\.L_\w+):")
TARGET = re.compile(r"\((\.L_\w+)\)")


@dataclass(frozen=True)
class Instruction:
    """One of them."""

    name: str
    """With its suffixes."""
    rest: str
    """Its operands."""

    @property
    def kind(self) -> str:
        """One of KINDS' values, or other."""
        if self.name.startswith("IMAD.MOV"):
            return "move"
        return KINDS.get(self.name.split(".")[0], "other")


def read(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions of one kernel as nvdisasm prints them, and which of them each label stands before."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif (found := INSTRUCTION.search(line)) and found["name"] != "NOP":
            instructions.append(Instruction(found["name"], found["rest"].strip()))
    return instructions, labels


def loops(text: str) -> list[list[Instruction]]:
    """The bodies of innermost loops with a matrix product in them, in the order of the code; all of a kernel that has none.

    A body is what lies between a branch and the earlier place that it goes back to, branches within it taken as not taken.
    """
    instructions, labels = read(text)
    spans = []
    for at, instruction in enumerate(instructions):
        target = TARGET.search(instruction.rest)
        if instruction.name.startswith("BRA") and target and labels[target[1]] < at:
            spans.append((labels[target[1]], at + 1))
    bodies = [(first, end) for first, end in spans if any(i.kind == "matmul" for i in instructions[first:end])]
    inner = [s for s in bodies if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in bodies)]
    return [instructions[first:end] for first, end in sorted(inner)] or [instructions]


def by_kind(instructions: list[Instruction]) -> Counter[str]:
    """How many there are of each kind."""
    return Counter(instruction.kind for instruction in instructions)


def matmul_work(instruction: Instruction) -> int:
    """Multiply-adds of one matrix instruction for the warp that issues it; four warps share an HGMMA.

    Raises:
        ValueError: a matrix instruction of another generation.
    """
    if found := re.match(r"HMMA\.(16)(8)(\d+)", instruction.name):
        return int(found[1]) * int(found[2]) * int(found[3])
    if found := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", instruction.name):
        return int(found[1]) * int(found[2]) * int(found[3]) // 4
    raise ValueError(f"unknown matrix instruction {instruction.name} {instruction.rest}")
