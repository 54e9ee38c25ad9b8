"""Shared by the tests of this folder: two hosts."""

import pytest
from hosts import Host


@pytest.fixture
def two_hosts(tmp_path):
    """Yield two hosts, node-a and node-b, that are joined by a cable."""
    addresses = {"node-a": "192.0.2.1", "node-b": "192.0.2.2"}  # addresses for documentation
    table = tmp_path / "hosts"
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    table.write_text("\n".join(lines) + "\n")
    hosts = []
    try:
        for name in addresses:
            hosts.append(Host(name, table))
        first, second = hosts
        cable = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns"]
        first.run(*cable, str(second.keeper.pid))
        for host, address in zip(hosts, addresses.values(), strict=True):
            host.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")
        yield first, second
    finally:
        for host in hosts:
            host.remove()
