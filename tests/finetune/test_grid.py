"""Which points there are, what is kept out, which setting is chosen."""

import itertools
import random

from jadeberta.finetune.grid import FinetuneConfig, Result, Trial, choose, full_grid, groups_of, split_fold, summarise, trials_of
from jadeberta.finetune.jglue_files import JglueRow
from jadeberta.finetune.published_scores import DEV, SOURCES, TEST
from jadeberta.finetune.results_table import format_published, results_json
from jadeberta.finetune.tasks import TASKS

JNLI = TASKS["jnli"]


def result(lr: float, epochs: int, seed: int, *scores: float) -> Result:
    """With scores on valid and fold, or none."""
    return Result(Trial(lr, epochs, seed), {s: {"accuracy": v} for s, v in zip(("valid", "fold"), scores, strict=False)}, 1.0)


def test_the_grid_is_that_of_jglues_authors_with_every_seed() -> None:
    assert set(full_grid()) == {(lr, epochs) for lr in (5e-5, 3e-5, 2e-5) for epochs in (3, 4)}
    assert len({Trial(lr, 3, 1).name for lr in (3e-5, 3.0000001e-5)}) == 2, "no two points share a name"
    trials = trials_of(full_grid(), [1, 2, 2])
    assert len(trials) == len({p.name for p in trials}) == 12 and trials[:2] == [Trial(5e-5, 3, 1), Trial(5e-5, 3, 2)]


def test_every_published_row_says_its_labels_and_has_a_score_for_each_metric() -> None:
    names = [row.name for row in DEV]
    assert len(set(names)) == len(names) == 17 and len(TEST) == 9 and {"LUKE base", "LUKE large"} < set(names)
    for row in (*DEV, *TEST):
        assert row.source in SOURCES and row.jglue in ("1.1", "1.3")
        assert all(len(row.scores[task.name]) == len(task.metrics) for task in TASKS.values() if task.name in row.scores)
        assert all(0 < score < 1 for scores in row.scores.values() for score in scores)
    # A row measured on the old labels of JNLI is not set beside one on the new ones without a word.
    lines = format_published(JNLI, "dev", DEV).splitlines()
    assert next(line for line in lines if line.startswith("DeBERTa V2 base")).split()[-2:] == ["0.922", "1.1"]
    assert next(line for line in lines if line.startswith("Waseda RoBERTa large, 512 (JGLUE)")).split()[-2:] == ["0.934", "1.3"]
    squad = format_published(TASKS["jsquad"], "dev", DEV)
    assert "LUKE" not in squad and squad.splitlines()[1].endswith("scripts") and "batch 32, 384 pieces" in squad
    assert "batch 256, 512 pieces" in format_published(TASKS["marc-ja"], "dev", DEV)


def test_results_json_holds_what_each_published_row_was_measured_with() -> None:
    found = results_json(TASKS["jsquad"], FinetuneConfig(32, 384), {}, [])
    assert found["published"]["DeBERTa V2 large"] == {"exact_match": 0.912, "f1": 0.959}
    assert found["published_by"]["DeBERTa V2 large"]["definition"] == "scripts"
    assert found["published_by"]["people (JGLUE)"] == {
        "source": "JGLUE's README", "jglue": "1.1", "settings": "batch 32, 384 pieces", "definition": "repository",
    }  # fmt: skip


def test_rows_are_kept_out_by_whole_groups_whatever_their_order() -> None:
    rows = [JglueRow(str(n), (f"group {n // 3}",), ("x",)) for n in range(300)]
    train, fold = split_fold(rows)
    assert 30 <= len(fold) < 33 and len(train) + len(fold) == 300
    assert not {r.keys for r in train} & {r.keys for r in fold}
    shuffled = random.Random(0).sample(rows, len(rows))
    assert {r.id for r in split_fold(shuffled)[1]} == {r.id for r in fold}
    assert split_fold(rows[:3]) == (rows[:3], []), "a single group stays"


