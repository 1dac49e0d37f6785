"""Starts go on, the better ones longest, until unseen images are explained no better."""

from typing import cast

from frazil.reconstruct.ab_initio import MOST_TURNS, Guess, continued

# log evidence of each of four starts after 0, 1, 2, ... further turns
RISES = {0: [10.0, 10.5], 1: [9.9, 14.0, 15.0, 15.1], 2: [9.0], 3: [8.0]}


class Rounds:
    """Stands in for the rounds: a guess is a start's number and how many turns it has had."""

    def __init__(self, rises: dict[int, list[float]]) -> None:
        self.rises, self.asked = rises, []

    def go_on(self, guesses: dict[int, Guess], turn: int) -> dict[int, Guess]:
        self.asked.append((turn, sorted(guesses)))
        return {number: _guess(number, turn) for number in guesses}

    def judge(self, guess: Guess) -> float:
        number, turns = cast(tuple[int, int], guess)
        return self.rises[number][turns]


def _guess(number: int, turns: int) -> Guess:
    return cast(Guess, (number, turns))


def _continued(rises: dict[int, list[float]]) -> tuple[list[Guess], list[float], Rounds]:
    rounds = Rounds(rises)
    first = [_guess(number, 0) for number in rises]
    return *continued(first, [rise[0] for rise in rises.values()], rounds.go_on, rounds.judge), rounds


def test_the_start_that_explains_most_in_the_end_may_not_be_the_best_of_the_beginning() -> None:
    guesses, evidence, rounds = _continued(RISES)
    assert evidence == [10.5, 15.1, 9.0, 8.0] and guesses[1] == (1, 3)
    # of four two, of two one; that one goes on until it gains less than a hundredth
    assert rounds.asked == [(1, [0, 1]), (2, [1]), (3, [1])]


def test_starts_that_get_no_better_are_not_followed() -> None:
    _, evidence, rounds = _continued({0: [10.0, 10.05], 1: [9.9, 10.0]})
    assert evidence == [10.05, 9.9] and rounds.asked == [(1, [0])]


def test_a_start_that_never_ends_rising_is_left_at_last() -> None:
    _, evidence, rounds = _continued({0: [1.5**turn for turn in range(MOST_TURNS + 2)]})
    assert len(rounds.asked) == MOST_TURNS and evidence == [1.5**MOST_TURNS]
