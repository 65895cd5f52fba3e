"""Domains that are free, and stay so for the one who asked."""

import importlib
import os
import socket
from contextlib import ExitStack

import pytest

from dino_ros.demo import domain
from dino_ros.demo.domain import free_domain, in_use
from dino_ros.errors import UserError


@pytest.fixture(autouse=True)
def far_from_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others, in other processes, take the lowest that is free."""
    monkeypatch.setattr(domain, "DOMAINS", domain.DOMAINS[-20:])


def test_those_who_ask_at_once_get_different_domains() -> None:
    with ExitStack() as stack:
        domains = [stack.enter_context(free_domain()) for _ in range(5)]
    assert len(set(domains)) == 5
    with free_domain() as again:
        assert again in domains, "given back at the end"


def test_a_domain_with_a_participant_is_in_use(ros: None) -> None:
    ours = int(os.environ["ROS_DOMAIN_ID"])
    assert not in_use(ours)
    node = importlib.import_module("rclpy").create_node("participant")
    assert in_use(ours)
    node.destroy_node()


@pytest.mark.parametrize("port", [0, 10])
def test_a_domain_whose_ports_are_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    with free_domain() as first, free_domain() as second:
        pass
    monkeypatch.setattr(domain, "DOMAINS", [first, second])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 7400 + 250 * first + port))
        with free_domain() as found:
            assert found == second


def test_where_none_is_free_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with free_domain() as only:
        monkeypatch.setattr(domain, "DOMAINS", [only])
        with pytest.raises(UserError, match=str(only)), free_domain():
            pass
