from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

from langchain_metaaligner.engines.local.loaded_model import Registry


class Thing:
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


def test_equal_keys_share_one_thing_and_others_do_not():
    registry = Registry()
    one, two, other = (registry.lease(key, Thing) for key in ("a", "a", "b"))
    assert one.value is two.value
    assert one.value is not other.value


def test_a_thing_is_closed_once_when_its_last_owner_goes():
    registry = Registry()
    leases = [registry.lease("a", Thing) for _ in range(3)]
    thing = leases[0].value
    for lease in leases:
        assert thing.closed == 0
        lease.close()
        lease.close()
    assert thing.closed == 1
    assert len(registry) == 0


def test_a_forgotten_share_is_given_back():
    registry = Registry()
    thing = registry.lease("a", Thing).value
    gc.collect()
    assert thing.closed == 1
    assert len(registry) == 0


def test_after_the_last_owner_a_new_thing_is_made():
    registry = Registry()
    first = registry.lease("a", Thing)
    first.close()
    assert first.closed
    assert registry.lease("a", Thing).value is not first.value


def test_many_threads_leave_no_thing_open_and_none_closed_while_owned():
    registry = Registry()
    made = []

    def make():
        made.append(Thing())
        return made[-1]

    def own(_):
        lease = registry.lease("a", make)
        alive = lease.value.closed == 0
        lease.close()
        return alive

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(own, range(500)))
    assert all(thing.closed == 1 for thing in made)
    assert len(registry) == 0
