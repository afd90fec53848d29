"""A command that is refused: one line of error, nothing changed on disk."""

from pathlib import Path

from experiments.run import main

SHORT = ["--selective-epochs=1", "--mixed-epochs=1", "--steps-per-epoch=1", "--run-dir=run"]
"""If a command is taken nevertheless, it does not take long."""


def listing(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of everything below a folder."""
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def assert_refused(arguments, capsys, *texts: str) -> None:
    """The command, run in the working directory, ends in one line that holds the texts."""
    before = listing(Path.cwd())
    try:
        status = main([*arguments, *SHORT])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    assert status in (1, 2), captured.out
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    assert len(captured.err) < 1000
    assert all(text in captured.err for text in texts), (texts, captured.err)
    assert not captured.out
    assert listing(Path.cwd()) == before
