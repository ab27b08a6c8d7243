"""What the README says can be pasted, runs."""

import re
import shutil
from pathlib import Path

from PIL import Image

from nhn_tf.export import write_exports

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


def test_the_example_of_an_exported_network_runs_as_written(smoke_run, tmp_path, monkeypatch, capsys):
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Preprocessing" in block)
    shutil.copytree(smoke_run.path, tmp_path / "runs" / "photos")
    write_exports(tmp_path / "runs" / "photos", ["keras"])
    Image.new("RGB", (60, 40), "red").save(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] in map(str, range(10))
