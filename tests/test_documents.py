"""README and docs: every command and every line of Python in them runs, every link leads somewhere."""

import gzip
import re
import shlex
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from cli import main, vision
from docs import generate
from tests.command_line import CommandLine
from tests.documents import PAGES, README, ROOT, Block, anchors, blocks, links, name
from tests.serving import Server, serving
from tests.test_cifar import in_folder, small_batches, write_archive

PROGRAMS = {"ppt-ncf": CommandLine(main), "ppt-vision": CommandLine(vision)}
INSTALLS = ("make demo", "make test", "python3 -m venv ", "pip install ")
RUNNABLE = [page for page in PAGES if page != README and blocks(page, "sh", "python")]


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150


def write_inputs(folder: Path) -> None:
    """What the pages take as given: ratings of users 1 to 60 of 1,100 items, of user 99, lists and images."""
    head = "userId,movieId,rating,timestamp"
    lines = [head]
    for user in range(60):
        lines += [f"{user + 1},{(user * 29 + place * 7) % 1100 + 1},5,{place}" for place in range(30)]
    (folder / "ratings.csv").write_text("\n".join(lines))
    (folder / "ratings.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    people = [head, *(f"99,{3 + place},5,{place}" for place in range(5))]
    (folder / "new-people.csv").write_text("\n".join(people))
    tables = {
        "users": "user_id 1 42",
        "stock": "item_id 8 50 51",
        "sold-out": "item_id 51",
        "pairs": "user_id,item_id 1,50",
    }
    for each, rows in (tables | {"titles": "item_id,title 50,Nostalgia"}).items():
        (folder / f"{each}.csv").write_text("\n".join(rows.split()))
    (folder / "reference").mkdir()
    users = range(30)
    for each, lines in {
        "train-ratings": [f"{user}\t{item}\t1" for user in users for item in range(user, user + 20)],
        "test-ratings": [f"{user}\t{user + 20}\t1" for user in users],
        "test-negative": ["\t".join(str(60 + item) for item in range(40)) for user in users],
    }.items():
        (folder / "reference" / f"{each}.csv").write_text("\n".join(lines) + "\n")
    write_archive(folder / "cifar-10-python.tar.gz", in_folder(small_batches()))


def shortened(program: str, arguments: list[str]) -> list[str]:
    """The same command without the download, and with less training."""
    network = ["--batch-size", "8"] if program == "ppt-vision" else ["--factors", "4", "--layers", "8,8,8,4"]
    match arguments[:2]:
        case ["prepare", "ml-1m" | "ml-20m"]:
            return [*arguments, "--source", "ratings.csv"]
        case ["train", *_]:
            return [*arguments, "--iterations", "4" if program == "ppt-ncf" else "2"]
        case ["study", "target"]:
            return [*arguments, *network]
        case ["study", "run"]:
            place = arguments.index("--") if "--" in arguments else len(arguments)
            sizes = ["--budgets", "1", "--trials", "1", "--threads", "1"]
            return [*arguments[:place], *sizes, "--", *arguments[place + 1 :], *network]
        case _:
            return arguments


def run(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Run a block in the working directory; Python shares its names with the page's blocks above."""
    if block.language == "python":
        padding = "\n" * (block.line - 1)
        exec(compile(padding + block.text, name(page), "exec"), names)
        return
    with ExitStack() as servers:
        run_commands(page, block, servers)


def run_commands(page: Path, block: Block, servers: ExitStack) -> None:
    """Run the lines of a block; a server that one of them starts is real, and ends with ``servers``."""
    server: Server | None = None
    for line in block.text.replace("\\\n", "").splitlines():
        if line.startswith(INSTALLS) or not line.strip():
            continue
        program, *arguments = shlex.split(line, comments=True)
        if arguments[0] == "serve":
            server = servers.enter_context(serving(*arguments[1:]))
            continue
        if program == "curl":
            assert server is not None, line
            answer = server.ask(*in_parts(arguments))
            assert answer.status == 200, (name(page), line, answer.body)
            continue
        done = PROGRAMS[program].call(*shortened(program, arguments))
        assert done.exit_code == 0, (name(page), line, done.stderr, done.exception)
        assert done.stdout, line


def in_parts(arguments: list[str]) -> tuple[str, bytes | None]:
    """The path and the body of a call of curl; it must be to where `ppt-ncf serve` listens."""
    address, *more = arguments
    assert address.startswith("http://127.0.0.1:8080/")
    assert not more or more[0] == "-d"
    return address.removeprefix("http://127.0.0.1:8080"), more[1].encode() if more else None


@pytest.fixture(scope="module")
def after_the_readme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything in the README was typed, from top to bottom."""
    folder = tmp_path_factory.mktemp("readme")
    write_inputs(folder)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks(README, "sh", "python"):
            run(README, block, names)
    return folder


def test_the_readme_runs(after_the_readme: Path) -> None:
    assert (after_the_readme / "network.packed").exists()
    targets = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in targets
    assert "\ntest:" in targets


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_a_page_runs(page: Path, after_the_readme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, behind the README."""
    shutil.copytree(after_the_readme, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    names: dict[str, Any] = {}
    for block in blocks(page, "sh", "python"):
        run(page, block, names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{name(page)} links to {link}"
        assert not anchor or anchor in anchors(found), f"{name(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_figure_differs_from_the_results(page: Path) -> None:
    text = page.read_text("utf-8")
    assert tables.filled(text) == text, "run `python -m benchmarks.tables`"


def test_a_figure_that_differs_is_seen() -> None:
    assert "1.09 to 1.38" not in tables.filled("<!-- result: range-of-speed-ups -->1.09 to 1.38<!-- end -->")
    with pytest.raises(KeyError, match="no-such"):
        tables.filled("<!-- result: no-such --><!-- end -->")


def test_options_where_the_paper_is_silent_exist() -> None:
    text = (ROOT / "docs" / "method.md").read_text("utf-8")
    section = text.partition("## Where the paper is silent")[2].partition("\n## ")[0]
    commands = [group.commands[name] for group in (main, vision) for name in ("prepare", "train")]
    commands.append(main.commands["study"].commands["run"])  # type: ignore[attr-defined]
    options = {flag for command in commands for each in command.params for flag in [*each.opts, *each.secondary_opts]}
    named = set(re.findall(r"`(--[\w-]+)", section))
    assert len(named) > 12
    assert named <= options


def test_every_table_is_quoted() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    for each in tables.TABLES:
        assert f"<!-- result: {each} -->" in text, each


@pytest.mark.parametrize("page", generate.PAGES)
def test_generated_pages_are_up_to_date(page: str) -> None:
    assert (ROOT / "docs" / page).read_text("utf-8") == generate.PAGES[page](), "run `python -m docs.generate`"


def test_every_page_is_in_the_site_and_in_the_index() -> None:
    site, index = (ROOT / "mkdocs.yml").read_text(), (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in site, page.name
        assert page.name == "index.md" or f"]({page.name})" in index, page.name


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    assert "figure1.svg" in (tmp_path / "site" / "results" / "index.html").read_text("utf-8")
