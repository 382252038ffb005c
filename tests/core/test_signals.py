"""Signals that a process must notice whatever it is doing."""

import os
import signal
import threading

import pytest

from openset_distill.core.signals import GracefulShutdown, Interrupted, handle_in_thread, restores_handlers


@pytest.fixture
def handled():
    """A handler of SIGUSR2 that takes a lock, as Snakemake's of SIGTERM does."""
    lock, noticed = threading.Lock(), threading.Event()

    def handler(*_):
        with lock:
            noticed.set()

    before = signal.signal(signal.SIGUSR2, handler)
    yield lock, noticed
    signal.signal(signal.SIGUSR2, before)


def test_a_handler_may_take_a_lock_that_the_main_thread_holds(handled):
    lock, noticed = handled
    handle_in_thread(signal.SIGUSR2)
    with lock:
        os.kill(os.getpid(), signal.SIGUSR2)  # without a thread this would never return
        assert not noticed.wait(0.2)
    assert noticed.wait(10)


@pytest.mark.parametrize(("error", "restored"), [(None, True), (ValueError, True), (Interrupted, False)])
def test_handlers_are_those_of_before_however_a_call_ends(error, restored):
    """But for a request to stop: the command ends then, and the request may consist of several signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    @restores_handlers
    def call():
        stop = GracefulShutdown()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.requested
        if error:
            raise error("stopped")
        return "done"

    try:
        if error is None:
            assert call() == "done"
        else:
            with pytest.raises(error):
                call()
        assert ({number: signal.getsignal(number) for number in before} == before) is restored
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("unhandled", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_signal_without_a_handler_stays_as_it_is(unhandled):
    signal.signal(signal.SIGUSR2, unhandled)
    handle_in_thread(signal.SIGUSR2)
    assert signal.getsignal(signal.SIGUSR2) == unhandled
