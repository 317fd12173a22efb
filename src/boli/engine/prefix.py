"""What has been computed and can be used again: a radix tree over token ids.

A digit of the tree is a page: the tokens of `page_size` positions. A node stands for all tokens on the
way to it and holds the page with the keys and values of the last ones; these depend on exactly those
tokens, and on nothing else, to the last bit. So a request that begins with the same tokens goes down
the tree and takes the pages that it passes into its own table.

Only full pages whose positions are all computed come into the tree: one that is half filled stays with
its request and is free when that ends, however it ends.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from boli.engine.pages import PagePool, PageTable

Salt = str | bytes | None


class PrefixTree:
    """The pages of one runner, and which of them hold what.

    Whoever holds a page holds all pages before it, and lets go of the last one first. So of two cached
    pages the deeper one has been unused longer, and the one that is evicted is always a leaf. Every
    look-up, insertion and eviction takes constant time a page.

    Args:
        num_pages: Pages of the runner.
        page_size: Positions in a page.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.pool = PagePool(num_pages, self._cut)
        self.reset()

    def reset(self) -> None:
        """Forgets everything and makes all pages free."""
        self.pool.reset()
        self._roots: dict[Salt, _Node] = {}
        self._node_of: dict[int, _Node] = {}

    def __contains__(self, page: int) -> bool:
        return page in self._node_of

    def __len__(self) -> int:
        """How many pages are in the tree."""
        return len(self._node_of)

    @property
    def salts(self) -> list[Salt]:
        """Those under which there are pages."""
        return list(self._roots)

    def adopt(self, table: PageTable, tokens: Sequence[int], salt: Salt) -> int:
        """Goes on with a table's tokens as far as the tree knows them, and takes those pages into it.

        The last token is never among them, as it must be computed to give logits.

        Args:
            table: Of a request; its first pages may be from the tree already.
            tokens: All tokens of that request.
            salt: Separates requests that must not profit from each other: nobody can find out what
                others asked by measuring how fast an answer comes.

        Returns:
            How many positions the table's shared pages hold.
        """
        node = self._node_of[int(table.entries[table.shared - 1])] if table.shared else self._roots.get(salt)
        most = (len(tokens) - 1) // self.page_size
        while node is not None and table.shared < most:
            node = node.children.get(self._key(tokens, table.shared))
            if node is not None:
                table.adopt(node.page)
        return table.shared * self.page_size

    def insert(self, table: PageTable, tokens: Sequence[int], computed: int, salt: Salt) -> None:
        """Shares a table's full pages with the requests to come.

        Where the tree has a page for these tokens already, as when two requests computed the same side
        by side, the table takes that one and gives its own back: they are equal to the last bit.

        Args:
            table: Of a request.
            tokens: All tokens of that request.
            computed: How many of them have their keys and values in the table's pages.
            salt: As for `adopt`.
        """
        for index in range(table.shared, computed // self.page_size):
            page, key = int(table.entries[index]), self._key(tokens, index)
            parent = self._node_of[int(table.entries[index - 1])] if index else self._root(salt)
            known = parent.children.get(key)
            if known is not None:
                table.adopt(known.page)
            else:
                parent.children[key] = self._node_of[page] = _Node(parent, key, page)
                self.pool.keep(page)
                table.shared = index + 1

    def forget(self, table: PageTable) -> None:
        """Empties the table of a request that failed; no other shall find pages that only it used."""
        pages = table.entries[: table.shared].tolist()
        table.truncate(0)
        for page in reversed(pages):
            if self.pool.holders(page) or self._node_of[page].children:
                break
            self.pool.discard(page)
            self._cut(page)

    def _key(self, tokens: Sequence[int], index: int) -> bytes:
        # Bytes, as Python hashes them with a secret: nobody can choose tokens whose hashes collide.
        return array("i", tokens[index * self.page_size : (index + 1) * self.page_size]).tobytes()

    def _root(self, salt: Salt) -> _Node:
        return self._roots.setdefault(salt, _Node(None, salt, -1))

    def _cut(self, page: int) -> None:
        """Takes a leaf out of the tree, and its root if that was all."""
        node = self._node_of.pop(page)
        parent = node.parent
        assert parent is not None and not node.children, "only leaves are cut"
        del parent.children[node.key]
        if parent.parent is None and not parent.children:
            del self._roots[parent.key]


class _Node:
    """A page in the tree; or a root, which has none."""

    __slots__ = ("children", "key", "page", "parent")

    def __init__(self, parent: _Node | None, key: Salt, page: int) -> None:
        self.parent = parent
        self.key = key
        self.page = page
        self.children: dict[Salt, _Node] = {}
