"""What clients asked of each key and what they were answered, and whether any order explains it.

A key's state is the ETag of what is there, or None; every body is written once, so that an ETag names its write. The search is
that of Wing and Gong with a memory of what was tried. What keeps it short: a look that fits the state takes nothing away from
what may come later, so that it is always taken at once; and a write without an answer, which may happen at any time after its
beginning or never, is only tried where an answer needs it.
"""

import bisect
import json
import time
from dataclasses import asdict, dataclass, replace

# The condition that nothing is there (If-None-Match: *); any other is the ETag that has to be there.
ABSENT = "*"
_IMPOSSIBLE = object()


@dataclass
class Op:
    """One call, from its beginning to its answer; without an answer it may have happened or not, or may happen yet."""

    what: str  # put, delete, read
    began: int
    etag: str = None  # what it writes, or what it saw
    condition: str = None
    by: str = ""
    ended: int = None
    # open, done, refused (for its condition, with something there), refused: nothing there, never (it has not happened)
    outcome: str = "open"
    note: str = ""

    def end(self, outcome, note=""):
        self.ended = time.monotonic_ns()
        self.outcome, self.note = outcome, note

    def saw(self, etag):
        self.etag = etag
        self.end("done")

    def is_look(self):
        return self.what == "read" or self.outcome.startswith("refused")

    def after(self, state):
        """The state that it leaves, where it fits the one that it finds."""
        holds = self.condition is None or state == (None if self.condition == ABSENT else self.condition)
        if self.outcome.startswith("refused"):
            there = self.outcome == "refused"
            return state if not holds and there == (state is not None) else _IMPOSSIBLE
        if self.what == "read":
            return state if self.etag == state else _IMPOSSIBLE
        return self.etag if holds else _IMPOSSIBLE


class History:
    """All calls of a run, by key."""

    def __init__(self):
        self.keys = {}

    def begin(self, key, what, etag=None, condition=None, by="", began=None):
        op = Op(what, began or time.monotonic_ns(), etag, condition, by)
        # Atomic, for threads.
        self.keys.setdefault(key, []).append(op)
        return op

    def save(self, path):
        path.write_text(json.dumps({key: [asdict(op) for op in ops] for key, ops in self.keys.items()}))

    @staticmethod
    def load(path):
        history = History()
        history.keys = {key: [Op(**op) for op in ops] for key, ops in json.loads(path.read_text()).items()}
        return history

    def check(self):
        """Fails with the calls on the first key that no order explains."""
        for key, ops in sorted(self.keys.items()):
            assert is_explained(ops), f"no order explains what was seen of {key}:\n{shown(ops)}"


def is_explained(ops):
    """Whether some order of the calls on a key, each between its beginning and its end, gives all answers."""
    answered = sorted((op for op in ops if op.outcome not in ("open", "never")), key=lambda op: op.began)
    unanswered = [op for op in ops if op.outcome == "open" and op.what != "read"]
    # (calls before this one are in the order, of those behind it these, the state, unanswered calls that happened)
    ways = [(0, 0, None, 0)]
    tried = {}
    while ways:
        first, behind, state, spent = ways.pop()
        if first == len(answered):
            return True
        # Who has spent less can do all that who has spent more can.
        known = tried.setdefault((first, behind, state), [])
        if any(less & ~spent == 0 for less in known):
            continue
        known.append(spent)
        first_end, may_be_next = _next(answered, first, behind)
        look = next((at for at in may_be_next if _fits(answered[at], state)), None)
        if look is not None:
            ways.append((*_with(first, behind, look), state, spent))
            continue
        found = []
        for at in may_be_next:
            for after, more in _ways(answered[at], state, unanswered, spent, first_end):
                found.append((more.bit_count(), answered[at].ended, (*_with(first, behind, at), after, more)))
        # The last is tried first: what needs little, and ended first.
        found.sort(key=lambda way: way[:2], reverse=True)
        ways.extend(way for _, _, way in found)
    return False


def _next(answered, first, behind):
    """The first end of all calls that are not in the order yet, and those that began before it."""
    first_end, left = float("inf"), []
    for at in range(first, len(answered)):
        op = answered[at]
        if op.began > first_end:
            break
        if not behind >> (at - first) & 1:
            first_end = min(first_end, op.ended)
            left.append(at)
    return first_end, [at for at in left if answered[at].began <= first_end]


def _fits(op, state):
    return op.is_look() and op.after(state) is not _IMPOSSIBLE


def _with(first, behind, at):
    behind |= 1 << (at - first)
    while behind & 1:
        first, behind = first + 1, behind >> 1
    return first, behind


def _ways(op, state, unanswered, spent, until):
    """(the state after it, unanswered calls that happened) for each way in which unanswered ones lead up to a call."""
    after = op.after(state)
    if after is not _IMPOSSIBLE:
        yield after, spent
        return
    has_deleted = False
    for number, other in enumerate(unanswered):
        if spent >> number & 1 or other.began > until or op.after(other.etag) is _IMPOSSIBLE:
            continue
        if other.etag is None and other.condition is None:
            # One delete is as good as another.
            if has_deleted:
                continue
            has_deleted = True
        for before, more in _ways(other, state, unanswered, spent | 1 << number, until):
            yield op.after(before), more


def shown(ops, lines=60):
    """The calls up to the first answer that no order explains, by their ends; the last ones of them."""

    def until(end):
        for op in ops:
            if op.began < end and op.outcome != "never":
                if op.ended is not None and op.ended <= end:
                    yield op
                elif op.what != "read" and not op.outcome.startswith("refused"):
                    # What is answered later may have happened by then, or not.
                    yield replace(op, outcome="open")

    ends = sorted(op.ended for op in ops if op.ended is not None and op.outcome != "open")
    at = bisect.bisect_left(range(len(ends)), True, key=lambda at: not is_explained(list(until(ends[at]))))
    told = sorted(until(ends[at]), key=lambda op: (op.outcome == "open", op.ended or 0, op.began))
    began = min(op.began for op in told)

    def line(op):
        times = [f"{(moment - began) / 1e6:.3f}" if moment else "-" for moment in (op.began, op.ended)]
        condition = {None: "", ABSENT: " if absent"}.get(op.condition, f" if {op.condition}")
        return f"{times[0]}..{times[1]} ms {op.by} {op.what} {op.etag}{condition}: {op.outcome} {op.note}"

    answered = [op for op in told if op.outcome != "open"]
    return "\n".join(line(op) for op in answered[-lines:] + [op for op in told if op.outcome == "open"])
