"""A bank follows a folder, and nothing is lost that the folder did not put there or that is only out of sight."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memrecall_kv.bank import MemoryBank
from memrecall_kv.errors import InputError
from memrecall_kv.ingest.sync import SYNCED_FROM, Action, Change, FolderSync, SyncReport
from memrecall_kv.ingest.watch import Watcher
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import tiny_memory
from memrecall_kv.types import Document, IngestReport

TRAVEL, LUNCH, PARKING = "# Travel\n\nDana approves trips.\n", "Lunch is at noon.\n", "Guests park behind the house.\n"


@pytest.fixture(scope="module")
def memory() -> MemRecall:
    return tiny_memory()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "handbook"
    (made / "rules").mkdir(parents=True)
    (made / "travel.md").write_text(TRAVEL, encoding="utf-8")
    (made / "lunch.txt").write_text(LUNCH, encoding="utf-8")
    (made / "rules" / "parking.txt").write_text(PARKING, encoding="utf-8")
    return made


@pytest.fixture
def bank(memory: MemRecall, tmp_path: Path) -> Iterator[MemoryBank]:
    with memory.open_bank(tmp_path / "handbook.bank") as opened:
        yield opened


Run = Callable[..., SyncReport]


@pytest.fixture
def run(memory: MemRecall, bank: MemoryBank, folder: Path) -> Run:
    def call(place: Path = folder, **options: Any) -> SyncReport:
        sync = FolderSync(place, bank.path, **options)
        planned = sync.plan(bank)
        report = sync.run(bank, lambda documents: memory.ingest(bank, documents))
        assert [told(change) for change in planned.changes] == [told(change) for change in report.changes]
        return report

    return call


def told(change: Change) -> tuple[str, Action, str, int]:
    return change.id, change.action, change.reason, change.characters


def shown(report: SyncReport, action: Action) -> list[str]:
    return [change.id for change in report.changes if change.action is action]


def texts(bank: MemoryBank) -> dict[str, str]:
    return {document.id: document.text for document in bank.documents()}


def test_a_bank_becomes_what_the_folder_is_and_follows_it(run: Run, bank: MemoryBank, folder: Path) -> None:
    assert shown(run(), Action.ADD) == ["lunch.txt", "rules/parking.txt", "travel.md"]
    assert texts(bank) == {"lunch.txt": LUNCH, "rules/parking.txt": PARKING, "travel.md": TRAVEL}
    (folder / "lunch.txt").write_text("Lunch is at one.\n", encoding="utf-8")
    (folder / "rules" / "parking.txt").unlink()
    (folder / "holidays.md").write_text("Thirty days.\n", encoding="utf-8")
    report = run()
    assert {action: shown(report, action) for action in Action if shown(report, action)} == {
        Action.ADD: ["holidays.md"],
        Action.REPLACE: ["lunch.txt"],
        Action.SAME: ["travel.md"],
        Action.REMOVE: ["rules/parking.txt"],
    }
    assert texts(bank) == {"lunch.txt": "Lunch is at one.\n", "travel.md": TRAVEL, "holidays.md": "Thirty days.\n"}
    assert shown(run(), Action.SAME) == ["holidays.md", "lunch.txt", "travel.md"]


def test_a_plan_changes_nothing_and_needs_no_bank(bank: MemoryBank, folder: Path, tmp_path: Path) -> None:
    report = FolderSync(folder, tmp_path / "none.bank").plan(None)
    assert report.count(Action.ADD) == 3
    assert sum(change.characters for change in report.changes) == len(TRAVEL + LUNCH + PARKING)
    assert not (tmp_path / "none.bank").exists()
    FolderSync(folder, bank.path).plan(bank)
    assert bank.documents() == []


def test_a_renamed_file_costs_no_compression(run: Run, bank: MemoryBank, folder: Path) -> None:
    run()
    (folder / "rules" / "parking.txt").rename(folder / "guests.txt")
    report = run()
    assert shown(report, Action.ADD) == ["guests.txt"]
    (removed,) = [change for change in report.changes if change.action is Action.REMOVE]
    assert (removed.id, removed.reason) == ("rules/parking.txt", "renamed to guests.txt")
    assert (report.ingested.chunks_compressed, report.ingested.source_tokens) == (0, 0)
    assert bank.verify() == len(bank)


def test_all_files_may_be_renamed_at_once(run: Run, bank: MemoryBank, folder: Path) -> None:
    run()
    for name in ("travel.md", "lunch.txt", "rules/parking.txt"):
        (folder / name).rename(folder / f"new-{Path(name).name}")
    assert run().problems == []
    assert sorted(texts(bank)) == ["new-lunch.txt", "new-parking.txt", "new-travel.md"]


def test_documents_of_others_are_neither_removed_nor_replaced(
    run: Run, memory: MemRecall, bank: MemoryBank, folder: Path, tmp_path: Path
) -> None:
    others = [
        Document("note", "Somebody's note.", {"source": str(folder / "note")}),
        Document("travel.md", "Another travel.", {"source": "elsewhere/travel.md"}),
    ]
    memory.ingest(bank, others)
    second = tmp_path / "second"
    second.mkdir()
    (second / "lunch.txt").write_text("Another lunch.", encoding="utf-8")
    run(second)
    report = run()
    assert shown(report, Action.FAIL) == ["lunch.txt", "travel.md"]
    assert [str(second) in problem.message for problem in report.problems] == [True, False]
    assert texts(bank) == {
        "note": "Somebody's note.",
        "travel.md": "Another travel.",
        "lunch.txt": "Another lunch.",
        "rules/parking.txt": PARKING,
    }
    (folder / "rules" / "parking.txt").unlink()
    run()
    assert sorted(texts(bank)) == ["lunch.txt", "note", "travel.md"]


def test_who_copies_a_documents_metadata_makes_no_document_of_the_folder(
    run: Run, memory: MemRecall, bank: MemoryBank
) -> None:
    run()
    copied = bank.document("lunch.txt").metadata
    memory.ingest(bank, [Document("lunch.txt part 1", "Lunch is", copied)])
    assert shown(run(), Action.REMOVE) == []
    assert "lunch.txt part 1" in bank


def test_what_ingest_made_of_the_same_files_is_taken_over(
    run: Run, memory: MemRecall, bank: MemoryBank, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memrecall_kv.ingest import read_documents

    monkeypatch.chdir(folder.parent)
    memory.ingest(bank, read_documents(["handbook"]))
    (folder / "travel.md").write_text("Changed since.", encoding="utf-8")
    report = run()
    assert shown(report, Action.REPLACE) == ["lunch.txt", "rules/parking.txt"]
    assert report.ingested.chunks_compressed == 0
    # a relative path might be another one's: what differs is not taken for ours
    assert shown(report, Action.FAIL) == ["travel.md"]
    memory.ingest(bank, read_documents([folder]))
    assert shown(run(), Action.REPLACE) == ["lunch.txt", "rules/parking.txt", "travel.md"]


def test_an_empty_folder_removes_nothing_unless_asked(run: Run, bank: MemoryBank, folder: Path) -> None:
    run()
    for path in [*folder.rglob("*.md"), *folder.rglob("*.txt")]:
        path.unlink()
    report = run()
    assert (shown(report, Action.REMOVE), len(texts(bank))) == ([], 3)
    assert "--remove-all" in report.problems[0].hint
    (folder / "not-mounted.txt").write_text("The drive is not here.", encoding="utf-8")
    assert (shown(run(), Action.REMOVE), len(texts(bank))) == ([], 4)
    assert len(shown(run(remove_all=True), Action.REMOVE)) == 3
    assert list(texts(bank)) == ["not-mounted.txt"]


def test_the_only_file_may_be_replaced_by_another(run: Run, bank: MemoryBank, tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.mkdir()
    (single / "a.txt").write_text("One.", encoding="utf-8")
    run(single)
    (single / "a.txt").unlink()
    assert run(single).problems
    (single / "b.txt").write_text("Two.", encoding="utf-8")
    assert run(single).problems == []
    assert texts(bank) == {"b.txt": "Two."}


def test_a_folder_that_is_gone_removes_nothing_unless_asked(run: Run, bank: MemoryBank, folder: Path) -> None:
    run()
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(InputError, match="Its documents stay"):
        FolderSync(folder, bank.path)
    assert len(texts(bank)) == 3
    assert len(shown(run(remove_all=True), Action.REMOVE)) == 3
    assert texts(bank) == {}


def test_a_moved_folder_is_the_same_one_by_its_name(run: Run, bank: MemoryBank, folder: Path) -> None:
    run()
    moved = folder.rename(folder.with_name("elsewhere"))
    assert len(shown(run(moved), Action.FAIL)) == 3
    report = run(moved, name=str(folder))
    assert shown(report, Action.REPLACE) == ["lunch.txt", "rules/parking.txt", "travel.md"]
    assert report.ingested.source_tokens == 0
    (moved / "lunch.txt").unlink()
    assert shown(run(moved, name=str(folder)), Action.REMOVE) == ["lunch.txt"]


def test_a_file_that_cannot_be_read_keeps_its_document(run: Run, bank: MemoryBank, folder: Path) -> None:
    run()
    (folder / "lunch.txt").write_bytes(b"\0")
    (folder / "travel.md").unlink()
    (folder / "travel.md").symlink_to(folder / "nowhere")
    report = run()
    assert shown(report, Action.REMOVE) == []
    assert "lunch.txt" in shown(report, Action.FAIL)
    assert texts(bank) == {"lunch.txt": LUNCH, "rules/parking.txt": PARKING, "travel.md": TRAVEL}


@pytest.mark.skipif(os.name == "nt", reason="makes a loop of links")
def test_where_the_file_system_cannot_say_nothing_is_removed(run: Run, bank: MemoryBank, folder: Path) -> None:
    run()
    (folder / "rules").rename(folder.parent / "rules")
    (folder / "rules").symlink_to(folder / "rules")
    report = run()
    assert (shown(report, Action.KEEP), shown(report, Action.REMOVE)) == (["rules/parking.txt"], [])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads what nobody may read")
def test_files_below_an_unreadable_folder_keep_their_documents(run: Run, bank: MemoryBank, folder: Path) -> None:
    run()
    (folder / "rules").chmod(0)
    try:
        report = run()
    finally:
        (folder / "rules").chmod(0o755)
    assert shown(report, Action.KEEP) == ["rules/parking.txt"]
    assert report.problems
    assert "rules/parking.txt" in bank


def test_what_a_pattern_leaves_out_stays_in_the_bank(run: Run, bank: MemoryBank) -> None:
    run()
    report = run(exclude=["*.txt"])
    assert shown(report, Action.REMOVE) == []
    assert len(texts(bank)) == 3


def test_a_bank_inside_the_folder_is_no_part_of_it(memory: MemRecall, folder: Path) -> None:
    with memory.open_bank(folder / "inside.bank") as bank:
        sync = FolderSync(folder, bank.path)
        before = sync.look()
        report = sync.run(bank, lambda documents: memory.ingest(bank, documents))
        assert len(report.changes) == 3
        assert sync.look() == before


@pytest.mark.parametrize("swapped", [True, False])
def test_a_bank_is_no_folder_to_sync(bank: MemoryBank, folder: Path, swapped: bool) -> None:
    with pytest.raises(InputError, match="got a bank"):
        FolderSync(bank.path if swapped else folder, folder)
    with pytest.raises(InputError, match="got a file"):
        FolderSync(folder / "lunch.txt", bank.path)


def test_an_interrupted_sync_goes_on_where_it_stopped(
    memory: MemRecall, bank: MemoryBank, folder: Path, run: Run
) -> None:
    run()
    (folder / "lunch.txt").unlink()
    (folder / "new.txt").write_text("New.", encoding="utf-8")

    def interrupted(documents: Iterable[Document]) -> IngestReport:
        memory.ingest(bank, list(documents))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FolderSync(folder, bank.path).run(bank, interrupted)
    assert "lunch.txt" in bank
    report = run()
    assert (report.count(Action.SAME), shown(report, Action.REMOVE)) == (3, ["lunch.txt"])


def test_a_kept_sync_reads_only_files_that_changed(
    memory: MemRecall, bank: MemoryBank, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memrecall_kv.ingest import sync as module

    sync, read = FolderSync(folder, bank.path), []

    def counted(file: Any, **options: Any) -> Any:
        read.append(file.id)
        return original(file, **options)

    original = module.read_file
    monkeypatch.setattr(module, "read_file", counted)
    for name, text in (("lunch.txt", "One."), ("travel.md", "Two.")):
        sync.run(bank, lambda documents: memory.ingest(bank, documents))
        (folder / name).write_text(text, encoding="utf-8")
    bank.delete("rules/parking.txt")  # by hand: it is there again afterwards
    report = sync.run(bank, lambda documents: memory.ingest(bank, documents))
    assert read == ["lunch.txt", "rules/parking.txt", "travel.md", "lunch.txt", "rules/parking.txt", "travel.md"]
    assert report.count(Action.SAME) == 1
    assert bank.metadata("lunch.txt")[SYNCED_FROM] == {"folder": str(folder), "file": "lunch.txt"}


class Looks:
    """States to be seen one after the other; the last one for ever."""

    def __init__(self, *states: object) -> None:
        self.states, self.slept = list(states), 0

    def __call__(self) -> object:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def sleep(self, seconds: float) -> None:
        self.slept += 1


def test_a_change_counts_when_the_folder_is_quiet() -> None:
    looks = Looks(1, 1, 2, 3, 4, 4, 4)
    Watcher(looks, 1.0, looks.sleep).wait()
    assert looks.slept == 5


def test_a_folder_that_never_rests_is_synced_all_the_same() -> None:
    looks = Looks(*range(1000))
    Watcher(looks, 1.0, looks.sleep).wait()
    assert looks.slept < 30


def test_what_came_to_nothing_is_tried_again() -> None:
    looks = Looks(1)
    watcher = Watcher(looks, 1.0, looks.sleep)
    watcher.forget()
    watcher.wait()
    assert looks.slept == 2
