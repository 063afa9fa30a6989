"""What the documents say is held against the code: commands, options, links, files, examples."""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hpo.cli import COMMANDS, main
from search_spaces import load_space

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)  # type: ignore[attr-defined]
    assert isinstance(found, click.Command), f"there is no command {name}"
    return found


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each code block: fenced, or indented by four blanks after an empty line."""
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    yield from ((match[1] or "text", match[2]) for match in fenced.finditer(text))
    rest = fenced.sub("", text)
    for paragraph in re.split(r"\n\s*\n", rest):
        lines = paragraph.strip("\n").splitlines()
        if lines and all(line.startswith("    ") for line in lines) and not lines[0].lstrip().startswith(("- ", "* ")):
            yield "sh", "".join(f"{line[4:]}\n" for line in lines)


def lines_of_blocks(text: str) -> Iterator[str]:
    """Yield every line of the code blocks of a shell, continued ones joined, without its comment."""
    for language, content in blocks(text):
        if language in ("sh", "text", "bash", "console"):
            for line in content.replace("\\\n", " ").splitlines():
                yield re.split(r"(^|\s)#\s", line)[0].strip()


def spans(text: str) -> Iterator[str]:
    """Yield every inline code that is not within a block."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from (" ".join(span.split()).replace("\\|", "|") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", outside))


def called(text: str) -> Iterator[list[str]]:
    """Yield every `hpo …` that stands there to be given, in a block or in a sentence, as words after `hpo`.

    In a sentence a command alone is only mentioned, and one with `…` is not whole; nor are those that a row of a table
    or of a list is about.
    """
    for line in lines_of_blocks(text):
        if line.startswith("hpo "):
            yield words_of(line)
    sentences = "\n".join(line for line in text.splitlines() if not line.startswith(("| `hpo", "- `hpo")))
    for span in spans(sentences):
        if span.startswith("hpo ") and len(span.split()) > 2 and "…" not in span and "[" not in span:
            yield words_of(span)


def words_of(line: str) -> list[str]:
    """Return the words after `hpo`, up to a pipe."""
    return shlex.split(re.split(r"\s[|<>]\s", line)[0])[1:]


def blocks_of(language: str) -> list[tuple[str, str]]:
    """Document and content of every block of a language in README and the guides; at least one."""
    found = [
        (document.name, content)
        for document in DOCUMENTS
        for written, content in blocks(document.read_text(encoding="utf-8"))
        if written == language
    ]
    assert found
    return found


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_every_guide_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in (ROOT / "docs").glob("*.md") if f"](docs/{path.name})" not in readme]


def test_every_command_is_in_the_guide() -> None:
    guide = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `hpo ([a-z-]+)", guide, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_call_is_one_that_the_command_line_takes(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    calls = list(called(text))
    assert len(calls) >= (8 if document.name == "README.md" else 0)
    for name, *arguments in calls:
        try:
            command(name).make_context(name, list(arguments), resilient_parsing=False)
        except click.UsageError as error:
            pytest.fail(f"{document.name}: hpo {name} {' '.join(arguments)}: {error.format_message()}")
    for span in spans(text):
        if match := re.match(r"hpo ([a-z][a-z-]*)", span):
            command(match[1])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_benchmark_and_script_takes_the_arguments_that_are_written(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program parses them, and is ended then."""
    text = document.read_text(encoding="utf-8")
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, *given: Any) -> None:
        parse(parser, *given)
        raise SystemExit("parsed")

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    for words in map(str.split, [*lines_of_blocks(text), *spans(text)]):
        if words[:1] != ["python"] or len(words) < 2 or words[1] == "-c":
            continue
        module = words[2] if words[1] == "-m" else words[1].removesuffix(".py").replace("/", ".")
        rest = words[3:] if words[1] == "-m" else words[2:]
        monkeypatch.setattr(sys, "argv", [module, *rest])
        with pytest.raises(SystemExit, match="parsed"):
            runpy.run_module(module, run_name="__main__")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_of_make_is_there(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = document.read_text(encoding="utf-8")
    for line in [*lines_of_blocks(text), *spans(text)]:
        if match := re.match(r"make ([a-z][a-z-]*)", line):
            assert re.search(rf"^{match[1]}:", makefile, re.MULTILINE), f"{document.name}: make {match[1]}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_the_documents_can_be_compiled_and_imports_what_is_there(document: Path) -> None:
    for language, content in blocks(document.read_text(encoding="utf-8")):
        if language == "python":
            tree = ast.parse(content)
            imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            names: dict[str, object] = {}
            exec(compile(ast.Module(imports, []), document.name, "exec"), names)
            assert {
                alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names
            } <= names.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_anchors_are_headings(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", document.read_text(encoding="utf-8")):
        place, _, anchor = target.partition("#")
        if not target.startswith("http"):
            text = ((document.parent / place) if place else document).read_text(encoding="utf-8")
            assert anchor in {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}, target


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself_and_each_of_its_options(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    explained = command(name)
    assert explained.help
    assert all(option.help for option in explained.params if isinstance(option, click.Option))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_are_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize(("document", "content"), blocks_of("yaml"))
def test_every_space_in_the_documents_can_be_loaded(document: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    assert load_space(str(file)).open, document


def test_the_space_of_the_guide_says_what_it_means(tmp_path: Path) -> None:
    content = next(content for document, content in blocks_of("yaml") if document == "spaces.md")
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    space = load_space(str(file))
    assert space.fixed["backbone"] == "convnext_tiny"
    assert {"optimiser", "learning_rate", "unfreeze_depth"} <= set(space.open)
    assert space.enqueue_points()[0]["learning_rate[adamw]"] == 1e-3


@pytest.mark.parametrize(("document", "content"), blocks_of("toml"))
def test_the_settings_in_the_documents_are_options(
    document: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpo.cli.config_file import default_map

    (tmp_path / "hpo.toml").write_text(content)
    monkeypatch.chdir(tmp_path)
    values = default_map(main, click.Context(main))  # type: ignore[arg-type]
    assert values["run"]["fixed"] == ["epochs=8", "image_size=128"], document
    assert values["status"]["study"] == "cells"
    assert tomllib.loads(content)["run"]["space"] == "standard"
