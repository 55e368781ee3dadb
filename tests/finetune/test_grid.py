"""Which points there are, what is kept out, which setting is chosen."""

import random

from jadeberta.finetune.grid import Result, Trial, choose, full_grid, split_fold, summarise, trials_of
from jadeberta.finetune.jglue_files import JglueRow
from jadeberta.finetune.tasks import PUBLISHED, TASKS

JNLI = TASKS["jnli"]


def result(lr: float, epochs: int, seed: int, *scores: float) -> Result:
    """With scores on valid and fold, or none."""
    return Result(Trial(lr, epochs, seed), {s: {"accuracy": v} for s, v in zip(("valid", "fold"), scores, strict=False)}, 1.0)


def test_the_grid_is_that_of_jglues_authors_with_every_seed() -> None:
    assert set(full_grid()) == {(lr, epochs) for lr in (5e-5, 3e-5, 2e-5) for epochs in (3, 4)}
    assert len({Trial(lr, 3, 1).name for lr in (3e-5, 3.0000001e-5)}) == 2, "no two points share a name"
    trials = trials_of(full_grid(), [1, 2, 2])
    assert len(trials) == len({p.name for p in trials}) == 12 and trials[:2] == [Trial(5e-5, 3, 1), Trial(5e-5, 3, 2)]


def test_published_scores_name_every_task_with_its_metrics() -> None:
    assert all(
        {n: len(v) for n, v in scores.items()} == {t.name: len(t.metrics) for t in TASKS.values()}
        for scores in PUBLISHED.values()
    )


def test_rows_are_kept_out_by_whole_groups_whatever_their_order() -> None:
    rows = [JglueRow(str(n), f"group {n // 3}", ("x",)) for n in range(300)]
    train, fold = split_fold(rows)
    assert 30 <= len(fold) < 33 and len(train) + len(fold) == 300
    assert not {r.group for r in train} & {r.group for r in fold}
    shuffled = random.Random(0).sample(rows, len(rows))
    assert {r.id for r in split_fold(shuffled)[1]} == {r.id for r in fold}
    assert split_fold(rows[:3]) == (rows[:3], []), "a single group stays"


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
