"""What a soak is judged by finds what it is for."""

from __future__ import annotations

import pytest

from mas_sandbox.wire.errors import ErrorCode
from soak.gauge import compare
from soak.ledger import Ledger, new_token


def begun(*tokens: str) -> Ledger:
    ledger = Ledger()
    for token in tokens:
        ledger.begin("bash", token)
    return ledger


def counts(ledger: Ledger) -> tuple[int, int, int, int]:
    return ledger.lost, ledger.duplicated, ledger.cross_delivered, ledger.unexpected


def test_an_answer_with_its_own_token_once_is_sound() -> None:
    token = new_token()
    ledger = begun(token)
    ledger.answer(token, f"{token}\n")
    ledger.finish()
    assert (ledger.sound, ledger.answered["bash"], ledger.calls) == (True, 1, 1)


def test_an_answer_without_its_token_is_lost() -> None:
    ledger = begun(token := new_token())
    ledger.answer(token, "")
    assert counts(ledger) == (1, 0, 0, 0)


def test_a_call_that_nothing_came_for_is_lost() -> None:
    ledger = begun(new_token())
    ledger.finish()
    assert counts(ledger) == (1, 0, 0, 0)


@pytest.mark.parametrize("form", ["{0} {0}", "{0}{0}"])
def test_output_that_came_twice_is_found(form: str) -> None:
    ledger = begun(token := new_token())
    ledger.answer(token, form.format(token))
    assert counts(ledger) == (0, 1, 0, 0)


def test_a_second_answer_is_found_and_one_that_nobody_asked_for() -> None:
    ledger = begun(token := new_token())
    ledger.answer(token, token)
    ledger.answer(token, token)
    ledger.refuse(new_token(), ErrorCode.OVERLOADED, "come back")
    assert counts(ledger) == (0, 2, 0, 0)


def test_an_answer_to_an_abandoned_call_is_found() -> None:
    ledger = begun(token := new_token())
    ledger.abandon(token)
    ledger.answer(token, token)
    assert counts(ledger) == (0, 1, 0, 0)


def test_what_belongs_to_another_is_found_in_answers_and_in_errors() -> None:
    one, other = new_token(), new_token()
    ledger = begun(one, other)
    ledger.answer(one, f"{one} {other}")
    ledger.refuse(other, ErrorCode.GUEST_LOST, f"the call {one} is gone")
    assert counts(ledger) == (0, 0, 2, 0)


def test_errors_that_faults_explain_are_no_problem_and_others_are() -> None:
    one, other, third = new_token(), new_token(), new_token()
    ledger = begun(one, other, third)
    ledger.refuse(one, ErrorCode.GUEST_LOST, "the toolrunner is gone")
    ledger.refuse(other, ErrorCode.TOOL_FAILED, "the kernel has ended, with exit code 137")
    assert ledger.sound
    ledger.refuse(third, ErrorCode.INTERNAL, "a fault in the daemon")
    assert counts(ledger) == (0, 0, 0, 1)


def test_growth_is_found_and_noise_is_not() -> None:
    flat = [100.0, 90, 100, 104, 99, 101, 95, 100, 102, 98]
    assert compare("descriptors", flat).flat
    leaking = [100.0 + 8 * number for number in range(20)]
    change = compare("descriptors", leaking)
    assert (change.flat, change.ratio > 1.5) == (False, True)
    assert not compare("threads", [3] * 10 + [9] * 10).flat
    assert not compare("cgroups", [0] * 10 + [40] * 10).flat
