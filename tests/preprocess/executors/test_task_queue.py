"""Who gets which task, decided without ranks: each once and in order, none before it is ready, and no wait without an end."""

from preprocess.executors.task_queue import END, READY_CHECK_SECONDS, STALL_SECONDS, WAIT, TaskQueue


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_tasks_are_handed_out_once_and_in_their_order() -> None:
    queue = TaskQueue(3, lambda number: True)
    assert [queue.take() for _ in range(5)] == [0, 1, 2, END, END]


def test_a_task_that_is_not_ready_is_skipped_until_it_is() -> None:
    clock, ready = Clock(), {1}
    queue = TaskQueue(3, ready.__contains__, clock)
    assert [queue.take(), queue.take()] == [1, WAIT]
    ready.add(2)
    clock.now += READY_CHECK_SECONDS
    assert [queue.take(), queue.take()] == [2, WAIT]
    ready.add(0)
    queue.finish(failed=False)
    assert queue.take() == 0, "what a task was made ready by has just ended, so it is looked at anew"
    assert queue.take() == END


def test_the_file_system_is_not_asked_at_every_question() -> None:
    clock, asked = Clock(), list[int]()
    queue = TaskQueue(2, lambda number: asked.append(number) or False, clock)
    for _ in range(100):
        queue.take()
    assert asked == [0, 1]
    clock.now += READY_CHECK_SECONDS
    queue.take()
    assert asked == [0, 1, 0, 1]


def test_after_a_failure_no_task_is_handed_out() -> None:
    queue = TaskQueue(5, lambda number: True)
    queue.take(), queue.take()
    queue.finish(failed=True)
    assert queue.take() == END


def test_a_task_that_nobody_can_make_ready_any_more_ends_the_wait() -> None:
    clock = Clock()
    queue = TaskQueue(2, lambda number: number == 0, clock)
    assert queue.take() == 0
    clock.now += 10 * STALL_SECONDS
    assert queue.take() == WAIT, "someone is still at work"
    queue.finish(failed=False)
    assert queue.take() == WAIT, "a file server may be late"
    clock.now += STALL_SECONDS + 1
    assert queue.take() == END
