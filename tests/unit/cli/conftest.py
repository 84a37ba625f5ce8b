import pytest
from cli_samples import Loader
from memrecall_kv.cli import main


@pytest.fixture
def run(capsys):
    def call(*arguments, load=None):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments], load or Loader())
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def handbook(tmp_path):
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "travel.md").write_text("# Travel\n\nDana approves trips.\n", encoding="utf-8")
    (folder / "lunch.txt").write_text("Lunch is at noon.\n", encoding="utf-8")
    return folder


@pytest.fixture
def bank(tmp_path, handbook, run):
    path = tmp_path / "handbook.bank"
    code, _, err = run("ingest", path, handbook)
    assert (code, err) == (0, "") or "compressing" in err
    return path
