"""Blocks are never lost, never shared by mistake, and found again only for exactly equal beginnings."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gpu_worker.engine.block_pool import BLOCK_SIZE, BlockPool, Namespace

TOTAL = 12
ALONE = Namespace(None, "salt")


class PoolMachine(RuleBasedStateMachine):
    """Random sequences over two token blocks and two adapters; a shadow remembers what each block should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(TOTAL, max_reusable=TOTAL)
        self.running: list[tuple[int, tuple[int, ...], list[int]]] = []
        self.content: dict[int, tuple[int, tuple[int, ...]]] = {}

    @rule(adapter=st.sampled_from([1, 2]), pattern=st.lists(st.sampled_from([7, 8]), min_size=1, max_size=4))
    def start(self, adapter: int, pattern: list[int]) -> None:
        tokens = (*(token for token in pattern for _ in range(BLOCK_SIZE)), 9)
        cached = self.pool.acquire_prefix(Namespace(adapter), tokens)
        for index, block in enumerate(cached):
            assert self.content[block] == (adapter, tokens[: (index + 1) * BLOCK_SIZE])
        missing = len(pattern) + 1 - len(cached)
        if missing > self.pool.free_blocks:
            self.pool.release(cached)
            return
        new = self.pool.acquire_new(missing)
        held = {block for _, _, table in self.running for block in table}
        assert not held.intersection(new)
        table = cached + new
        for index in range(len(pattern)):
            self.content[table[index]] = (adapter, tokens[: (index + 1) * BLOCK_SIZE])
        self.pool.publish_prefix(Namespace(adapter), tokens, table, len(tokens))
        self.running.append((adapter, tokens, table))

    @precondition(lambda self: self.running)
    @rule(index=st.integers(min_value=0))
    def end(self, index: int) -> None:
        _, _, table = self.running.pop(index % len(self.running))
        self.pool.release(table)

    @rule(adapter=st.sampled_from([1, 2]))
    def forget(self, adapter: int) -> None:
        self.pool.forget_adapter(adapter)
        if not any(uid == adapter for uid, _, _ in self.running):
            assert self.pool.acquire_prefix(Namespace(adapter), (7,) * (BLOCK_SIZE + 1)) == []

    @invariant()
    def no_block_is_lost(self) -> None:
        held = {block for _, _, table in self.running for block in table}
        assert self.pool.free_blocks == TOTAL - 1 - len(held)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=30, stateful_step_count=30)


def test_the_last_token_is_always_computed() -> None:
    pool = BlockPool(8, max_reusable=8)
    tokens = tuple(range(2 * BLOCK_SIZE))
    table = pool.acquire_new(2)
    pool.publish_prefix(ALONE, tokens, table, len(tokens))
    assert pool.acquire_prefix(ALONE, tokens) == table[:1]
    assert pool.acquire_prefix(ALONE, (*tokens, 99)) == table


def test_the_least_recently_used_prefix_makes_room() -> None:
    pool = BlockPool(4, max_reusable=4)
    for first in (1, 2, 3):
        table = pool.acquire_new(1)
        pool.publish_prefix(ALONE, (first,) * BLOCK_SIZE, table, BLOCK_SIZE)
        pool.release(table)
    touched = pool.acquire_prefix(ALONE, (1,) * (BLOCK_SIZE + 1))
    pool.release(touched)
    pool.acquire_new(1)
    assert pool.acquire_prefix(ALONE, (2,) * (BLOCK_SIZE + 1)) == []
    assert pool.acquire_prefix(ALONE, (1,) * (BLOCK_SIZE + 1)) == touched


def test_only_so_many_blocks_keep_content_without_a_user() -> None:
    pool = BlockPool(10, max_reusable=2)
    tokens = tuple(range(5 * BLOCK_SIZE))
    table = pool.acquire_new(5)
    pool.publish_prefix(ALONE, tokens, table, len(tokens))
    pool.release(table)
    assert pool.cached_blocks == 2
    assert pool.acquire_prefix(ALONE, tokens) == table[:2]


def begin_and_end(pool: BlockPool, adapter: int, number: int, *, blocks: int) -> int:
    """Run a request whose first block is its adapter's beginning; return how many blocks it found."""
    own = tuple(1000 * number + place for place in range((blocks - 1) * BLOCK_SIZE))
    tokens = (*(adapter,) * BLOCK_SIZE, *own)
    namespace = Namespace(adapter)
    cached = pool.acquire_prefix(namespace, (*tokens, 1))
    table = cached + pool.acquire_new(blocks - len(cached))
    pool.publish_prefix(namespace, tokens, table, len(tokens))
    pool.release(table)
    return len(cached)


def test_what_was_shared_outlives_what_was_asked_once() -> None:
    """Ten adapters in turn, each with a beginning of its own, and room for the ends of a few requests only."""
    pool = BlockPool(200, max_reusable=24)
    for adapter in range(10):
        for number in range(2):
            begin_and_end(pool, adapter, 10 * adapter + number, blocks=5)
    found = [begin_and_end(pool, number % 10, 100 + number, blocks=5) for number in range(30)]
    assert found == [1] * 30


def test_what_was_shared_once_upon_a_time_leaves_room_for_new_beginnings() -> None:
    pool = BlockPool(200, max_reusable=8)
    for adapter in range(8):
        for number in range(2):
            begin_and_end(pool, adapter, 10 * adapter + number, blocks=1)
    # two blocks remain for what is new: enough to be found by the next one, and to be protected from then on
    assert begin_and_end(pool, 20, 200, blocks=1) == 0
    assert begin_and_end(pool, 20, 201, blocks=1) == 1
    assert begin_and_end(pool, 7, 202, blocks=1) == 1
    assert begin_and_end(pool, 0, 203, blocks=1) == 0
