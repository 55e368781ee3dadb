"""JNLI's dev set with the labels of both of its versions: 29 of 2,434 were corrected in JGLUE 1.2, and the texts stayed.

Published scores are of either version, which moves a model by up to 0.008. The same predictions are scored with both.
"""

import hashlib
from collections.abc import Sequence

from jadeberta.finetune.jglue_files import JglueRow
from jadeberta.finetune.published_scores import NEW_LABELS, OLD_LABELS

VALID_ROWS = 2434
VALID_SHA256 = "c061872e908dfdee3279fbd103eee5872323e2421c8390ce072a98c1d463ba3b"
"""sha256 of what all versions of JNLI's valid file have in common, as `fingerprint` forms it."""
_ENTAILMENT, _CONTRADICTION, _NEUTRAL = range(3)
_CORRECTED = {
    "226": "ne", "263": "nc", "282": "en", "342": "en", "389": "en", "398": "en", "415": "ne", "416": "ne", "457": "en", "594": "en",
    "771": "ne", "891": "en", "1067": "ne", "1087": "en", "1281": "ne", "1437": "en", "1534": "en", "1608": "en", "1611": "ne",
    "1650": "ne", "1688": "en", "1710": "en", "1742": "en", "1784": "ne", "1865": "ne", "1878": "en", "1912": "ne", "2214": "ne",
    "2373": "en",
}  # fmt: skip
"""Initials of the old and the new label, by id of the pair."""
_CLASSES = {"e": _ENTAILMENT, "c": _CONTRADICTION, "n": _NEUTRAL}


def fingerprint(rows: Sequence[JglueRow]) -> str:
    """Returns the sha256 of ids, texts and the labels that were never corrected."""
    digest = hashlib.sha256()
    for row in rows:
        label = "" if row.id in _CORRECTED else str(int(row.label or 0))
        digest.update("\t".join((row.id, *row.texts, label)).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def labels_by_version(rows: Sequence[JglueRow]) -> dict[str, list[float]]:
    """Returns the labels of each version for the rows of JNLI's valid file of any version; empty for rows of another file.

    Labels that were changed by hand in a file stay as they are there, so that such a file has no version: empty, too.
    """
    if len(rows) != VALID_ROWS or fingerprint(rows) != VALID_SHA256:
        return {}
    versions: dict[str, list[float]] = {}
    for place, version in enumerate((OLD_LABELS, NEW_LABELS)):
        versions[version] = [
            _CLASSES[_CORRECTED[row.id][place]] if row.id in _CORRECTED else float(row.label or 0) for row in rows
        ]
    return versions if [row.label for row in rows] in versions.values() else {}
