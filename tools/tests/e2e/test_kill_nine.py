"""kill -9 at random moments under load: what was acknowledged is there, whole; what was not is whole or not there."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bodies import describe
from bucketsd import Bucketsd
from wire import Wire
from writers import Journal, Writers, expected_body

ROUNDS = 50
WRITERS = 4
FIRST_ANSWER_SECONDS_MAX = 2.0


@pytest.mark.seconds(1800)
def test_fifty_crashes_under_load_lose_nothing():
    draw = random.Random(20)
    journal = Journal()
    with Bucketsd(name="kill").format() as server:
        server.start()
        with Wire(server) as wire:
            assert wire.request("PUT", "/load").status == 200
        slowest = 0.0
        for turn in range(ROUNDS):
            with Writers(server, "load", WRITERS, seed=turn, journal=journal) as writers:
                time.sleep(draw.uniform(0.1, 2.0))
                server.kill()
            assert writers.acknowledged > 0, f"round {turn}: nothing was written before the kill"
            slowest = max(slowest, restart_and_time_first_answer(server, journal))
            server.wait_ready()
            check(server, journal, turn)
        print(f"slowest first answer {slowest:.2f} s; {journal.acknowledged} acknowledged writes")
        assert journal.acknowledged > ROUNDS * 10
        assert server.terminate() == 0


def restart_and_time_first_answer(server, journal):
    """Seconds from the start of the process to the first object read."""
    key = next((key for key, states in journal.states.items() if states[0] is not None and len(states) == 1), None)
    began = time.monotonic()
    server.spawn()
    while True:
        server.check_alive()
        took = time.monotonic() - began
        try:
            with Wire(server, timeout=5) as wire:
                answer = wire.get("load", key)
            if answer.status == 200:
                assert answer.body == expected_body(key, *journal.states[key][0])
                break
            assert answer.status == 503, answer
        except OSError:
            pass
        assert took < 30, f"no good answer after 30 s\n{server.log_tail()}"
        time.sleep(0.01)
    took = time.monotonic() - began
    assert took < FIRST_ANSWER_SECONDS_MAX, f"first good answer after {took:.2f} s\n{server.log_tail()}"
    return took


def check(server, journal, turn):
    """Every key is in one of the states that it may be in; the listing says the same; what was seen stays."""

    def look(keys):
        seen = {}
        with Wire(server) as wire:
            for key in keys:
                answer = wire.get("load", key)
                for state in journal.states[key]:
                    if state is None and answer.status == 404:
                        break
                    if state is not None and answer.status == 200 and answer.body == expected_body(key, *state):
                        break
                else:
                    raise AssertionError(
                        f"round {turn}: {key} is {answer.status}, {describe(answer.body)}; it may be "
                        f"{[state and describe(expected_body(key, *state)) for state in journal.states[key]]}"
                    )
                seen[key] = (state, answer.headers.get("etag", "").strip('"'))
        return seen

    keys = sorted(journal.states)
    found = {}
    with ThreadPoolExecutor(4) as pool:
        for part in pool.map(look, [keys[n::4] for n in range(4)]):
            found.update(part)
    with Wire(server) as wire:
        listed = wire.list_all("load")
    expected = sorted(
        (key, state[1], etag) for key, (state, etag) in found.items() if state is not None
    )
    assert sorted(listed) == expected, f"round {turn}: the listing differs from what is read"
    assert [key for key, _, _ in listed] == [key for key, _, _ in expected]
    journal.settle({key: state for key, (state, _) in found.items()})
