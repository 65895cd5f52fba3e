"""Claims a free ROS_DOMAIN_ID, so that what runs at the same time on one machine stays separate."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from dino_ros.errors import UserError

DOMAINS = range(1, 102)
"""Those whose ports lie below Linux's range of ephemeral ports; 0 is the default domain."""
DISCOVERY, CLAIM, FIRST_PARTICIPANT = 0, 9, 10
"""Offsets of UDP ports in a domain: two that DDS uses as soon as anybody takes part, and between them one that it never
uses."""


@contextmanager
def free_domain() -> Iterator[int]:
    """Yield an unused ROS domain ID, reserved on this machine until the block ends.

    The claim is a bound port, so it ends with the process at the latest. Raises UserError if no domain is free.
    """
    for domain in DOMAINS:
        with ExitStack() as stack:
            if not (claim := _bind(domain, CLAIM)):
                continue
            stack.enter_context(claim)
            if in_use(domain):
                continue
            yield domain
            return
    raise UserError(f"All ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use: end some ROS processes.")


def in_use(domain: int) -> bool:
    """Whether any DDS participant on this machine is in a domain."""
    for offset in (DISCOVERY, FIRST_PARTICIPANT):
        probe = _bind(domain, offset)
        if probe is None:
            return True
        probe.close()
    return False


def _bind(domain: int, offset: int) -> socket.socket | None:
    """A socket on a port of a domain (DDS-RTPS 2.2, 9.6.1.1), None where somebody else has it."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind(("", 7400 + 250 * domain + offset))
    except OSError:
        bound.close()
        return None
    return bound
