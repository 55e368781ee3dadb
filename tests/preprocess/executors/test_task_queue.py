"""Who gets which piece, decided without ranks: each once and in order, none before it is ready, and no wait without an end."""

from preprocess.executors.task_queue import END, LOOK_SECONDS, STALL_SECONDS, WAIT, Deck


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pieces_are_handed_out_once_and_in_their_order() -> None:
    deck = Deck(3, lambda number: True)
    assert [deck.take() for _ in range(5)] == [0, 1, 2, END, END]


def test_a_piece_that_is_not_ready_is_passed_over_until_it_is() -> None:
    clock, ready = Clock(), {1}
    deck = Deck(3, ready.__contains__, clock)
    assert [deck.take(), deck.take()] == [1, WAIT]
    ready.add(2)
    clock.now += LOOK_SECONDS
    assert [deck.take(), deck.take()] == [2, WAIT]
    ready.add(0)
    deck.finish(failed=False)
    assert deck.take() == 0, "what a piece was made ready by has just ended, so it is looked at anew"
    assert deck.take() == END


def test_the_file_system_is_not_asked_at_every_question() -> None:
    clock, asked = Clock(), list[int]()
    deck = Deck(2, lambda number: asked.append(number) or False, clock)
    for _ in range(100):
        deck.take()
    assert asked == [0, 1]
    clock.now += LOOK_SECONDS
    deck.take()
    assert asked == [0, 1, 0, 1]


def test_after_a_failure_no_piece_is_handed_out() -> None:
    deck = Deck(5, lambda number: True)
    deck.take(), deck.take()
    deck.finish(failed=True)
    assert deck.take() == END


def test_a_piece_that_nobody_can_make_ready_any_more_ends_the_wait() -> None:
    clock = Clock()
    deck = Deck(2, lambda number: number == 0, clock)
    assert deck.take() == 0
    clock.now += 10 * STALL_SECONDS
    assert deck.take() == WAIT, "someone is still at work"
    deck.finish(failed=False)
    assert deck.take() == WAIT, "a file server may be late"
    clock.now += STALL_SECONDS + 1
    assert deck.take() == END
