"""What the flags of several processes must be."""

import jax
import pytest

from cljax.compute import processes
from cljax.errors import UserError


@pytest.fixture
def connected(monkeypatch):
    """The arguments of each connection that is tried."""
    found = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: found.append(args))
    before = jax.config.jax_enable_preemption_service
    yield found
    jax.config.update("jax_enable_preemption_service", before)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, 2, None), "give all three or none"),
        (("nonsense", 2, 1), "--coordinator=nonsense: must be HOST:PORT"),
        (("localhost", 1, 0), "must be HOST:PORT"),
        ((":1234", 1, 0), "must be HOST:PORT"),
        (("::1:1234", 1, 0), "such as node1:1234 or [::1]:1234"),
        (("a b:1234", 1, 0), "must be HOST:PORT"),
        (("localhost:", 1, 0), "must be HOST:PORT"),
        (("localhost:0", 1, 0), "a port from 1 to 65535"),
        (("localhost:65536", 1, 0), "a port from 1 to 65535"),
        (("localhost:-1", 1, 0), "must be HOST:PORT"),
        (("localhost:1234", 0, 0), "--num_processes=0: must be 1 or more"),
        (("localhost:1234", 2, 2), "--process_id=2: must be from 0 to 1"),
        (("[::1]:1234", 2, -1), "--process_id=-1: must be from 0 to 1"),
        (("node-1.cluster:1234", 2, 5), "--process_id=5: must be from 0 to 1"),
    ],
)
def test_wrong_addresses_and_numbers(connected, given, words):
    with pytest.raises(UserError) as error:
        processes.initialize(*given, detect=False)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not connected


@pytest.mark.parametrize("address", ["localhost:1", "[::1]:65535", "node_1.a-b.c:80", "10.0.0.1:9"])
def test_good_addresses(connected, address):
    processes.initialize(address, 2, 1, detect=False)
    assert connected == [(address, 2, 1)]
