"""The learning rate: a pure function of the step, so that a resumed run cannot have another one."""


def learning_rate(step: int, *, peak: float, warmup_steps: int, max_steps: int, schedule: str) -> float:
    """The learning rate of the update from `step` to `step + 1`.

    Same values as transformers' get_linear_schedule_with_warmup, with which the published run was made: the first update has a
    rate of 0 and the rate would be 0 again at max_steps.

    Raises:
        ValueError: the schedule is unknown.
    """
    if step < warmup_steps:
        return peak * step / max(1, warmup_steps)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak * max(0.0, (max_steps - step) / max(1, max_steps - warmup_steps))
    raise ValueError(f"unknown schedule {schedule!r}")
