"""Published scores on JGLUE, each with the version of its labels, the definition of its metrics and the settings behind it.

Sources, read in 2026: the README of nobu-g/JGLUE-evaluation-scripts (its rows for LUKE are those of LUKE's repository), and the README
of yahoojapan/JGLUE 1.0 and 1.3. JNLI's labels are equal in 1.0 and 1.1, and in 1.2 and 1.3.
"""

from dataclasses import dataclass, field
from typing import Literal

from jadeberta.finetune.tasks import Task

OLD_LABELS, NEW_LABELS = "1.1", "1.3"
"""The version whose labels of JNLI a row was scored with, the later one of two with equal labels."""


@dataclass(frozen=True)
class Source:
    """Who published rows, and how they were made."""

    name: str
    squad: Literal["repository", "scripts"]
    """Whose definition of exact match and F1."""
    settings: dict[str, str]
    """Batch size and length by task."""
    remark: str


@dataclass(frozen=True)
class Row:
    """Scores of one model."""

    name: str
    source: str
    """Key of SOURCES."""
    jglue: str
    """JGLUE's version. Only for JNLI do the labels of dev differ."""
    scores: dict[str, tuple[float, ...]] = field(hash=False)
    """By task, in the order of the task's metrics; tasks that were not measured are missing."""

    def scores_of(self, task: Task) -> dict[str, float]:
        """Scores of a task by metric."""
        return dict(zip(task.metrics, self.scores[task.name], strict=False))


SOURCES = {
    "scripts": Source(
        "JGLUE-evaluation-scripts",
        "scripts",
        {
            "marc-ja": "batch 256, 512 pieces", "jcola": "batch 256, 512 pieces", "jsts": "batch 32, 128 pieces",
            "jnli": "batch 32, 128 pieces", "jsquad": "batch 32, 384 pieces", "jcommonsenseqa": "batch 32, 128 pieces",
        },
        "best of the grid, one seed, the best epoch chosen on dev, cosine schedule, gradients clipped at 0.5",
    ),
    "luke": Source("LUKE's repository", "repository", {}, "settings as stated there"),
    "jglue": Source(
        "JGLUE's README",
        "repository",
        {
            "marc-ja": "batch 32, 512 pieces", "jsts": "batch 32, 128 pieces", "jnli": "batch 32, 128 pieces",
            "jsquad": "batch 32, 384 pieces", "jcommonsenseqa": "batch 64, 64 pieces",
        },
        "best of the grid, chosen on dev, linear schedule, gradients clipped at 1",
    ),
}  # fmt: skip


def _rows(source: str, jglue: str, tasks: tuple[str, ...], table: str) -> tuple[Row, ...]:
    """Rows of 'model | score | score/score'; - where none was published."""
    rows = []
    for line in table.strip().splitlines():
        name, *cells = (cell.strip() for cell in line.split("|"))
        scores = {task: tuple(map(float, cell.split("/"))) for task, cell in zip(tasks, cells, strict=True) if cell != "-"}
        rows.append(Row(name, source, jglue, scores))
    return tuple(rows)


_TASKS = ("marc-ja", "jsts", "jnli", "jsquad", "jcommonsenseqa")

DEV = (
    *_rows("scripts", OLD_LABELS, ("marc-ja", "jcola", *_TASKS[1:]), """
        Waseda RoBERTa base       | 0.965 | 0.867 | 0.913/0.876 | 0.905 | 0.853/0.916 | 0.853
        Waseda RoBERTa large, 512 | 0.969 | 0.849 | 0.925/0.890 | 0.928 | 0.910/0.955 | 0.900
        DeBERTa V2 base           | 0.970 | 0.879 | 0.922/0.886 | 0.922 | 0.899/0.951 | 0.873
        DeBERTa V2 large          | 0.968 | 0.882 | 0.925/0.892 | 0.924 | 0.912/0.959 | 0.890
        DeBERTa V3 base           | 0.960 | 0.878 | 0.927/0.891 | 0.927 | 0.896/0.947 | 0.875
        """),
    *_rows("luke", OLD_LABELS, _TASKS, """
        LUKE base                 | 0.965 | 0.916/0.877 | 0.912 | - | 0.842
        LUKE large                | 0.965 | 0.932/0.902 | 0.927 | - | 0.893
        """),
    *_rows("jglue", OLD_LABELS, _TASKS, """
        people (JGLUE)            | 0.989 | 0.899/0.861 | 0.925 | 0.871/0.944 | 0.986
        """),
    *_rows("jglue", NEW_LABELS, _TASKS, """
        Tohoku BERT base (JGLUE)             | 0.958 | 0.909/0.868 | 0.906 | 0.871/0.941 | 0.808
        Tohoku BERT base, char (JGLUE)       | 0.956 | 0.893/0.851 | 0.896 | 0.864/0.937 | 0.718
        Tohoku BERT large (JGLUE)            | 0.955 | 0.913/0.872 | 0.905 | 0.880/0.946 | 0.816
        NICT BERT base (JGLUE)               | 0.958 | 0.910/0.871 | 0.909 | 0.897/0.947 | 0.823
        Waseda RoBERTa base (JGLUE)          | 0.962 | 0.913/0.873 | 0.900 | 0.864/0.927 | 0.840
        Waseda RoBERTa large, 128 (JGLUE)    | 0.954 | 0.930/0.896 | 0.931 | 0.884/0.940 | 0.907
        Waseda RoBERTa large, 512 (JGLUE)    | 0.961 | 0.926/0.892 | 0.934 | 0.918/0.963 | 0.891
        XLM-RoBERTa base (JGLUE)             | 0.961 | 0.877/0.831 | 0.898 | - | 0.687
        XLM-RoBERTa large (JGLUE)            | 0.964 | 0.918/0.884 | 0.924 | - | 0.840
        """),
)  # fmt: skip
"""On dev: the best of a grid that was chosen on it."""

TEST = _rows("jglue", NEW_LABELS, _TASKS, """
        Tohoku BERT base (JGLUE)             | 0.957 | 0.907/0.865 | 0.876 | 0.879/0.946 | 0.782
        Tohoku BERT base, char (JGLUE)       | 0.960 | 0.901/0.857 | 0.861 | 0.864/0.937 | 0.728
        Tohoku BERT large (JGLUE)            | 0.961 | 0.910/0.866 | 0.878 | 0.887/0.951 | 0.822
        NICT BERT base (JGLUE)               | 0.962 | 0.911/0.868 | 0.881 | 0.904/0.952 | 0.807
        Waseda RoBERTa base (JGLUE)          | 0.962 | 0.910/0.867 | 0.876 | 0.868/0.926 | 0.849
        Waseda RoBERTa large, 128 (JGLUE)    | 0.954 | 0.925/0.888 | 0.904 | 0.881/0.940 | 0.901
        Waseda RoBERTa large, 512 (JGLUE)    | 0.963 | 0.920/0.882 | 0.902 | 0.925/0.965 | 0.873
        XLM-RoBERTa base (JGLUE)             | 0.962 | 0.887/0.836 | 0.872 | - | 0.708
        XLM-RoBERTa large (JGLUE)            | 0.965 | 0.916/0.880 | 0.896 | - | 0.842
        """)  # fmt: skip
"""On the test sets of 1.3; the setting was chosen on dev."""
