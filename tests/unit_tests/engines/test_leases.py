from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

from langchain_metaaligner.engines.leases import Leases


class Thing:
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


def test_equal_keys_share_one_thing_and_others_do_not():
    leases = Leases()
    one, two, other = (leases.lease(key, Thing) for key in ("a", "a", "b"))
    assert one.value is two.value
    assert one.value is not other.value


def test_a_thing_is_closed_once_when_its_last_owner_goes():
    leases = Leases()
    shares = [leases.lease("a", Thing) for _ in range(3)]
    thing = shares[0].value
    for lease in shares:
        assert thing.closed == 0
        lease.close()
        lease.close()
    assert thing.closed == 1
    assert len(leases) == 0


def test_a_forgotten_share_is_given_back():
    leases = Leases()
    thing = leases.lease("a", Thing).value
    gc.collect()
    assert thing.closed == 1
    assert len(leases) == 0


def test_after_the_last_owner_a_new_thing_is_made():
    leases = Leases()
    first = leases.lease("a", Thing)
    first.close()
    assert first.closed
    assert leases.lease("a", Thing).value is not first.value


def test_many_threads_leave_no_thing_open_and_none_closed_while_owned():
    leases = Leases()
    made = []

    def make():
        made.append(Thing())
        return made[-1]

    def own(_):
        lease = leases.lease("a", make)
        alive = lease.value.closed == 0
        lease.close()
        return alive

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(own, range(500)))
    assert all(thing.closed == 1 for thing in made)
    assert len(leases) == 0
