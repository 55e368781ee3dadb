"""The console of a run: step lines with the time left, renewed in place on a terminal; the libraries' messages go to files."""

import io
import logging

import pytest

from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.training.console import Console, redirect_library_logs
from jadeberta.utils.logs import configure_console


@pytest.mark.parametrize(
    "sizes,left",
    [
        (BatchSizes(8), "2m 20s"),  # 14 more steps of 10 s
        (BatchSizes(8, ((2, 10),)), "6m 20s"),  # 10 s for 2 sequences: 6 more steps of 10 s and 8 of 40 s
    ],
)
def test_the_time_left_goes_by_the_sequences_that_are_left(sizes, left, monkeypatch, capsys) -> None:
    now = 0.0
    monkeypatch.setattr("jadeberta.training.console.time.monotonic", lambda: now)
    console = Console(18, 4, sizes, configure_console())
    for step in range(1, 5):
        console.step(step, 1.0, 0.5, 1e-4, 100.0)
        now += 10.0
    assert capsys.readouterr().out.strip().endswith(f"{left} left")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_every_step_and_keeps_the_due_ones(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    console = Console(5, 2, handler=configure_console(stream=(stream := Terminal())))
    for step in range(1, 6):
        console.step(step, 1.0, 0.5, 1e-4, 100.0)
    kept = [line.rpartition("\r\x1b[K")[2] for line in stream.getvalue().split("\n") if line]
    assert [line.split("  ")[0] for line in kept] == ["step 2/5", "step 4/5", "step 5/5"]
    assert stream.getvalue().count("\r\x1b[Kstep 1/5") == stream.getvalue().count("\r\x1b[Kstep 3/5") == 1


def test_a_line_says_gradient_norm_mfu_data_wait_and_when_the_next_save_is_due(monkeypatch, capsys) -> None:
    now = 0.0
    monkeypatch.setattr("jadeberta.training.console.time.monotonic", lambda: now)
    console = Console(100, 1, handler=configure_console(), save_every=40)
    for step in (1, 2, 40, 81, 100):
        now = 60.0 * step
        console.step(step, 1.0, 0.5, 1e-4, 100.0, grad_norm=0.523456, mfu=None if step == 1 else 0.4123, data_wait=0.0312)
    first, second, at_save, last_stretch, last = capsys.readouterr().out.splitlines()
    assert first.endswith("? left  grad 0.523  data wait 3.1%  save at step 40")
    assert second.endswith("1h 38m left  grad 0.523  MFU 41.2%  data wait 3.1%  save in 38m 00s")
    assert at_save.endswith("save in 40m 00s") and last_stretch.endswith("save in 19m 00s") and last.endswith("data wait 3.1%")


def test_a_log_has_the_due_steps_alone_and_other_ranks_print_nothing(capsys) -> None:
    for handler in (configure_console(), None):
        console = Console(5, 2, handler=handler)
        for step in range(1, 6):
            console.step(step, 1.0, 0.5, 1e-4, 100.0)
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["step 2/5", "step 4/5", "step 5/5"]


@pytest.fixture
def loggers():
    """Leaves handlers, levels and propagation of the loggers as they were."""
    names = ("DeepSpeed", "transformers", "torch", "jadeberta")
    before = {name: (logger := logging.getLogger(name), logger.handlers[:], logger.propagate, logger.level) for name in names}
    yield
    for logger, handlers, propagate, level in before.values():
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_messages_of_libraries_go_to_a_file_of_each_rank_and_so_do_ours_on_ranks_without_a_console(
    tmp_path, loggers, capsys
) -> None:
    for rank in (0, 1):
        configure_console(is_root=rank == 0)
        redirect_library_logs(tmp_path, rank)
        logging.getLogger("DeepSpeed").warning("chatter of %s", rank)
        logging.getLogger("jadeberta.training").warning("ours of %s", rank)
    first, second = ((tmp_path / f"logs/rank-{rank:05d}.log").read_text() for rank in (0, 1))
    assert "chatter of 0" in first and "ours" not in first
    assert "chatter of 1" in second and "ours of 1" in second
    assert capsys.readouterr().out == "ours of 0\n"
