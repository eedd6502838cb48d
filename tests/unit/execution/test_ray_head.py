"""Whether the head of a Ray cluster is still there, without Ray: on sockets of this machine."""

import socket

from pytest_tenpak.execution import ray


def test_a_head_is_gone_after_silence_and_there_when_it_answers_again(monkeypatch):
    """A moment without an answer is not the end: heads are restarted."""
    monkeypatch.setattr(ray, "_ASK_SECONDS", -1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = listening.getsockname()
        head = ray._Head("{}:{}".format(*place))
        assert not head.is_gone
    assert not head.is_gone
    monkeypatch.setattr(ray, "_GONE_SECONDS", -1)
    assert head.is_gone
    with socket.create_server(place):
        assert not head.is_gone


def test_a_silence_is_counted_from_its_first_unanswered_question(monkeypatch):
    """Not from the last answer: a run that asked nothing for an hour has lost nothing."""
    monkeypatch.setattr(ray, "_ASK_SECONDS", -1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        head = ray._Head("ray://{}:{}".format(*listening.getsockname()))
    head._asked -= 3600
    assert not head.is_gone
