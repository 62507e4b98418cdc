"""Which of the two newest transactions a store is after a power cut: one test per row of the table in ``seal``."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from active_life import held_by

from zmqha.core.message import batch_of
from zmqha.core.position import Epoch, Mode, Position
from zmqha.core.work import Append, Work
from zmqha.errors import StoreDamaged
from zmqha.store import seal
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.page_file import SEAL_AT, STORE_FILE, PageReader

EPOCH = Epoch(1, 5)


class Life:
    """A store that commits; ``states`` is what it holds after each transaction, and where it stood."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / STORE_FILE
        self.closed = False
        self.store = LmdbStore(directory, None)
        self.store.begin_epoch(EPOCH, Mode.SOLE, "a", "test", 0, 0)
        self.states: list[tuple[Position, bytes]] = []
        for number in range(1, 6):
            self.commit(number)
            self.store.flush()

    def commit(self, number: int) -> None:
        batch = batch_of([bytes([number]) * 3000], producer=1, first=number)
        self.store.commit(Work(number, number, (Append(1, number, 1, batch),)), EPOCH, 0)
        self.states.append((self.store.position, self.image()))

    def image(self) -> bytes:
        """The file as far as it is used."""
        with self.path.open("rb") as file:
            return file.read(self.store.file_bytes)

    def close(self) -> None:
        self.closed = True
        self.store.close()

    def meta_page(self, txn: int) -> int:
        """Where the meta page of a transaction begins."""
        return (txn & 1) * 4096

    def written_by(self, txn: int) -> list[int]:
        """The pages that the newest transaction wrote."""
        reader = PageReader(self.path)
        older, newest = reader.metas()
        assert newest.txnid == txn
        pages = [page for first, count in reader.changed_runs(older, newest) for page in range(first, first + count)]
        reader.close()
        return pages


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path)
    yield made
    if not made.closed:
        made.store.close()


def left_by_the_power(life: Life, directory: Path, image: bytes) -> Path:
    """A disk with these bytes."""
    path = directory / "after" / STORE_FILE
    path.parent.mkdir()
    path.write_bytes(image)
    return path


def stands_at(path: Path, state: tuple[Position, bytes]) -> bool:
    """Transaction, digest and content are those of this state."""
    position, image = state
    other = path.with_name("other")
    other.write_bytes(image)
    return sealed_at(path) == position.chain and held_by(path) == held_by(other)


def sealed_at(path: Path) -> bytes | None:
    """The chain digest of the newest meta page's seal."""
    reader = PageReader(path)
    meta = reader.newest()
    chain = seal.decode(reader.page(meta.txnid & 1, meta), meta)
    reader.close()
    return chain


def test_a_flushed_transaction_counts(life: Life, tmp_path: Path) -> None:
    path = left_by_the_power(life, tmp_path, life.image())
    assert not seal.settle(path)
    assert stands_at(path, life.states[-1])


def test_a_transaction_without_its_seal_is_undone(life: Life, tmp_path: Path) -> None:
    life.commit(6)
    path = left_by_the_power(life, tmp_path, life.image())
    assert seal.settle(path)
    assert stands_at(path, life.states[-2])
    assert not seal.settle(path), "once is enough"


def test_every_page_of_a_sealed_transaction_that_is_missing_undoes_it(life: Life, tmp_path: Path) -> None:
    before = life.image()
    life.commit(6)
    life.store.flush()
    after = life.image()
    position = life.states[-1][0]
    for number, page in enumerate(life.written_by(position.txn)):
        image = bytearray(after)
        image[page * 4096 : (page + 1) * 4096] = before[page * 4096 : (page + 1) * 4096].ljust(4096, b"\0")
        (tmp_path / str(number)).mkdir()
        path = left_by_the_power(life, tmp_path / str(number), bytes(image))
        if image == after:
            continue  # the same bytes as before
        assert seal.settle(path), page
        assert stands_at(path, life.states[-2])


def test_a_file_that_lacks_its_new_end_is_that_of_the_transaction_before(life: Life, tmp_path: Path) -> None:
    life.commit(6)
    life.store.flush()
    last = max(life.written_by(life.states[-1][0].txn))
    path = left_by_the_power(life, tmp_path, life.image()[: last * 4096])
    assert seal.settle(path)


def test_a_torn_meta_page_of_a_newer_transaction_undoes_nothing(life: Life, tmp_path: Path) -> None:
    """The flush of the newest one was over, else its slot would not have been written to; whatever stands there now."""
    image = bytearray(life.image())
    at = life.meta_page(life.states[-1][0].txn + 1)
    image[at + 60 : at + 100] = bytes(40)
    path = left_by_the_power(life, tmp_path, bytes(image))
    assert not seal.settle(path)
    assert sealed_at(path) == life.states[-1][0].chain


def test_a_seal_of_another_time_is_none(life: Life, tmp_path: Path) -> None:
    """The seal of a newer transaction reached the disk, its meta page did not."""
    life.commit(6)
    life.store.flush()
    newer = life.image()
    position = life.states[-2][0]
    at = life.meta_page(position.txn + 1)
    image = bytearray(newer)
    image[at : at + SEAL_AT] = life.states[-2][1][at : at + SEAL_AT]
    path = left_by_the_power(life, tmp_path, bytes(image))
    assert not seal.settle(path)
    assert sealed_at(path) == position.chain


def test_a_clean_end_leaves_nothing_to_be_undone(life: Life, tmp_path: Path) -> None:
    """Damage of the newest transaction is then damage, and told as such."""
    position = life.states[-1][0]
    life.close()
    image = bytearray(life.image())
    page = life.written_by(position.txn)[0]
    image[page * 4096 + 4095] ^= 1
    path = left_by_the_power(life, tmp_path, bytes(image))
    assert not seal.settle(path)
    with pytest.raises(StoreDamaged, match=f"transaction {position.txn}"):
        seal.position(path, life.states[-2][0].chain, EPOCH)


def test_a_file_that_lmdb_did_not_write_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / STORE_FILE
    path.write_bytes(bytes(8192))
    with pytest.raises(StoreDamaged):
        seal.settle(path)
