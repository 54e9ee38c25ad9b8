"""Many answers at once, with continuous batching over a paged cache. Introduced in chapter 15."""

import time
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from bigmodel_helpers.inference._blocks import SIZE, Blocks, NoBlocks, Pool, extend_names, part_of
from bigmodel_helpers.inference._requests import Choose, Full, Request, Statistics
from bigmodel_helpers.inference.packed import Packed
from bigmodel_helpers.models.transformer import Transformer


class Engine:
    """Answers many requests together: each step computes the next tokens of all that run (Orca, Yu et al. 2022).

    Keys and values are in blocks of 16 tokens (PagedAttention, Kwon et al. 2023, arXiv:2309.06180). Requests that
    begin alike share full blocks; a fork shares all until it writes. Long prompts are read in parts between the
    tokens of others (Sarathi, Agrawal et al. 2023, arXiv:2308.16369). Where blocks run out, the youngest request
    gives its own back and is computed again later. The blocks are those of one network: another one, or one with
    another adapter, needs its own engine. Not for several threads at once.

    Args:
        model: a network, which is packed as ``"plain"``, or one that is packed.
        blocks: how many blocks the cache has.
        most_running: requests that are computed together.
        most_waiting: requests that may wait for that.
        budget: tokens per step, at least `most_running`; what the next tokens of answers leave goes to prompts.

    Attributes:
        waiting, running: requests, the oldest first.
        blocks: ``len(engine.blocks)`` are all blocks, ``engine.blocks.available()`` those that can be taken.
        cache_bytes: memory of the blocks.
        statistics: a `Statistics`.

    Raises:
        ValueError: a number is no positive whole one, or `budget` is less than `most_running`.

    >>> network = models.Transformer(models.TransformerConfig(1, 8, 16, 2, 1, vocabulary=10))
    >>> engine = inference.Engine(network, blocks=4)
    >>> request = engine.submit(inference.Request([3, 1, 4], most=5))
    >>> engine.run()
    >>> request.state, len(request.answer), engine.blocks.available()
    ('finished', 5, 4)
    """

    def __init__(
        self,
        model: Transformer | Packed,
        *,
        blocks: int = 256,
        most_running: int = 16,
        most_waiting: int = 64,
        budget: int = 64,
    ) -> None:
        numbers = {"blocks": blocks, "most_running": most_running, "most_waiting": most_waiting}
        for name, number in (numbers | {"budget": budget}).items():
            if type(number) is not int or number < 1:
                raise ValueError(f"{name} is {number!r:.99}: take a whole number of at least 1")
        if budget < most_running:
            raise ValueError(
                f"budget is {budget}, less than most_running, {most_running}: prompts would wait for ever"
            )
        self.packed = model if isinstance(model, Packed) else Packed(model)
        self.blocks, self._pool = Blocks(blocks), Pool(self.packed, blocks)
        self.cache_bytes = self._pool.memory.nbytes
        self.most_running, self.most_waiting, self.budget = most_running, most_waiting, budget
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.statistics = Statistics()

    def submit(self, request: Request) -> Request:
        """Let a request wait for its turn, and return it.

        Raises:
            Full: too many wait.
            ValueError: the request was submitted before, its prompt is empty or has a token that the network does not
                know, or it can never fit into the cache or the positions.
        """
        self._check(request)
        if len(self.waiting) >= self.most_waiting:
            self._admit()  # into places that are free
        if len(self.waiting) >= self.most_waiting:
            raise Full(f"{len(self.waiting)} requests wait: come back later")
        request.prompt, request.state = [*request.prompt], "waiting"
        request.times.append(time.perf_counter())
        self.waiting.append(request)
        return request

    def _check(self, request: Request) -> None:
        config = self.packed.config
        if request.state != "new":
            raise ValueError(f"the request is {request.state}: make a new one")
        if type(request.most) is not int or request.most < 1:
            raise ValueError(f"most is {request.most!r:.99}: take a whole number of at least 1")
        if not len(request.prompt):
            raise ValueError("the prompt is empty: pass one token at least")
        for token in request.prompt:
            if not _is_token(token, config.vocabulary):
                raise ValueError(
                    f"prompt has {token!r:.99}: tokens are whole numbers from 0 to {config.vocabulary - 1}"
                )
        longest = len(request.prompt) + request.most - 1  # the last token of the answer is not computed
        room = min(len(self.blocks) * SIZE, config.positions or longest)
        if longest > room:
            raise ValueError(f"{longest} tokens never fit into {room}: shorten the prompt or the answer")

    def cancel(self, request: Request) -> None:
        """Take a request out, with the answer as it is; one that has ended stays as it is."""
        if request.state == "waiting":
            self.waiting.remove(request)
        elif request.state == "running":
            self._leave(request)
        else:
            return
        request.state = "cancelled"

    def fork(self, request: Request, choose: Choose | None = None) -> Request:
        """Return a second request that goes on from where a running one is; memory is shared until it is written.

        Args:
            choose: of the second one; None for the same, which must not keep a state of its own.

        Raises:
            Full: as many run as may.
            ValueError: the request does not run.
        """
        if request.state != "running":
            raise ValueError(f"the request is {request.state}: fork one that is running")
        if len(self.running) >= self.most_running:
            raise Full(f"{len(self.running)} requests run: come back later")
        twin = Request(request.prompt, request.most, request.end, choose or request.choose)
        twin.answer, twin.times = [*request.answer], [*request.times]
        twin._blocks = [self.blocks.share(block) for block in request._blocks]
        twin._names, twin._done, twin.state = [*request._names], request._done, "running"
        self.running.append(twin)
        return twin

    def run(self) -> None:
        """Step until no request waits or runs."""
        while self.waiting or self.running:
            self.step()

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Let requests in, compute their next tokens, and return those that finished or failed.

        A request whose `choose` raises an exception fails alone. Where the step itself is interrupted, such as by
        lack of memory, another one takes up what was not done.
        """
        self._admit()
        plan = self._plan()
        if not plan:
            return []
        ends = [request for request, count in plan if count == request._missing]
        rows = dict(zip(ends, self._scores(plan, ends), strict=True))
        self.statistics.steps += 1
        self.statistics.computed += sum(count for _, count in plan)
        ended = []
        for request, count in plan:
            if request.state != "running":
                continue  # cancelled by what another one calls
            if request not in rows:
                self._computed(request, count)
            elif self._append(request, count, rows[request]):
                ended.append(request)
        return ended

    def _append(self, request: Request, count: int, scores: Tensor) -> bool:
        """Choose the next token of a request, and say whether that ended it."""
        token = None
        try:
            token = request.choose(request.tokens, scores)
            if not _is_token(token, len(scores)):
                raise ValueError(
                    f"choose returned {token!r:.99}: tokens are whole numbers below {len(scores)}"
                )
        except Exception as error:
            request.error = error
        if request.state != "running":  # cancelled by what it calls itself
            return False
        state = "failed"
        if request.error is None:
            self._computed(request, count)
            request.answer.append(token)
            request.times.append(time.perf_counter())
            if token != request.end and len(request.answer) < request.most:
                return False
            state = "finished"
        self._leave(request)
        request.state = state
        return True

    def _admit(self) -> None:
        """Let requests run, the oldest first, while there is memory for what they have to compute."""
        promised = sum(_size(request) - len(request._blocks) for request in self.running)
        while self.waiting and len(self.running) < self.most_running:
            request = self.waiting[0]
            extend_names(request._names, request.tokens)
            most = (len(request.tokens) - 1) // SIZE  # the last token is computed for its scores
            found = self.blocks.shared_prefix(request._names[:most])
            promised += _size(request) - len(found)
            if self.running and promised > self.blocks.available():
                self.blocks.release(found)
                return
            self.waiting.popleft()
            request._blocks, request._done, request.state = found, len(found) * SIZE, "running"
            request.shared += request._done
            self.statistics.shared += request._done
            self.running.append(request)

    def _leave(self, request: Request) -> None:
        self.running.remove(request)
        self.blocks.release(request._blocks)
        request._blocks, request._done = [], 0

    def _plan(self) -> list[tuple[Request, int]]:
        """Return how many tokens of which requests are computed now; all have blocks for them."""
        plan: dict[Request, int] = {}
        for request in sorted(self.running, key=lambda each: each._missing > 1):
            while request.state == "running":
                count = min(request._missing, self.budget - sum(plan.values()))
                if not count:
                    break
                try:
                    self._make_room(request, count)
                except NoBlocks:
                    plan.pop(self._preempt(), None)
                    continue
                plan[request] = count
                break
        return [*plan.items()]

    def _preempt(self) -> Request:
        """Let the youngest request give its blocks back and wait."""
        youngest = self.running[-1]
        self._leave(youngest)
        youngest.state, youngest.preempted = "waiting", youngest.preempted + 1
        self.statistics.preemptions += 1
        self.waiting.appendleft(youngest)
        return youngest

    def _make_room(self, request: Request, count: int) -> None:
        """Give a request blocks of its own for its next tokens: new ones, or copies of shared ones."""
        blocks = request._blocks
        for index in range(request._done // SIZE, -(-(request._done + count) // SIZE)):
            if index == len(blocks):
                blocks.append(self.blocks.take())
                self._pool.clear(blocks[index])
            elif self.blocks.references[blocks[index]] > 1:
                own, shared = self.blocks.take(), blocks[index]
                self._pool.copy(shared, own)
                self.blocks.release([shared])
                blocks[index] = own

    def _computed(self, request: Request, count: int) -> None:
        """Note that tokens are in the cache, and the names of blocks that became full."""
        full, request._done = request._done // SIZE, request._done + count
        if request._done // SIZE > full:
            extend_names(request._names, request.tokens)
            for index in range(full, request._done // SIZE):
                self.blocks.name(request._blocks[index], request._names[index])

    def _scores(self, plan: Sequence[tuple[Request, int]], ends: Sequence[Request]) -> Tensor:
        """Compute the tokens of a plan, single ones together; return the scores after the last ones of `ends`."""
        singles = [request for request, count in plan if count == 1]
        groups = [(singles, 1)] if singles else []
        groups += [([request], count) for request, count in plan if count > 1]
        tokens, parts, last = [], [], {}
        for requests, count in groups:
            for request in requests:
                tokens += request.tokens[request._done : request._done + count]
                last[request] = len(tokens) - 1
            parts.append(part_of([(each._blocks, each._done) for each in requests], count))
        return self._pool.scores(tokens, parts, [last[request] for request in ends])


def _size(request: Request) -> int:
    """Return the number of blocks that the tokens of a request fill."""
    return -(-len(request.tokens) // SIZE)


def _is_token(token: object, vocabulary: int) -> bool:
    return type(token) is int and 0 <= token < vocabulary
