"""What the README says can be pasted, runs."""

import re
from pathlib import Path

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_library_example_runs_as_written(capsys):
    section = README.split("## As a library")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert "Results after 2 epochs" in capsys.readouterr().out
    assert names["genotype"].space == names["config"].space


def test_every_file_that_the_readme_links_to_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).resolve().parent.parent / target).exists(), target
