"""The address by which Gloo, the collective communication of CPU training, connects the workers.

Gloo resolves the host's own name by default. On many Linux machines that name means 127.0.0.1 or 127.0.1.1, so that the
workers of other nodes connect to themselves. Ray knows the address under which a node is reached.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Any

import ray
from ray.train.torch import TorchConfig

VARIABLE = "GLOO_SOCKET_IFNAME"
GET_ADDRESS = 0x8915
"The request SIOCGIFADDR of Linux: the IPv4 address of a network interface."


def interface_of(address: str) -> str | None:
    """Return the name of this machine's network interface with an IPv4 address, or None if there is none.

    Example:
        >>> interface_of("127.0.0.1")
        'lo'
    """
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                answer = fcntl.ioctl(probe.fileno(), GET_ADDRESS, struct.pack("256s", name.encode()))
            except OSError:
                # The interface has no IPv4 address, or the system is not Linux.
                continue
        if socket.inet_ntoa(answer[20:24]) == address:
            return name
    return None


def use_own_address() -> None:
    """Let Gloo use the interface under which Ray reaches this node, unless the user has named one."""
    if VARIABLE not in os.environ and (name := interface_of(ray.util.get_node_ip_address())):
        os.environ[VARIABLE] = name


class OwnAddressConfig(TorchConfig):
    """Ray Train's configuration of torch, with `use_own_address` in each worker before the workers connect."""

    @property
    def backend_cls(self) -> Any:
        torch_backend: Any = super().backend_cls

        class Backend(torch_backend):
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                worker_group.execute(use_own_address)
                super().on_start(worker_group, backend_config)

        return Backend