def components(rows: list[JglueRow]) -> set[frozenset[str]]:
    """Ids of rows that hang together: merged until nothing changes."""
    found = [(set(row.keys), {row.id}) for row in rows]
    while True:
        for a, b in itertools.combinations(found, 2):
            if a[0] & b[0]:
                found = [g for g in found if g is not a and g is not b] + [(a[0] | b[0], a[1] | b[1])]
                break
        else:
            return {frozenset(ids) for _, ids in found}


def test_rows_that_share_a_key_through_others_are_one_group_in_any_order() -> None:
    draw = random.Random(7)
    for _ in range(20):
        rows = [JglueRow(str(n), tuple(str(draw.randrange(60)) for _ in range(draw.randint(1, 3))), ("x",)) for n in range(40)]
        groups = groups_of(rows)
        named = {name: frozenset(r.id for r, g in zip(rows, groups, strict=True) if g == name) for name in groups}
        assert set(named.values()) == components(rows)
        shuffled = draw.sample(rows, len(rows))
        assert dict(zip([r.id for r in shuffled], groups_of(shuffled), strict=True)) == dict(
            zip([r.id for r in rows], groups, strict=True)
        )


def test_a_group_of_most_rows_stays_in_training() -> None:
    rows = [JglueRow(str(n), ("all",) if n < 90 else (str(n),), ("x",)) for n in range(100)]
    _, fold = split_fold(rows)
    assert len(fold) == 9 and {r.keys for r in fold} & {("all",)} == set(), "the last of the small ones stays, too"


def test_a_metric_that_an_older_point_lacks_is_not_averaged() -> None:
    old, new = result(5e-5, 3, 1, 0.5), Result(Trial(5e-5, 3, 2), {"valid": {"accuracy": 0.7, "mcc": 0.1}}, 1.0)
    assert [summarise(both)[0].mean for both in ([new, old], [old, new])] == [{"valid": {"accuracy": 0.6}}] * 2


def test_the_mean_over_the_seeds_decides_on_the_split_that_was_named() -> None:
    results = [
        result(5e-5, 3, 1, 0.9, 0.1), result(5e-5, 3, 2, 0.5, 0.1), result(3e-5, 3, 1, 0.8, 0.0), result(3e-5, 3, 2, 0.7, 0.0),
    ]  # fmt: skip
    summaries = summarise(results)
    assert [(s.lr, s.seeds) for s in summaries] == [(5e-5, (1, 2)), (3e-5, (1, 2))]
    assert abs(summaries[0].deviation["valid"]["accuracy"] - 0.08**0.5) < 1e-12
    assert choose(summaries, JNLI, "valid") == summaries[1] and choose(summaries, JNLI, "fold") == summaries[0]


def test_of_equals_fewer_epochs_and_then_the_lower_rate_are_chosen() -> None:
    equals = [result(lr, epochs, 1, 0.5) for lr, epochs in ((5e-5, 4), (5e-5, 3), (2e-5, 3), (3e-5, 3))]
    chosen = choose(summarise(equals), JNLI, "valid")
    assert chosen is not None and (chosen.lr, chosen.epochs) == (2e-5, 3)


def test_a_setting_that_lacks_a_seed_or_diverged_is_not_compared() -> None:
    results = [
        result(5e-5, 3, 1, 0.9),
        result(3e-5, 3, 1, 0.8),
        result(3e-5, 3, 2),
        result(2e-5, 3, 1, 0.3),
        result(2e-5, 3, 2, 0.3),
    ]
    chosen = choose(summarise(results), JNLI, "valid")
    assert chosen is not None and chosen.lr == 2e-5
    assert choose(summarise(results[:3]), JNLI, "valid") is None and choose([], JNLI, "valid") is None
    (diverged,) = summarise([result(1e-1, 3, 1)])
    assert diverged.diverged == 1 and diverged.mean == {}
