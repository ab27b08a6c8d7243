"""Commands name scripts and flags that exist; tutorials and the notebook run as written; the site builds strictly."""

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.snippets import DOCUMENTS, ROOT, cells, commands, fences

PRODUCT = {path.name for path in ROOT.glob("*.py")}
ABSL = {"help", "helpfull"}
TUTORIALS = ("tutorial_images.md", "tutorial_model.md")
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
# A page that shows Python is run by a test: the tutorials here, the README and what goes on from it by test_readme.py.
EXECUTED = {"README.md", "sparse.md", "trackers.md", *TUTORIALS}


@functools.cache
def flags_of(script: str) -> set[str]:
    """The flags of a script: of the product's what `--helpfull` lists, of others what their source defines."""
    if script in PRODUCT:
        command = [sys.executable, script, "--helpfull"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found = set(re.findall(r"^\s+--(\w+):", done.stdout, re.MULTILINE))
        return found | {f"no{name}" for name in found} | ABSL
    text = (ROOT / script).read_text(encoding="utf-8")
    if "\nimport turns\n" in text:  # which defines the flags that benchmarks share
        text += (ROOT / "benchmarks" / "turns.py").read_text(encoding="utf-8")
    if script == "benchmarks/study.py":  # whose further flags are those of pipeline.py
        return flags_of("pipeline.py")
    return set(re.findall(r"""["'](?:--)?(\w+)["']""", text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_names_what_there_is(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for words in commands(document.read_text(encoding="utf-8")):
        line = " ".join(words)
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        elif words[:2] == ["pip", "install"]:
            assert all(extra in extras for word in words[2:] for extra in re.findall(r"\w+", word)), line
        elif words[0] in (".", "tensorboard") or words[:2] == ["docker", "build"]:
            continue  # the environment's activation; programs of others, and test_installation.py reads the Dockerfile
        else:
            words = [re.sub(r"^nhn-(\w+)$", r"\1.py", word) for word in words]
            script = next((word for word in words if word.endswith(".py")), None)
            if script is None and words[:2] == ["docker", "run"]:  # what the image does by itself
                continue
            assert script is not None, line
            assert (ROOT / script).is_file(), line
            given = {re.split("=", word[2:])[0] for word in words[words.index(script) + 1 :] if word.startswith("--")}
            assert given <= flags_of(script), (line, given - flags_of(script))


def test_python_in_documents_is_run_by_tests():
    shown = {path.name for path in DOCUMENTS if fences(path.read_text(encoding="utf-8"), "python")}
    assert shown == EXECUTED


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_links_to_exists(document):
    for target in re.findall(r"\]\(([^)#:]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_every_page_stands_in_the_sites_navigation():
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in DOCUMENTS[1:]]
    assert sorted(listed) == sorted(["index.md", *pages])


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs_as_written(name, tmp_path, monkeypatch, capsys):
    if name == "tutorial_model.md":
        pytest.importorskip("llvmlite")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: dict = {}
    for language, block in fences((ROOT / "docs" / name).read_text(encoding="utf-8"), "python", "sh"):
        if language == "python":
            exec(compile(block, name, "exec"), names)
            continue
        for words in commands(f"```sh\n{block}```\n"):
            if words[0] == "python":
                command = [sys.executable, str(ROOT / words[1]), *words[2:]]
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
                assert done.returncode == 0, done.stderr[-2000:]
    if name == "tutorial_model.md":
        before, after = map(float, re.search(r"([\d.]+)% before, ([\d.]+)% pruned", capsys.readouterr().out).groups())
        assert before >= 95 and after >= 90
        assert Path("small.keras").exists() and Path("small.nhn").exists()
    else:
        assert Path("runs/photos/report/report.html").exists() and Path("runs/photos/export/network.keras").exists()


def test_the_notebook_is_kept_without_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(NOTEBOOK))


@pytest.mark.slow
def test_the_notebook_runs_cell_by_cell(tmp_path):
    """In a process of its own; the last expression of a cell is shown, as Jupyter does."""
    program = ["results = []"]
    for cell in cells(NOTEBOOK):
        body = ast.parse(cell["source"]).body
        if isinstance(body[-1], ast.Expr):
            body[-1] = ast.parse(f"results.append({ast.unparse(body[-1])})").body[0]
        program += [ast.unparse(statement) for statement in body]
    program.append("print(results[0], results[2].size, f'{accuracy(pruned):.3f}', small.count_params())")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", "\n".join(program)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "The whole report: runs/quickstart/report/report.html" in done.stdout
    assert float(done.stdout.split()[-2]) >= 0.9


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_holds_every_page_and_public_name(tmp_path):
    mkdocs = ROOT / ".venv-docs" / "bin" / "mkdocs"
    if not mkdocs.exists():
        pytest.skip("needs `make docs`, which makes .venv-docs")
    site = tmp_path / "site"
    command = [mkdocs, "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in DOCUMENTS[1:]:
        assert site.joinpath(page.relative_to(ROOT / "docs")).with_suffix(".html").exists()
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    for path, text in pages.items():
        assert not re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//""", text), path
        for link in re.findall(r"""(?:src|href)="([^"#:]+)(?:#[^"]*)?\"""", text):
            assert link.startswith("/") or (path.parent / link).exists(), (path, link)
    for room in ("data", "export", "pruning", "search", "settings", "sparse"):
        source = (ROOT / "nhn_tf" / room / "__init__.py").read_text(encoding="utf-8")
        public = ast.literal_eval(re.search(r"__all__ = (\[.*?\])", source, re.DOTALL)[1])
        shown = {
            name.rsplit(".", 1)[-1] for name in re.findall(r'id="(nhn_tf[^"]*)"', pages[site / "api" / f"{room}.html"])
        }
        assert set(public) <= shown
