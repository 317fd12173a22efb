"""Guessing the next tokens for nothing, and when a guess is worth its rows.

A step that reads all weights for one token can take a few more tokens for little more time. If the
tokens that will come are guessed, one step verifies the guesses and yields several tokens; what was
guessed wrongly costs only its rows, and never changes the text.

The guesses need no second model: text repeats itself, in code, lists, quotations and answers about a
document. What followed the last tokens the last time they stood there is the guess. The idea is known
as *prompt lookup decoding* (Saxena 2023) and, with matches of any length and the agreement of earlier
occurrences, as *suffix decoding* (Oliaro et al. 2024, https://arxiv.org/abs/2411.04975); the bookkeeping
is that of the match finders of LZ77 compressors: a table of pairs, and chains of earlier places.

How many tokens to guess is a question of cost and luck (Leviathan et al. 2022,
https://arxiv.org/abs/2211.17192): `StepCosts` knows what a step of so many rows takes on this machine,
`Acceptance` how often this request's guesses come true.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

# On code, documentation and edited files, sixteen places gave within 0.5 % as many tokens a step as
# the longest match over all places (a suffix automaton's), at a fraction of the memory and time.
PLACES = 16
LONGEST = 32  # longer matches are as good as this one
MARGIN = 1.02  # what a draft must gain at least
SELDOM = 0.05  # a guess that comes true more rarely is not made, however cheap
_PAIR_BITS = 32


class Drafter:
    """Guesses a request's next tokens from its own earlier ones.

    Of the places where the last two tokens stood before, the `PLACES` latest and the one that was
    followed last are compared backwards. The longest match is the best guess, the latest of several.

    It keeps about 120 bytes a token at most, and takes less than a microsecond a token and some ten a
    guess. Nothing is computed before the first guess is asked for.

    Args:
        tokens: The prompt's ids, not negative.
    """

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens = list(tokens)
        self._last: dict[int, int] = {}  # where a pair of tokens ended last
        self._before = array("i")  # where the pair that ends here ended before, or -1
        self._followed = -1  # how far back the match lay that was used last

    def extend(self, tokens: Sequence[int]) -> None:
        """Adds the tokens that really came."""
        self._tokens.extend(tokens)

    def propose(self, most: int) -> list[int]:
        """Guesses at most `most` tokens; none if the last two tokens were never there before.

        A guess is at most twice as long as its match, and ends where places with equally long
        matches disagree. A match that reaches the end of the text goes on in circles.
        """
        if most <= 0 or len(self._tokens) < 2:
            return []
        length, places = self._match()
        draft: list[int] = []
        if not places:
            return draft
        tokens, known = self._tokens, len(self._tokens)
        for ahead in range(1, 1 + min(most, 2 * length)):
            following = (place + ahead for place in places)
            options = [tokens[place] if place < known else draft[place - known] for place in following]
            if draft and options.count(options[0]) < len(options):
                break
            draft.append(options[0])
        self._followed = known - 1 - places[0]
        return draft

    def _match(self) -> tuple[int, list[int]]:
        """The length of the longest match, and where it ended before, latest first."""
        self._catch_up()
        tokens, end = self._tokens, len(self._tokens) - 1
        best, found = 2, list[int]()
        for place in self._candidates(end):
            if place < best - 1 or tokens[place - best + 1] != tokens[end - best + 1]:
                continue  # shorter than the best
            length = 0
            while length <= place and tokens[place - length] == tokens[end - length] and length < LONGEST:
                length += 1
            if length > best:
                best, found = length, [place]
            elif length == best:
                found.append(place)
            if length == LONGEST:
                break  # needs no second opinion
        return best, found

    def _candidates(self, end: int) -> list[int]:
        """Where the pair at the end stood before, and where the last match goes on."""
        places: list[int] = []
        place = self._before[end]
        while place >= 0 and len(places) < PLACES:
            places.append(place)
            place = self._before[place]
        on = end - self._followed
        if place >= 0 and 0 <= on <= place:  # otherwise it is in the list, or ends in another pair
            places.append(on)
        return places

    def _catch_up(self) -> None:
        """Enters the tokens that came since the last guess."""
        tokens, last, before = self._tokens, self._last, self._before
        if not before:
            before.append(-1)
        for end in range(len(before), len(tokens)):
            pair = tokens[end - 1] << _PAIR_BITS | tokens[end]
            before.append(last.get(pair, -1))
            last[pair] = end


class StepCosts:
    """What a step of so many rows takes on this machine: measured, not modelled.

    For each number of rows the lower median of the last five steps counts, and the first step counts
    for nothing, as it warms caches up. Numbers of rows not seen lie on a line between their neighbours;
    beyond the largest the line goes on, and a single number speaks for all, so that more rows are
    tried once. What was not seen for `MEMORY` steps is forgotten, as contexts grow and machines get
    busy: so the table is bounded, and an outdated cost is measured again.

    Observe steps in which every row wants logits (decoding and verification); prompts cost less a row.
    """

    MEMORY = 512
    RECENT = 5

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}  # least recently seen first
        self._seen: dict[int, int] = {}
        self._costs: dict[int, float] = {}
        self._rows: list[int] = []  # the keys of `_costs`, ascending
        self._steps = 0

    def observe(self, rows: int, seconds: float) -> None:
        """Enters a step of `rows` rows that took `seconds`."""
        self._steps += 1
        recent = self._recent.pop(rows, None)
        if recent is None:
            recent = deque(maxlen=self.RECENT)
        else:
            recent.append(seconds)
            if rows not in self._costs:
                insort(self._rows, rows)
            self._costs[rows] = sorted(recent)[(len(recent) - 1) // 2]
        self._recent[rows] = recent
        self._seen[rows] = self._steps
        self._forget()

    def estimate(self, rows: int) -> float:
        """Seconds of a step of `rows` rows; 0 as long as nothing is known."""
        known, costs = self._rows, self._costs
        if not known:
            return 0.0
        index = bisect_left(known, rows)
        if index < len(known) and (index == 0 or known[index] == rows):
            return costs[known[index]]
        if len(known) == 1:
            return costs[known[0]]
        high = min(index, len(known) - 1)
        first, second = known[high - 1], known[high]
        slope = (costs[second] - costs[first]) / (second - first)
        if index == len(known):  # beyond the largest: more rows never take less time
            return costs[second] + max(0.0, slope) * (rows - second)
        return costs[first] + slope * (rows - first)

    def _forget(self) -> None:
        oldest = next(iter(self._recent))
        if self._steps - self._seen[oldest] >= self.MEMORY:
            del self._recent[oldest], self._seen[oldest]
            if self._costs.pop(oldest, None) is not None:
                self._rows.remove(oldest)


class Acceptance:
    """How often one request's guesses come true, and so how many are worth making.

    The chance that a guessed token is right, given that those before it were, is taken from the last
    thirty or so that were put to the test. Where guessing does not pay, it stops; a short probe now
    and then finds out whether the text has changed. The pauses between probes that fail double, so
    that probes cost next to nothing in the end.
    """

    MEMORY = 0.97  # what a trial is worth one trial later
    PROBE = 2
    FIRST_PAUSE = 32  # tokens
    LAST_PAUSE = 512

    def __init__(self) -> None:
        self._right = self._wrong = 2.0  # as if half of four guesses had come true
        self._skipped = 0
        self._pause = self.FIRST_PAUSE

    @property
    def rate(self) -> float:
        """The chance that the next guessed token is right."""
        return self._right / (self._right + self._wrong)

    def observe(self, proposed: int, accepted: int) -> None:
        """Enters a verified draft: of `proposed` tokens the first `accepted` were right."""
        if proposed <= 0:
            return
        if self._probing:
            self._skipped = 0
            whole = accepted == proposed
            self._pause = self.FIRST_PAUSE if whole else min(2 * self._pause, self.LAST_PAUSE)
            if whole:  # the text has changed: what was before says little
                self._right = self._wrong = 2.0
        failed = accepted < proposed
        weight = self.MEMORY ** (accepted + failed)
        self._right = self._right * weight + accepted
        self._wrong = self._wrong * weight + failed

    def depth(self, costs: StepCosts, rows: int, most: int, tokens: float = 1.0) -> int:
        """How many tokens to guess, to get the most tokens a second out of the step.

        With `k` guesses the step is expected to give `tokens + p + p² + … + p^k` tokens in the time of
        `rows + k` rows, where `p` is `rate`. Call this once for each step of the request.

        Args:
            costs: What steps take.
            rows: Rows of the step so far, this request's own included.
            most: The most guesses there is room for.
            tokens: Tokens that are expected of those rows: one for each request that decodes, and what
                other requests' guesses are expected to add.
        """
        depth = _best_depth(self.rate, costs, rows, most, tokens)
        if depth:
            self._skipped, self._pause = 0, self.FIRST_PAUSE
            return depth
        self._skipped += 1
        worth_it = self._probing and _best_depth(1.0, costs, rows, most, tokens)
        return min(self.PROBE, most) if worth_it else 0

    @property
    def _probing(self) -> bool:
        return self._skipped > self._pause


def _best_depth(rate: float, costs: StepCosts, rows: int, most: int, tokens: float) -> int:
    """What `Acceptance.depth` says, for guesses that come true at `rate`."""
    plain = costs.estimate(rows)
    if plain <= 0:
        return 0
    best, depth = tokens / plain * MARGIN, 0
    chance = 1.0
    for guesses in range(1, most + 1):
        chance *= rate
        if chance < SELDOM:
            break
        tokens += chance
        speed = tokens / costs.estimate(rows + guesses)
        if speed > best:
            best, depth = speed, guesses
    return depth
