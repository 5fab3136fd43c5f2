"""Who owns which block of the key/value cache, and which blocks hold a prefix worth reusing. No tensors here.

A block holds the keys and values of BLOCK_SIZE consecutive tokens in all layers. A full block of a prompt is known
by (namespace, all tokens up to its end); blocks are shared by sequences that begin alike in the same namespace, and
keep their content after the last user has left, until the room is needed. What only one sequence ever began with goes
first, the least recently used first: else the ends of a few requests, which nobody asks again, would push out the
beginnings that all requests to other adapters share (a segmented list, Karedla et al. 1994).
"""

from collections import OrderedDict
from collections.abc import Sequence as TokenIds
from dataclasses import dataclass, field

BLOCK_SIZE = 16
PROTECTED_SHARE = 0.75
"""Most of the reusable blocks that are kept because they were shared: new beginnings have to get their chance."""
PADDING_BLOCK = 0
"""Never owned and always zero: the cache content that padding positions point to."""


@dataclass(frozen=True)
class Namespace:
    """Whose prefixes may meet: those of one adapter and one salt. A bare base model is shared by teams, so without a
    salt it has no namespace, and nothing of it is kept.
    """

    adapter_uid: int | None
    salt: str | None = None


PrefixKey = tuple[Namespace, int, tuple[int, ...]]
"""(namespace, block of the preceding prefix or PADDING_BLOCK, the block's own tokens)."""


@dataclass
class _Block:
    users: int = 0
    key: PrefixKey | None = None
    children: set[PrefixKey] = field(default_factory=set)
    was_shared: bool = False
    """Whether a second sequence has found its content."""


class BlockPool:
    """Allocation, sharing and eviction of cache blocks.

    A prefix is found by walking from block to block, each key naming its parent block; so equal keys mean equal
    token prefixes exactly, without trusting a hash. A block that loses its content takes its descendants' keys
    with it, because their parent no longer says what it said.
    """

    def __init__(self, total_blocks: int, *, max_reusable: int, prefix_cache: bool = True) -> None:
        """`total_blocks` includes the padding block.

        `max_reusable`: blocks without a user that may keep their content. Blocks freed last are used first, so memory
        that neither running sequences nor the prefix cache need is never touched, and costs nothing on the CPU.
        """
        self._max_reusable = max_reusable
        self._blocks = [_Block() for _ in range(total_blocks)]
        self._unused = list(range(total_blocks - 1, PADDING_BLOCK, -1))
        self._once: OrderedDict[int, None] = OrderedDict()
        self._shared: OrderedDict[int, None] = OrderedDict()
        self._by_key: dict[PrefixKey, int] = {}
        self._prefix_cache = prefix_cache

    @property
    def capacity_tokens(self) -> int:
        """Tokens that fit when nothing else is running."""
        return (len(self._blocks) - 1) * BLOCK_SIZE

    @property
    def free_blocks(self) -> int:
        """Blocks without a user; some of them hold a reusable prefix."""
        return len(self._unused) + self._reusable

    @property
    def _reusable(self) -> int:
        return len(self._once) + len(self._shared)

    @property
    def used_share(self) -> float:
        """Share of the blocks in use by running sequences, 0 to 1."""
        total = len(self._blocks) - 1
        return (total - self.free_blocks) / total

    @property
    def cached_blocks(self) -> int:
        """Blocks that hold a known prefix, in use or not."""
        return len(self._by_key)

    def acquire_prefix(self, namespace: Namespace, token_ids: TokenIds[int]) -> list[int]:
        """Return the cached blocks of the longest known prefix, and become a user of each.

        The last token is never covered: its logits are wanted, so it has to be computed.
        """
        found: list[int] = []
        parent = PADDING_BLOCK
        for start in range(0, len(token_ids) - BLOCK_SIZE, BLOCK_SIZE):
            block = self._by_key.get((namespace, parent, tuple(token_ids[start : start + BLOCK_SIZE])))
            if block is None:
                break
            self._blocks[block].users += 1
            self._blocks[block].was_shared = True
            self._take(block)
            found.append(block)
            parent = block
        return found

    def acquire_new(self, count: int) -> list[int]:
        """Return `count` blocks to write into; reusable prefixes make room.

        Raises: ValueError if fewer blocks are free; ask `free_blocks` before.
        """
        if count > self.free_blocks:
            raise ValueError(f"{count} blocks wanted, {self.free_blocks} free")
        while len(self._unused) < count:
            self._forget(self._least_useful())
        blocks = [self._unused.pop() for _ in range(count)]
        for block in blocks:
            self._blocks[block].users = 1
        return blocks

    def publish_prefix(
        self, namespace: Namespace, token_ids: TokenIds[int], block_table: list[int], computed: int
    ) -> None:
        """Make the computed full blocks of a sequence findable.

        Where an equal block is known already, the sequence goes on with its own copy and the known one stays.
        """
        if not self._prefix_cache:
            return
        parent = PADDING_BLOCK
        for index in range(computed // BLOCK_SIZE):
            block = block_table[index]
            if self._blocks[block].key is None:
                key = (namespace, parent, tuple(token_ids[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]))
                known = self._by_key.get(key)
                if known is not None:
                    parent = known
                    continue
                self._by_key[key] = block
                self._blocks[block].key = key
                self._blocks[parent].children.add(key)
            parent = block

    def private_blocks(self, block_table: TokenIds[int]) -> list[int]:
        """Return the blocks whose content nobody else can find or use."""
        return [block for block in block_table if self._blocks[block].key is None]

    def release(self, block_table: list[int]) -> None:
        """Give up a sequence's blocks. Later blocks of a prefix become evictable before earlier ones."""
        for block in reversed(block_table):
            state = self._blocks[block]
            state.users -= 1
            if state.users == 0:
                if state.key is None:
                    self._unused.append(block)
                else:
                    (self._shared if state.was_shared else self._once)[block] = None
        while len(self._shared) > PROTECTED_SHARE * self._max_reusable:
            longest_ago, _none = self._shared.popitem(last=False)
            self._blocks[longest_ago].was_shared = False
            self._once[longest_ago] = None
        while self._reusable > self._max_reusable:
            self._forget(self._least_useful())

    def _least_useful(self) -> int:
        return next(iter(self._once or self._shared))

    def _take(self, block: int) -> bool:
        """Take a block from those that can be reused; return whether it was one of them."""
        kept = self._shared if block in self._shared else self._once
        return kept.pop(block, ...) is None

    def forget_adapter(self, adapter_uid: int) -> None:
        """Drop every cached prefix of an adapter that is gone."""
        for key, block in list(self._by_key.items()):
            if key[0].adapter_uid == adapter_uid and self._blocks[block].key == key:
                self._forget(block)

    def _forget(self, block: int) -> None:
        """Make a block's content unfindable, and that of all prefixes that continue it."""
        pending = [block]
        while pending:
            current = pending.pop()
            state = self._blocks[current]
            pending += [child for key in state.children if (child := self._by_key.get(key)) is not None]
            state.children = set()
            self._unpublish(current)
            if state.users == 0 and self._take(current):
                self._unused.append(current)

    def _unpublish(self, block: int) -> None:
        key = self._blocks[block].key
        if key is None:
            return
        del self._by_key[key]
        self._blocks[key[1]].children.discard(key)
        self._blocks[block].key = None
        self._blocks[block].was_shared = False
